"""`hmc_fast.run`: same seed same draws, whatever the capacity; interruption and resumption; files left."""

import json
import os
import signal
import threading

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import hmc_fast
from hmc_fast.engine import checkpoint
from hmc_fast.engine.loop import Interrupted, Plan
from targets import linear_regression

SAMPLERS = {
    "hmc": lambda: hmc_fast.HMC(0.05, num_leapfrog=4, jitter=0.3),
    "hmc_adapting": lambda: hmc_fast.HMC(adapt=True),
    "sghmc": lambda: hmc_fast.SGHMC(0.02, friction=5.0, batch_size=20, schedule=hmc_fast.CosineCyclical(3, keep=2)),
}


def classifier(**options):
    """A three-class problem that a small network half solves: (posterior, test inputs, test labels)."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(120, 4, generator=generator)
    y = (x[:, 0] + 0.5 * torch.randn(120, generator=generator) > 0).long() + (x[:, 1] > 0.5).long()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    return hmc_fast.Posterior(model, (x[:80], y[:80]), prior=hmc_fast.Normal(0.5), **options), x[80:], y[80:]


def go(sampler="hmc", **options):
    posterior, x, y = classifier()
    options = {"chains": 2, "burn_in": 3, "draws": 12, "test": (x, y), "progress": False} | options
    return hmc_fast.run(posterior, SAMPLERS[sampler](), **options)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_same_seed_same_draws_another_seed_others(sampler):
    first, again, other = go(sampler, seed=1), go(sampler, seed=1), go(sampler, seed=2)
    assert np.array_equal(first.draws, again.draws)
    assert np.array_equal(first.test.probs, again.test.probs)
    assert not np.array_equal(first.draws, other.draws)


@pytest.mark.parametrize("capacity", [1, 5, "1KB", 100])
def test_capacity_and_place_change_nothing(capacity, tmp_path):
    reference = go()
    other = go(capacity=capacity, out=tmp_path / "run")
    assert np.array_equal(reference.draws, other.draws)
    assert np.array_equal(np.load(tmp_path / "run" / "draws.npy"), reference.draws)


@pytest.mark.parametrize("sampler", ["hmc", "sghmc"])  # long adapted trajectories amplify rounding without bound
def test_micro_batches_change_rounding_alone(sampler):
    runs = []
    for size in (80, 7):
        posterior, x, _ = classifier(micro_batch_size=size)
        runs.append(
            hmc_fast.run(posterior, SAMPLERS[sampler](), chains=2, burn_in=0, draws=3, test=x, progress=False)
        )
    np.testing.assert_allclose(runs[0].draws.astype(float), runs[1].draws.astype(float), atol=2e-3)


def test_streamed_average_equals_predict_over_stored_draws():
    run = go(draw_dtype=torch.float32)
    _, x, _ = classifier()
    again = run.predict(x)
    np.testing.assert_allclose(again.probs, run.test.probs, atol=1e-6)
    np.testing.assert_allclose(again.epistemic, run.test.epistemic, atol=1e-6)
    half = go().predict(x)
    np.testing.assert_allclose(half.probs, run.test.probs, atol=1e-3)


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


def interrupt_at(monkeypatch, iteration):
    """Makes Ctrl-C arrive during one iteration."""
    real = hmc_fast.engine.runner.Loop._iterate

    def iterate(self, keep, bar):
        if self.iteration == iteration:
            os.kill(os.getpid(), signal.SIGINT)
        real(self, keep, bar)

    monkeypatch.setattr(hmc_fast.engine.runner.Loop, "_iterate", iterate)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("iteration", [0, 2, 9])
def test_resume_continues_to_the_very_same_draws(sampler, iteration, tmp_path, monkeypatch):
    whole = go(sampler)
    handler = signal.getsignal(signal.SIGINT)  # of a shell's background job: "ignore"
    with monkeypatch.context() as patch:
        interrupt_at(patch, iteration)
        with pytest.raises(Interrupted):
            go(sampler, out=tmp_path / "run", capacity=4)
    assert not (tmp_path / "run" / "draws.npy").exists(), "half a run must not look like a whole one"
    resumed = go(sampler, out=tmp_path / "run", capacity=3, resume=True)
    assert np.array_equal(resumed.draws, whole.draws)
    assert np.array_equal(resumed.test.probs, whole.test.probs)
    assert np.array_equal(resumed.curve, whole.curve)
    assert np.array_equal(resumed.function_draws, whole.function_draws)
    columns = [c for c in whole.trace.columns if c != "seconds"]
    pd.testing.assert_frame_equal(resumed.trace[columns], whole.trace[columns])
    assert signal.getsignal(signal.SIGINT) is handler


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    first = go(out=tmp_path / "run")
    again = go(out=tmp_path / "run", resume=True)
    assert np.array_equal(first.draws, again.draws)
    assert np.array_equal(first.test.probs, again.test.probs)


def test_resume_refuses_other_settings(tmp_path):
    go(out=tmp_path / "run")
    with pytest.raises(hmc_fast.UserError, match="made with seed 0, not 1"):
        go(out=tmp_path / "run", resume=True, seed=1)
    with pytest.raises(hmc_fast.UserError, match="no checkpoint to resume from"):
        go(out=tmp_path / "nowhere", resume=True)


def test_a_damaged_checkpoint_is_named(tmp_path):
    go(out=tmp_path / "run")
    path = tmp_path / "run" / "checkpoint" / checkpoint.STATE_FILE
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(hmc_fast.UserError, match="is not a readable checkpoint"):
        go(out=tmp_path / "run", resume=True)


def test_files_of_a_run(tmp_path):
    run = go(out=tmp_path / "run", config={"any": 1})
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == {"any": 1}
    trace = pd.read_csv(tmp_path / "run" / "trace.csv")
    assert list(trace.columns[:3]) == ["chain", "iteration", "phase"]
    assert len(trace) == 2 * 15
    assert run.draws.dtype == np.float16
    assert run.draws.shape == (12, 2, run.target.num_params)


def test_a_directory_that_holds_a_run_is_refused(tmp_path):
    go(out=tmp_path / "run")
    with pytest.raises(hmc_fast.UserError, match="already holds a run"):
        go(out=tmp_path / "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(hmc_fast.UserError, match="is a file"):
        go(out=tmp_path / "file")


def test_a_run_that_blows_up_leaves_nothing(tmp_path):
    posterior, _, _ = classifier()
    with pytest.raises(hmc_fast.UserError, match="left the finite numbers"):
        hmc_fast.run(
            posterior,
            hmc_fast.SGHMC(30.0, friction=0.01, steps_per_iteration=200),
            out=tmp_path / "run",
            draws=2,
            progress=False,
        )
    assert not (tmp_path / "run").exists()


def test_summary_trace_and_arviz():
    run = go()
    summary = run.summary()
    assert list(summary.columns) == ["kind", "index", "mean", "sd", "mcse_mean", "ess_bulk", "ess_tail", "r_hat"]
    assert summary.kind.iloc[0] == "function"
    assert (run.trace.phase == "burn_in").sum() == 2 * 3
    pytest.importorskip("arviz")
    data = run.to_arviz()
    assert data.posterior["0.weight"].shape == (2, 12, 8, 4)
    np.testing.assert_allclose(data.posterior["0.weight"].values[1, 5].ravel(), run.draws[5, 1, :32])
    assert data.sample_stats["lp"].shape == (2, 12)


def test_kept_iterations_follow_thinning_and_cycles():
    plan = Plan(burn_in=4, draws=3, thin=2)
    assert plan.kept_iterations(SAMPLERS["hmc"]()) == [5, 7, 9]
    assert Plan(4, 4).kept_iterations(SAMPLERS["sghmc"]()) == [4, 5, 7, 8]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chains": 0}, "chains 0 must be at least 1"),
        ({"draws": 0}, "draws 0 must be at least 1"),
        ({"burn_in": -1}, "burn_in -1 must be at least 0"),
        ({"thin": 0}, "thin 0 must be at least 1"),
        ({"seed": -1}, "seed -1 must lie in"),
        ({"capacity": "lots"}, "capacity 'lots' is unreadable"),
        ({"capacity": "1B"}, "less than one draw"),
        ({"draw_dtype": torch.bfloat16}, "draw_dtype torch.bfloat16"),
        ({"init": "zero"}, "init 'zero' is unknown"),
        ({"init": torch.zeros(3)}, r"init has shape \(3,\)"),
        ({"resume": True}, "resume needs out"),
        ({"test": torch.zeros(5, 9)}, "test inputs have shape"),
        ({"test": (torch.zeros(5, 4), torch.zeros(4))}, "5 test inputs and 4 test labels"),
        ({"test": (torch.zeros(1, 4), torch.tensor([7]))}, "must be in 0..2"),
    ],
)
def test_bad_options_name_the_value_and_leave_nothing(options, message, tmp_path):
    if "resume" not in options:
        options = options | {"out": tmp_path / "run"}
    with pytest.raises(hmc_fast.UserError, match=message):
        go(**options)
    assert not (tmp_path / "run").exists()


def test_runs_outside_the_main_thread():
    results = []
    thread = threading.Thread(target=lambda: results.append(go()))
    thread.start()
    thread.join()
    assert np.array_equal(results[0].draws, go().draws)


def test_conjugate_prediction_of_regression():
    posterior, known = linear_regression()
    run = hmc_fast.run(
        posterior,
        hmc_fast.HMC(0.06, num_leapfrog=3, jitter=0.3),
        chains=16,
        burn_in=30,
        draws=200,
        draw_dtype=torch.float32,
        test=(posterior.x, posterior.y),
        progress=False,
    )
    x = posterior.x.numpy()
    np.testing.assert_allclose(run.test.mean, x @ known.mean, atol=0.02)
    assert run.test.aleatoric == pytest.approx(0.25)
    assert run.test.log_likelihood(posterior.y.numpy()) == pytest.approx(-0.7, abs=0.2)
