"""An interrupted run, damaged in any way, is resumed or refused; and the caches of measurements and experiments."""

import json

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fuzzing import JSON, Planned, accepts, command, edited, edits, examples
from hmc_fast import sample
from hmc_fast.engine import runner
from hmc_fast.engine.execution import Choice, _measured
from hmc_fast.experiments.run_cache import Lab
from hmc_fast.experiments.settings import ExperimentSettings
from interruption import interrupt_at

TINY = (
    "--train-size 40 --chains 2 --burn-in 2 --draws 6 --trajectory-length 0.04 --device cpu --no-progress "
    "--checkpoint-seconds 0.001 --compile off"
)
FILES = (
    "config.json", "checkpoint/state.safetensors", "checkpoint/previous.safetensors", "checkpoint/draws.npy",
    "checkpoint/trace.npy", "checkpoint/function_values.npy", "checkpoint/curve.npy",
)  # fmt: skip


def stop(*_, **__):
    raise Planned


@pytest.fixture
def interrupted(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(runner, "choose", lambda target, *_, **__: Choice(target.prepared(path="eager"), ()))
        interrupt_at(patch, 5)
        assert sample.main([*TINY.split(), "--out", str(tmp_path / "run")]) == 130
    monkeypatch.setattr(runner.Loop, "run", stop)  # resumption itself is tested elsewhere
    return tmp_path / "run"


def test_resume(number, interrupted):
    usual = {name: (interrupted / name).read_bytes() for name in FILES}
    settings = json.loads(usual["config.json"])

    @examples(2 * number)
    @given(st.sampled_from(FILES), edits, st.lists(st.tuples(st.sampled_from(sorted(settings)), JSON), max_size=2))
    @example("config.json", [], [("chains", "x")])
    @example("config.json", [], [("sampler", [])])
    @example("config.json", [], [("step_size", 10**400)])
    @example("config.json", [], [("chains", 2**31)])
    @example("config.json", [], [("data_dir", None)])
    def holds(name, damage, changes):
        for other, content in usual.items():
            (interrupted / other).write_bytes(content)
        config = json.dumps(settings | dict(changes)).encode()
        (interrupted / "config.json").write_bytes(config)
        (interrupted / name).write_bytes(edited((interrupted / name).read_bytes(), damage))
        argv = ["--resume", "--out", interrupted.name, "--no-progress", "--device", "cpu"]
        command("resume", sample.main, argv, interrupted.parent)

    holds()


def test_measurements(number, tmp_path):
    path = tmp_path / "measured.json"

    @examples(10 * number)
    @given(JSON, edits)
    def holds(content, damage):
        path.write_bytes(edited(json.dumps(content).encode(), damage))
        for times in accepts("measured.json", _measured, path).values():
            assert all(seconds > 0 for seconds in times.values())

    holds()


def test_cache_of_experiments(number, tmp_path):
    tiny = {"chains": 2, "burn_in": 2, "draws": 5, "step_size": 0.05, "trajectory_length": 0.1, "train_size": 40}
    tiny |= {"test_size": 20, "device": "cpu", "compile": "off", "progress": False}
    lab = Lab("digits", ExperimentSettings(cache=tmp_path, **tiny))
    (made,) = lab.obtain([lab.hmc()])
    probs = np.array(made.probs)
    names = ("metrics.json", "draws.npy", "passes.npy", "test_probs-20.npy")
    usual = {name: (made.directory / name).read_bytes() for name in names}
    figures = json.loads(usual["metrics.json"])

    @examples(2 * number)
    @given(st.sampled_from(names), edits, st.lists(st.tuples(st.sampled_from(sorted(figures)), JSON), max_size=2))
    @example("metrics.json", [], [("seconds", None)])
    @example("passes.npy", [("remove", 0.5, 7)], [])
    def holds(name, damage, changes):
        for other, content in usual.items():
            (made.directory / other).write_bytes(content)
        (made.directory / "metrics.json").write_bytes(json.dumps(figures | dict(changes)).encode())
        (made.directory / name).write_bytes(edited((made.directory / name).read_bytes(), damage))
        found = accepts("cache of experiments", lab.obtain, [lab.hmc()])
        if found is not None:
            again = accepts("cache of experiments", lambda: found[0].probs)
            assert again.shape == probs.shape

    holds()
