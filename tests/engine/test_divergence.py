"""A chain that is lost late ends the run with the draws before; one that is lost early, with an error."""

import json

import numpy as np
import pytest
import torch

import hmc_fast
from cases import classifier
from hmc_fast.engine.loop import Loop
from hmc_fast.results.row_files import RowFile
from hmc_fast.results.run_folder import write_scores

SGHMC = hmc_fast.SGHMC(0.02, friction=5.0, batch_size=20, steps_per_iteration=2)
OPTIONS = {"chains": 3, "burn_in": 4, "draws": 12, "thin": 2, "seed": 2, "progress": False}


@pytest.fixture
def lost_at(monkeypatch):
    """Makes theta of the middle chain NaN within the iteration with the number given to it."""

    def lose(iteration):
        real = Loop._step

        def step(self, warming_up):
            if self.iteration == iteration:
                self.state.theta[1] = torch.nan
            return real(self, warming_up)

        monkeypatch.setattr(Loop, "_step", step)

    return lose


def go(**options):
    posterior, x, y = classifier()
    return hmc_fast.run(posterior, SGHMC, test=(x, y), **OPTIONS | options), y


def test_the_draws_before_are_published_and_it_says_so(tmp_path, lost_at, capsys):
    whole, _ = go()
    assert not whole.ended_early
    lost_at(17)  # 5, 7, ..., 15 were kept
    run, labels = go(out=tmp_path / "run")
    sentence = (
        "The run ended early, with 6 of 12 draws: chain 1 of sghmc diverged to NaN or infinity at iteration 17: "
        "use a smaller step size, more friction, or an init from 'model' or trained weights."
    )
    assert run.ended_early == sentence
    assert run.diagnosis()[0] == sentence
    assert run.diagnosis()[0].kind == "warning"
    assert sum("diverged" in told for told in run.diagnosis()) == 1
    assert capsys.readouterr().err.strip() == sentence
    assert np.array_equal(run.draws, whole.draws[:6])
    assert np.array_equal(np.load(tmp_path / "run" / "draws.npy"), whole.draws[:6])
    assert not (tmp_path / "run" / "checkpoint" / "draws.npy").exists(), "no second copy"
    assert np.array_equal(run.curve, whole.curve[:6])
    assert np.array_equal(run.function_draws, whole.function_draws[:, :6])
    assert np.isfinite(run.test.probs).all()
    columns = [name for name in whole.trace.columns if name != "seconds"]
    assert run.trace[columns][: 17 * 3].equals(whole.trace[columns][: 17 * 3])
    assert run.trace.divergent.tolist() == [0] * (17 * 3 + 1) + [1, 0]
    scores = write_scores(tmp_path / "run", "mine", run, labels.numpy(), 0.0, 1.0)
    assert scores["draws"] == 6
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["diagnosis"][0] == sentence
    run.summary()
    run.predict(classifier()[1])


def test_a_chain_lost_in_the_last_iteration_is_told(tmp_path, lost_at):
    lost_at(27)
    run, _ = go(out=tmp_path / "run")
    assert run.ended_early.startswith("The run ended early, with 11 of 12 draws: chain 1 of sghmc diverged")
    assert len(np.load(tmp_path / "run" / "draws.npy")) == 11
    again, _ = go(out=tmp_path / "run", resume=True)
    assert again.ended_early == run.ended_early


@pytest.mark.parametrize("published", [True, False])
def test_resuming_it_changes_nothing(published, tmp_path, lost_at, monkeypatch):
    lost_at(17)
    if not published:
        with monkeypatch.context() as patch:
            patch.setattr("hmc_fast.engine.output.OutputFolder.publish", lambda *arguments: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                go(out=tmp_path / "run")
    first, _ = go(out=tmp_path / "run", resume=not published)
    before = {path: path.read_bytes() for path in (tmp_path / "run").glob("*.*")}
    again, _ = go(out=tmp_path / "run", resume=True)
    assert {path: path.read_bytes() for path in (tmp_path / "run").glob("*.*")} == before
    assert again.ended_early == first.ended_early
    assert np.array_equal(again.draws, first.draws)
    assert len(again.draws) == 6
    assert np.array_equal(again.test.probs, first.test.probs)
    assert len(again.history) == 18


@pytest.mark.parametrize("iteration", [0, 3, 4, 5])
def test_without_a_draw_it_is_an_error_that_leaves_nothing(iteration, tmp_path, lost_at):
    lost_at(iteration)
    message = f"^chain 1 of sghmc diverged to NaN or infinity at iteration {iteration}: use a smaller step size"
    with pytest.raises(hmc_fast.UserError, match=message):
        go(out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def undefined_beyond(edge):
    """NaN beyond the edge, where its gradient is finite."""

    def log_density(theta):
        value = -0.5 * (theta**2).sum()
        return value + torch.where(theta[0] > edge, torch.nan, 0.0).detach()

    return hmc_fast.Density(log_density, 2, dtype=torch.float64)


def test_a_density_that_is_nan_with_a_finite_gradient_ends_the_run():
    sampler = hmc_fast.SGHMC(0.3, friction=1.0)
    options = {"chains": 2, "burn_in": 0, "draws": 400, "progress": False, "init": torch.zeros(2)}
    run = hmc_fast.run(undefined_beyond(2.5), sampler, **options)
    assert 10 < len(run.draws) < 400, "for the test to say something"
    assert np.isfinite(run.draws).all()
    assert run.trace.divergent.sum() == 1
    assert "is nan at iteration" in run.ended_early
    assert "where its parameters are finite: keep the likelihood defined there" in run.ended_early


def test_a_metropolis_test_counts_it_as_divergent_and_goes_on():
    options = {"chains": 4, "burn_in": 20, "draws": 400, "progress": False, "init": torch.zeros(2)}
    run = hmc_fast.run(undefined_beyond(1.0), hmc_fast.HMC(0.5, num_leapfrog=4), **options)
    assert run.divergences > 20
    assert not run.ended_early
    assert run.draws[..., 0].max() <= 1.0
    assert any(f"{run.divergences} of 1600 proposals after burn-in diverged" in told for told in run.diagnosis())


def test_several_iterations_in_one_call_end_where_single_ones_do(monkeypatch):
    """Within a compiled call the state goes on beyond the iteration that lost it."""

    class Several(hmc_fast.SGHMC):
        def steps(self, state, number, *, warming_up=False):
            parts = [(self.step(state, warming_up=warming_up)[1], state.theta.clone()) for _ in range(number)]
            infos, thetas = zip(*parts, strict=True)
            joined = [torch.stack(values) if isinstance(values[0], torch.Tensor) else torch.tensor(values)[:, None]
                      for values in zip(*infos, strict=True)]  # fmt: skip
            return state, torch.stack(thetas), type(infos[0])(*joined)

    options = {"chains": 2, "burn_in": 0, "draws": 400, "progress": False, "init": torch.zeros(2)}
    single = hmc_fast.run(undefined_beyond(2.5), hmc_fast.SGHMC(0.3, friction=1.0), **options)
    monkeypatch.setattr(Loop, "_next_number", lambda self, number, seconds: min(7, self.end - self.iteration))
    several = hmc_fast.run(undefined_beyond(2.5), Several(0.3, friction=1.0), **options)
    assert several.ended_early == single.ended_early
    assert np.array_equal(several.draws, single.draws)


@pytest.mark.parametrize(
    "sampler", [hmc_fast.HMC(0.1, num_leapfrog=2), hmc_fast.AdjustedMCLMC(0.1, num_leapfrog=2)]
)
def test_a_start_at_nan_names_the_example(sampler, tmp_path):
    def likelihood(outputs, y):
        return torch.log(outputs[:, 0] ** 2 - torch.where(y == 7, 1e9, 0.0))

    x, y = torch.randn(20, 3), torch.zeros(20)
    y[13] = 7
    posterior = hmc_fast.Posterior(torch.nn.Linear(3, 1), (x, y), likelihood)
    with pytest.raises(
        hmc_fast.UserError, match=r"example 13 is nan at the start of chain 0: check X\[13\], y\[13\]"
    ):
        hmc_fast.run(posterior, sampler, out=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_no_rows_follow_the_last_of_a_run_that_ended(tmp_path):
    np.save(tmp_path / "rows.npy", np.ones((3, 2)))
    rows = RowFile(tmp_path / "rows.npy", (5, 2), float, count=3)
    assert rows.read().tolist() == [[1.0, 1.0]] * 3
    with pytest.raises(AssertionError):
        rows.append(np.ones((1, 2)))
