"""The loop: what it keeps, what it averages, what burn-in leaves out."""

import time

import numpy as np
import pytest
import torch

import hmc_fast
from cases import RUNS, classifier, sample
from hmc_fast.engine.loop import Plan


def test_repeats_are_counted_in_the_average():
    """With a coarse step many proposals are rejected: the average must weigh each state by its repeats."""
    posterior, x, y = classifier()
    run = hmc_fast.run(
        posterior,
        hmc_fast.HMC(0.2, num_leapfrog=3),
        chains=2,
        burn_in=5,
        draws=40,
        test=(x, y),
        draw_dtype=torch.float32,
        progress=False,
    )
    repeated = (run.draws[1:] == run.draws[:-1]).all(-1)
    assert 0.1 < repeated.mean() < 0.9
    with torch.no_grad():
        every = torch.stack([posterior.predict(torch.tensor(d), x) for d in run.draws])  # (S, C, T, K)
    np.testing.assert_allclose(run.test.chain_probs, every.double().mean(0).numpy(), atol=1e-6)
    without_repeats = every[1:][~torch.tensor(repeated).all(1)].double().mean((0, 1)).numpy()
    assert np.abs(run.test.probs - without_repeats).max() > 1e-3, "the example must be able to tell"


def test_burn_in_leaves_the_averages_and_a_first_rejection_keeps_its_last_state():
    """The first kept iteration may reject: its draw is then where burn-in ended, and the acceptance rate counts
    kept iterations alone."""
    posterior, _, _ = classifier()
    sampler = hmc_fast.HMC(0.15, num_leapfrog=3)
    options = {"chains": 24, "draw_dtype": torch.float32, "progress": False, "seed": 5}
    run = hmc_fast.run(posterior, sampler, burn_in=6, draws=4, **options)
    accepted = run.trace.pivot(index="iteration", columns="chain", values="accepted").to_numpy()
    rejected = accepted[6] == 0
    assert 3 < rejected.sum() < 24
    every = hmc_fast.run(posterior, sampler, burn_in=0, draws=10, **options).draws
    assert np.array_equal(run.draws[0][rejected], every[5][rejected])
    assert not (run.draws[0][rejected] == posterior.initial("prior", 24, 5).numpy()[rejected]).all(1).all()
    assert run.acceptance_rate == accepted[6:].mean() != accepted.mean()


def test_thinned_draws_predict_what_they_are():
    """A kept iteration may reject after one that was not kept and accepted: its draw is new all the same."""
    posterior, x, y = classifier()
    sampler = hmc_fast.HMC(0.2, num_leapfrog=3)
    run = sample(posterior, sampler, chains=1, burn_in=0, draws=20, thin=3, test=(x, y))
    accepted = run.history.accepted[:, 0]
    rejected_after_a_move = [accepted[i] == 0 and accepted[i - 2 : i].any() for i in range(2, 60, 3)]
    assert sum(rejected_after_a_move) > 2, "the example must be able to tell"
    with torch.no_grad():
        every = torch.stack([posterior.predict(torch.tensor(d), x) for d in run.draws])
    np.testing.assert_allclose(run.test.chain_probs, every.double().mean(0).numpy(), atol=1e-6)


@pytest.mark.parametrize(
    "sampler",
    [hmc_fast.HMC(0.4, num_leapfrog=3, jitter=0.5, test_in_burn_in=False), hmc_fast.GHMC(0.2, friction=1.0)],
)
def test_calls_of_several_iterations_change_nothing(sampler, monkeypatch):
    posterior, x, y = classifier()
    options = {"chains": 6, "burn_in": 7, "draws": 30, "thin": 2, "test": (x, y), "compile": True, "seed": 3}
    calls, steps = [], type(sampler).steps
    monkeypatch.setattr(
        type(sampler),
        "steps",
        lambda self, state, number, **k: calls.append(number) or steps(self, state, number, **k),
    )
    begin = time.perf_counter()
    together = sample(posterior, sampler, **options)
    assert together.seconds < time.perf_counter() - begin
    assert max(calls) > 20, "iterations after burn-in in few calls"
    number = len(calls)
    monkeypatch.setattr("hmc_fast.engine.loop._CALL_SECONDS", 0.0)
    single = sample(posterior, sampler, **options)
    assert len(calls) == number, "one at a time"
    assert np.array_equal(together.draws, single.draws)
    assert np.array_equal(together.test.probs, single.test.probs)
    assert np.array_equal(together.curve, single.curve)
    trace, expected = together.trace.drop(columns="seconds"), single.trace.drop(columns="seconds")
    assert trace.equals(expected)


def test_burn_in_ends_where_it_says():
    """Without its test an unstable trajectory is accepted; the first kept iteration has the test, and rejects."""
    density = hmc_fast.Density(lambda theta: -0.5 * (theta**2).sum(), 4, dtype=torch.float64)
    sampler = hmc_fast.HMC(2.5, num_leapfrog=4, test_in_burn_in=False)
    run = hmc_fast.run(density, sampler, chains=1, burn_in=2, draws=2, init=torch.ones(4), progress=False)
    assert run.trace.accepted.tolist() == [1, 1, 0, 0]
    assert run.trace.phase.tolist() == ["burn_in", "burn_in", "sampling", "sampling"]


def test_a_run_that_blows_up_leaves_nothing(tmp_path):
    posterior, _, _ = classifier()
    with pytest.raises(hmc_fast.UserError, match="diverged to NaN or infinity"):
        hmc_fast.run(
            posterior,
            hmc_fast.SGHMC(30.0, friction=0.01, steps_per_iteration=200),
            out=tmp_path / "run",
            draws=2,
            progress=False,
        )
    assert not (tmp_path / "run").exists()


def test_kept_iterations_follow_thinning_and_cycles():
    plan = Plan(burn_in=4, draws=3, thin=2)
    assert plan.kept_iterations(RUNS["hmc"]()) == [5, 7, 9]
    assert Plan(4, 4).kept_iterations(RUNS["sghmc"]()) == [4, 5, 7, 8]
