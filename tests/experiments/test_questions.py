"""Every question asked once at a tiny size, and bad input."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import hmc_fast.experiments.questions.shift as shift
from hmc_fast.datasets import Dataset
from hmc_fast.errors import UserError
from hmc_fast.experiments.__main__ import NAMES, main
from hmc_fast.experiments.page import scores
from hmc_fast.experiments.questions.baselines import _within
from hmc_fast.experiments.questions.surface import Plane, _evaluate
from hmc_fast.experiments.run_cache import Lab
from hmc_fast.experiments.settings import ExperimentSettings

TINY = [
    *("--chains", "3", "--burn-in", "2", "--draws", "12", "--long-draws", "12"),
    *("--step-size", "0.05", "--trajectory-length", "0.1"),
    *(
        "--seeds",
        "2",
        "--train-size",
        "150",
        "--test-size",
        "90",
        "--epochs",
        "4",
        "--sampler-epochs",
        "4",
        "--members",
        "2",
    ),
    *("--device", "cpu", "--compile", "off", "--no-progress"),
]
# What every answer draws and tabulates.
FILES = {
    "chains": {"chains.png", "chains.csv"},
    "budget": {"heatmaps.png", "curves.png", "budget.csv"},
    "surface": {"one_chain.png", "three_chains.png", "surface.csv"},
    "rhat": {"rhat.png", "rhat.csv"},
    "fidelity": {"fidelity.png", "fidelity.csv"},
    "priors": {"priors.png", "priors.csv"},
    "temperature": {"temperature.png", "temperature.csv"},
    "shift": {"shift.png", "examples.png", "shift.csv", "intensity.csv", "ood.csv"},
    "baselines": {"baselines.png", "baselines.csv"},
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def clothes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise in place of Fashion-MNIST, which may not be there."""
    x, y = torch.rand(40, 1, 28, 28), torch.arange(40) % 10
    monkeypatch.setattr(shift, "load", lambda *_: Dataset("fashion-mnist", x, y, x, y, "classification", 10))


@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # laplace-torch, where it is installed
@pytest.mark.usefixtures("clothes")
@pytest.mark.parametrize(
    "name", [n if n in ("chains", "priors") else pytest.param(n, marks=pytest.mark.slow) for n in NAMES]
)
def test_an_answer_is_a_page_with_tables_and_figures(name: str, cache: Path, tmp_path: Path) -> None:
    assert main([name, "digits", *TINY, "--cache", str(cache), "--out", str(tmp_path / "out")]) == 0
    found = {path.name for path in (tmp_path / "out").iterdir()}
    assert found == FILES[name] | {"index.html", "results.md", "settings.json"}
    page = (tmp_path / "out/index.html").read_text()
    assert page.count("base64,") >= sum(file.endswith(".png") for file in FILES[name])
    assert 'src="http' not in page, "the page needs no network"
    if name == "surface":
        assert page.count("Plotly.newPlot") >= 2, "a 3-D version of each surface"
    markdown = (tmp_path / "out/results.md").read_text()
    assert any(word in markdown for word in ("**Supported**", "**Not supported**"))
    assert f"python -m hmc_fast.experiments {name} digits" in markdown
    for file in FILES[name]:
        if file.endswith(".csv"):
            assert len(pd.read_csv(tmp_path / "out" / file)) > 1


def settings(cache: Path, **changes: object) -> ExperimentSettings:
    tiny = {"chains": 2, "burn_in": 2, "draws": 5, "step_size": 0.05, "trajectory_length": 0.1, "train_size": 100}
    tiny |= {"test_size": 50, "device": "cpu", "compile": "off", "progress": False}
    return ExperimentSettings(cache=cache, **(tiny | changes))


def test_scores_at_equal_compute_take_the_draws_that_were_paid_for(tmp_path: Path) -> None:
    lab = Lab("digits", settings(tmp_path))
    (sample,) = lab.obtain([lab.hmc()])  # 100 examples; 12, 16, 20, 24, 28 passes
    found = _within(sample, 2099, lab.labels)
    expected = scores(sample.probs[:3].mean((0, 1), dtype=np.float64), lab.labels)
    assert found == {"accuracy at equal compute": expected["accuracy"], "nll at equal compute": expected["nll"]}
    assert np.isnan(_within(sample, 1199, lab.labels)["accuracy at equal compute"])


@pytest.mark.slow
def test_chains_that_hardly_move_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At a step size far too large next to nothing is accepted, and no claim may stand on that without a word."""
    flags = [*TINY, "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]
    assert main(["rhat", "digits", *flags, "--step-size", "0.5", "--trajectory-length", "2"]) == 2
    assert "no chain moved at --step-size 0.5" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(["priors", "digits", *flags, "--step-size", "0.5", "--trajectory-length", "2"]) == 0
    told = (tmp_path / "out/results.md").read_text()
    assert "Chains that hardly moved" in told
    assert "HMC, acceptance 0.00" in told
    assert main(["priors", "digits", *flags]) == 0
    assert "HMC, acceptance" not in (tmp_path / "out/results.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name an experiment"),
        (["surfaces"], "did you mean surface?"),
        (["rhat", "uci-yacht"], "unknown preset 'uci-yacht'"),
        (["rhat", "--drawz", "3"], "did you mean --draws?"),
        (["chains", "--chains", "2"], "--chains 2 is too few"),
        (["chains", "--draws", "40"], "--draws 40 is too few: split over 3 chains"),
        (["surface", "--chains", "2"], "one draw from each of 3 chains"),
        (["surface", "--draws", "2"], "--draws 2 is too few"),
        (["rhat", "--chains", "1"], "--chains 1 is too few"),
        (["rhat", "--long-draws", "9"], "--long-draws 9 is too few"),
        (["budget", "--draws", "9"], "--draws 9 is too few"),
        (["fidelity", "--chains", "1"], "--chains 1 is too few"),
        (["baselines", "--members", "1"], "--members 1 is too few"),
        (["temperature", "--draws", "0"], "--draws 0 must be at least 1"),
        (["priors", "--train-size", "999999"], "training size 999999"),
        (["priors", "--prior-variance", "-1"], "--prior-variance -1.0 must be"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")] if arguments else []
    try:
        status = main([*arguments, *flags])
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert not list(tmp_path.iterdir()), "nothing is written"


def test_plane_meets_its_three_points() -> None:
    points = np.random.default_rng(0).normal(size=(3, 7))
    plane = Plane.through(points)
    where = plane.project(points)
    assert np.allclose(where[0], 0)
    assert np.allclose(where[1], (1, 0))
    assert np.isclose(where[2, 1], 1)
    assert np.allclose(plane.at(where[:, 0], where[:, 1]), points)
    with pytest.raises(UserError, match="one line"):
        Plane.through(np.stack([points[0], points[1], 2 * points[1] - points[0]]))


def test_surface_is_the_log_posterior(tmp_path: Path) -> None:
    lab = Lab("digits", settings(tmp_path))
    rows = lab.posterior.initial("prior", 3, 0)
    posterior, likelihood, prior = _evaluate(lab, rows.numpy().astype(np.float64))
    potential, _ = lab.posterior.potential_and_grad(rows)
    assert np.allclose(posterior, -potential.numpy(), rtol=1e-6)
    assert np.allclose(likelihood + prior, posterior)
    # log N(w; 0, v), summed
    normal = torch.distributions.Normal(0.0, lab.settings.prior_variance**0.5).log_prob(rows.double()).sum(1)
    assert np.allclose(prior, normal.numpy(), rtol=1e-6)
