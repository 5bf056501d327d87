"""The experiments: each asked once at a tiny size, the cache, the methods against known posteriors, bad input."""

import signal
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import log_loss

import hmc_fast.experiments.questions.shift as shift
from hmc_fast import Gaussian, Normal, Posterior
from hmc_fast.datasets import Dataset
from hmc_fast.engine.loop import Loop
from hmc_fast.errors import UserError
from hmc_fast.experiments.__main__ import NAMES, main
from hmc_fast.experiments.approximations import BATCH_SIZE, approximate
from hmc_fast.experiments.compared_methods import missing_laplace
from hmc_fast.experiments.corruptions import CORRUPTIONS, INTENSITIES, corrupt
from hmc_fast.experiments.page import chain_error, scores
from hmc_fast.experiments.questions.baselines import _within
from hmc_fast.experiments.questions.surface import Plane, _evaluate
from hmc_fast.experiments.run_cache import Lab
from hmc_fast.experiments.settings import EPOCHS, Settings
from hmc_fast.presets import settings as presets
from hmc_fast.results.predictions import agreement, total_variation

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
@pytest.mark.parametrize("name", NAMES)
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


def settings(cache: Path, **changes: object) -> Settings:
    tiny = {"chains": 2, "burn_in": 2, "draws": 5, "step_size": 0.05, "trajectory_length": 0.1, "train_size": 100}
    tiny |= {"test_size": 50, "device": "cpu", "compile": "off", "progress": False}
    return Settings(cache=cache, **(tiny | changes))


def test_a_run_that_two_experiments_need_is_done_once(tmp_path: Path) -> None:
    lab = Lab("digits", settings(tmp_path))
    (first,) = lab.obtain([lab.hmc()])
    made = (first.directory / "metrics.json").stat().st_mtime_ns
    jobs = [lab.hmc("another name"), lab.hmc(seed=1), lab.hmc()]
    again, other, last = Lab("digits", settings(tmp_path)).obtain(jobs)
    assert again.directory == last.directory == first.directory != other.directory
    assert (first.directory / "metrics.json").stat().st_mtime_ns == made
    assert len(list(tmp_path.glob("*/metrics.json"))) == 2


def test_passes_count_every_gradient_of_every_chain(tmp_path: Path) -> None:
    lab = Lab("digits", settings(tmp_path))
    hmc, sgld = lab.obtain([lab.hmc(), lab.sampler("SGLD", sampler="sgld", burn_in=3, draws=2, batch_size=25)])
    # 2 chains, 2 leapfrog steps an iteration, 2 of burn-in; and the gradient that begins each chain is not a step
    assert hmc.passes.tolist() == [2 * 2 * iterations for iterations in (3, 4, 5, 6, 7)]
    assert sgld.passes.tolist() == [2 * 4, 2 * 5], "an epoch of each chain an iteration"


def test_a_run_serves_every_test_size(tmp_path: Path) -> None:
    (some,) = (small := Lab("digits", settings(tmp_path, test_size=50))).obtain([small.hmc()])
    (all_of_it,) = (large := Lab("digits", settings(tmp_path, test_size=0))).obtain([large.hmc()])
    assert some.directory == all_of_it.directory
    assert some.probs.shape[2] == len(small.labels) == 50
    kept = np.load(some.directory / "predictions.npz")["labels"]
    assert len(kept) == 360, "one broken off goes on at any size"
    assert all_of_it.probs.shape[2] == len(large.labels) == 360


def test_on_a_part_of_the_data_steps_and_epochs_follow(tmp_path: Path) -> None:
    whole = Lab("digits", settings(tmp_path, train_size=0))
    usual = presets.resolve("digits", presets.Settings(sampler="sghmc", data="digits", prior_variance=0.2))
    assert (whole.epochs, whole.sampler_epochs) == EPOCHS["digits"]
    job = whole.minibatch("SG-HMC", "sghmc").identity
    assert (job["step_size"], job["friction"]) == (usual.step_size, usual.friction)
    part = Lab("digits", settings(tmp_path, train_size=1437 // 4, step_size=0.03, epochs=7))
    assert part.epochs == 7, "what was asked for is kept"
    assert part.sampler_epochs == pytest.approx(4 * whole.sampler_epochs, rel=0.01), "as many steps"
    job = part.minibatch("SG-HMC", "sghmc").identity
    assert job["step_size"] == pytest.approx(0.015)
    assert job["friction"] == pytest.approx(usual.friction / 2, rel=0.01)
    assert part.minibatch("SGLD", "sgld").identity["step_size"] == pytest.approx(2 * 0.03**2)


def test_scores_at_equal_compute_take_the_draws_that_were_paid_for(tmp_path: Path) -> None:
    lab = Lab("digits", settings(tmp_path))
    (sample,) = lab.obtain([lab.hmc()])  # 100 examples; 12, 16, 20, 24, 28 passes
    found = _within(sample, 2099, lab.labels)
    expected = scores(sample.probs[:3].mean((0, 1), dtype=np.float64), lab.labels)
    assert found == {"accuracy at equal compute": expected["accuracy"], "nll at equal compute": expected["nll"]}
    assert np.isnan(_within(sample, 1199, lab.labels)["accuracy at equal compute"])


def test_a_library_that_cannot_be_imported_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for content, told in (
        ("raise RuntimeError('it is broken')", "cannot be imported (it is broken)"),
        ("import no_such_module", "cannot be imported (No module named 'no_such_module')"),
        ("raise ModuleNotFoundError(name='laplace')", "is not installed"),
    ):
        (tmp_path / "laplace.py").write_text(content)
        monkeypatch.delitem(sys.modules, "laplace", raising=False)
        monkeypatch.syspath_prepend(str(tmp_path))
        assert told in missing_laplace()
        (tmp_path / "laplace.py").unlink()


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


def test_an_interrupted_run_goes_on_to_the_same_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab("digits", settings(tmp_path / "whole"))
    (whole,) = lab.obtain([lab.hmc()])
    lab = Lab("digits", settings(tmp_path / "broken"))
    iterate, count = Loop._iterate, []

    def stop(self: Loop, *arguments: object) -> None:
        count.append(1)
        if len(count) == 3:
            signal.raise_signal(signal.SIGINT)  # the loop ends after this iteration
        iterate(self, *arguments)

    monkeypatch.setattr(Loop, "_iterate", stop)
    with pytest.raises(KeyboardInterrupt):
        lab.obtain([lab.hmc()])
    assert not list(tmp_path.glob("broken/*/metrics.json"))
    monkeypatch.setattr(Loop, "_iterate", lambda self, *a: (count.append(1), iterate(self, *a))[1])
    count.clear()
    (again,) = lab.obtain([lab.hmc()])
    assert len(count) == 7 - 3, "three of seven iterations had been done"
    assert np.array_equal(again.draws, whole.draws)
    assert np.array_equal(again.passes, whole.passes)
    assert np.array_equal(again.bma, whole.bma)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name an experiment"),
        (["surfaces"], "did you mean surface?"),
        (["rhat", "uci-yacht"], "unknown preset 'uci-yacht'"),
        (["rhat", "--drawz", "3"], "did you mean --draws?"),
        (["chains", "--chains", "2"], "--chains 2 is too few"),
        (["chains", "--draws", "40"], "--draws 40 is too few: split over 3 chains"),
        (["surface", "--chains", "2"], "one draw of each of 3 chains"),
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


def linear_regression() -> tuple[Posterior, torch.Tensor, torch.Tensor]:
    """A conjugate posterior of four parameters: with its exact mean and precision."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(3 * BATCH_SIZE, 3, generator=generator)
    x[:, 1] += 0.8 * x[:, 0]
    y = x @ torch.tensor([1.0, -2.0, 0.5]) + 0.7 + 0.5 * torch.randn(len(x), generator=generator)
    posterior = Posterior(torch.nn.Linear(3, 1), (x, y), Gaussian(0.5), Normal(variance=1.0))
    design = torch.cat((x, torch.ones(len(x), 1)), 1).double()
    precision = design.T @ design / 0.25 + torch.eye(4)
    return posterior, torch.linalg.solve(precision, design.T @ y.double() / 0.25), precision


def test_sgd_ends_at_the_maximum_and_swag_about_it() -> None:
    posterior, mean, precision = linear_regression()
    sd = precision.inverse().diagonal().sqrt()
    data: Dataset = None  # type: ignore[assignment]  # no method looks at it
    bag = approximate("ensemble", posterior, lambda seed: torch.nn.Linear(3, 1), data, epochs=60, members=2)
    assert bag.draws.shape == (2, 1, 4)
    assert bag.passes.tolist() == [60, 120]
    assert (torch.from_numpy(bag.draws[:, 0]) - mean).abs().max() < 0.3 * sd.min()
    swag = approximate("swag", posterior, lambda seed: torch.nn.Linear(3, 1), data, epochs=60)
    assert (torch.from_numpy(swag.draws).mean((0, 1)) - mean).abs().max() < sd.max()
    assert swag.draws.std(0).min() > 0


def test_mean_field_has_the_exact_mean_and_the_conditional_deviations() -> None:
    """Of a Gaussian law with precision P the best factorised one has variances 1 / P_ii (Bishop 2006, 10.1.2)."""
    posterior, mean, precision = linear_regression()
    data: Dataset = None  # type: ignore[assignment]
    bag = approximate("mean_field", posterior, lambda seed: torch.nn.Linear(3, 1), data, epochs=600)
    draws = torch.from_numpy(bag.draws[:, 0]).double()
    expected = precision.diagonal().rsqrt()
    assert (draws.mean(0) - mean).abs().max() < 4 * expected.max() / len(draws) ** 0.5 + 0.3 * expected.min()
    assert torch.allclose(draws.std(0), expected, rtol=0.5)  # 40 draws: an error of 11 %
    assert bag.passes[-1] == 300 + 4 * 300


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


def test_scores_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    p, q = rng.dirichlet(np.ones(4), 200), rng.dirichlet(np.ones(4), 200)
    labels = rng.integers(0, 4, 200)
    found = scores(p, labels)
    assert np.isclose(found["nll"], log_loss(labels, p, labels=range(4)))
    assert np.isclose(found["accuracy"], (p.argmax(1) == labels).mean())
    assert agreement(p, p) == 1
    assert total_variation(p, p) == 0
    assert np.isclose(total_variation(p, q), np.maximum(p - q, 0).sum(1).mean())
    ends = np.eye(2)
    assert agreement(ends, ends[::-1]) == 0
    assert total_variation(ends, ends[::-1]) == 1


def test_error_over_chains_is_the_scatter_of_scores() -> None:
    """What groups of four chains say of themselves is how their scores scatter."""
    rng = np.random.default_rng(4)
    labels = np.zeros(50, np.int64)
    level = 0.5 + 0.05 * rng.standard_normal((1, 400, 1))
    p = np.broadcast_to(np.stack([level, 1 - level], -1), (1, 400, 50, 2))
    few = [chain_error(p[:, k : k + 4], labels, "nll") for k in range(0, 400, 4)]
    scatter = np.std([-np.log(p[0, k : k + 4, 0, 0].mean()) for k in range(0, 400, 4)])
    assert np.isclose(np.mean(few), scatter, rtol=0.2)
    assert np.isnan(chain_error(p[:, :1], labels, "nll"))


@pytest.mark.parametrize("side", [8, 28])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corruptions_grow_with_intensity_and_keep_the_range(name: str, side: int) -> None:
    images = np.random.default_rng(2).random((60, side, side)).astype(np.float32) * 0.2 - 1
    images[:, side // 2 - 1 : side // 2 + 1, 1:-1] += 2  # a bar across the middle
    changed = [corrupt(images, name, intensity) for intensity in INTENSITIES]
    assert all(c.shape == images.shape and c.dtype == images.dtype for c in changed)
    assert all(c.min() >= images.min() - 1e-6 and c.max() <= images.max() + 1e-6 for c in changed)
    moved = [np.abs(c - images).mean() for c in changed]
    assert moved[0] > 0.002
    assert moved == sorted(set(moved)), "each stronger than the last"
    assert np.array_equal(changed[2], corrupt(images, name, 3)), "the same every time"
