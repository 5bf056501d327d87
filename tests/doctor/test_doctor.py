"""`python -m hmc_fast.doctor`: right on this machine, and wrong with a name where something is."""

import json

import pytest
import torch

from hmc_fast.doctor import __main__ as doctor
from hmc_fast.doctor import chains
from hmc_fast.doctor.findings import NotHere, Result, find
from hmc_fast.kernels import reference


@pytest.fixture
def quick(monkeypatch):
    """Without compilation, which takes half a minute."""
    plain = chains.compiled
    monkeypatch.setattr(
        chains, "compiled", lambda path: plain(path) if path == "traced" else Result("not here", "left out")
    )


def verdicts(file):
    return {check["name"]: check["verdict"] for check in json.loads(file.read_text())["checks"]}


def test_nothing_is_wrong_here(quick, tmp_path, capsys):
    file = tmp_path / "found.json"
    assert doctor.main(["--device", "cpu", "--json", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "nothing is wrong" in shown
    assert f"torch {torch.__version__}" in shown
    found = verdicts(file)
    assert found["philox"] == found["traced chains"] == found["resumed chains"] == "ok"
    assert found["compiled chains"] == "not here"
    assert all(f"\n{name} " in shown for name in found)


@pytest.mark.slow
def test_compiled_chains_are_right_and_all_takes_less_than_a_minute(tmp_path):
    file = tmp_path / "found.json"
    assert doctor.main(["--device", "cpu", "--json", str(file)]) == 0
    assert set(verdicts(file).values()) == {"ok"}
    assert sum(check["seconds"] for check in json.loads(file.read_text())["checks"]) < 60


def test_a_defect_in_a_twin_is_named_with_status_1(quick, monkeypatch, tmp_path, capsys):
    plain = reference.kinetic_energy
    monkeypatch.setattr(reference, "kinetic_energy", lambda *args, **options: plain(*args, **options) * 1.001)
    file = tmp_path / "found.json"
    assert doctor.main(["--device", "cpu", "--json", str(file)]) == 1
    assert verdicts(file)["kinetic_energy"] == "FAILED"
    assert verdicts(file)["kick_drift"] == "ok"
    assert "\nFAILED: refresh_momentum, kinetic_energy (" in capsys.readouterr().out


def test_a_defect_in_philox_is_named_first(quick, monkeypatch, capsys):
    monkeypatch.setattr(reference, "_ROUND_A", reference._ROUND_A + 2)
    assert doctor.main(["--device", "cpu"]) == 1
    assert "\nFAILED: philox, " in capsys.readouterr().out


def test_a_chain_that_does_not_resume_is_named(monkeypatch):
    monkeypatch.setattr(chains, "restore", lambda state, tensors: None)
    verdict, detail = chains.resumed(torch.device("cpu"), False)
    assert verdict == "FAILED"
    assert detail.startswith("HMC, resumed beside unbroken: off by")


def test_a_path_that_computes_something_else_is_named(monkeypatch):
    plain = chains._chain
    monkeypatch.setattr(
        chains, "_chain", lambda *args, path="eager", **options: plain(*args, **options) + (path != "eager") / 100
    )
    assert chains.compiled("traced").verdict == "FAILED"


def test_without_compilers_the_paths_are_not_here(monkeypatch):
    monkeypatch.setenv("CC", "none")
    monkeypatch.setattr(chains, "find_cpp_compiler", lambda: None)
    for path, word in (("loop", "C compiler"), ("compiled", "C++ compiler")):
        finding = find(path, lambda path=path: chains.compiled(path))
        assert finding.verdict == "not here"
        assert word in finding.detail


def test_an_exception_in_a_check_is_a_failure():
    def broken():
        raise RuntimeError("libcuda is broken\nand more")

    def missing():
        raise NotHere("no such thing")

    finding = find("a", broken)
    assert (finding.verdict, finding.detail) == ("FAILED", "RuntimeError: libcuda is broken")
    assert find("b", missing).verdict == "not here"


def test_a_file_that_cannot_be_written_is_told_at_once(tmp_path, capsys):
    assert doctor.main(["--device", "cpu", "--json", str(tmp_path / "nowhere" / "found.json")]) == 2
    out, err = capsys.readouterr()
    assert "nowhere is not a directory" in err
    assert out == ""


def test_a_device_that_is_not_there(capsys):
    assert doctor.main(["--device", "cuda:7"]) == 2
    assert "cuda:7" in capsys.readouterr().err


@pytest.mark.gpu
def test_nothing_is_wrong_on_a_gpu(tmp_path):
    file = tmp_path / "found.json"
    assert doctor.main(["--device", "cuda", "--json", str(file)]) == 0
    assert {"kick_drift kernel", "captured chains", "busy share of a trajectory"} <= set(verdicts(file))
