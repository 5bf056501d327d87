"""Samplers against known laws, with tolerances from their own effective sample size."""

import numpy as np
import pytest
import torch
from scipy.linalg import solve_discrete_lyapunov

import hmc_fast
from hmc_fast.results.diagnostics import ess_bulk
from targets import check_moments, correlated_gaussian, linear_regression, skewed

KNOWN = {"correlated": correlated_gaussian, "skewed": skewed}


@pytest.mark.parametrize(
    ("name", "acceptance"),
    [("correlated", "log_ratio"), ("skewed", "log_ratio"), ("skewed", "density_ratio")],
)
def test_hmc_matches_known_moments(name, acceptance):
    known = KNOWN[name]()
    # a step size with visible energy error: without the test, or with a wrong one, the law would be off
    step_size = {"correlated": 0.055, "skewed": 0.9}[name]
    run = hmc_fast.run(
        known.density,
        hmc_fast.HMC(step_size, num_leapfrog=20 if name == "correlated" else 3, acceptance=acceptance, jitter=0.3),
        chains=32,
        burn_in=100,
        draws=400,
        init=torch.tensor(known.mean),
        draw_dtype=torch.float32,
        progress=False,
    )
    assert 0.4 < run.acceptance_rate < 0.97
    check_moments(run.draws, known.mean, known.variance)


@pytest.mark.statistical
@pytest.mark.parametrize("name", KNOWN)
def test_hmc_meets_tight_moments_in_a_long_run(name):
    """Ten times the effective draws of the test above: a bias of a few per cent of a deviation shows here."""
    known = KNOWN[name]()
    step_size, num_leapfrog = {"correlated": (0.055, 20), "skewed": (0.9, 3)}[name]
    run = hmc_fast.run(
        known.density,
        hmc_fast.HMC(step_size, num_leapfrog=num_leapfrog, jitter=0.3),
        chains=256,
        burn_in=100,
        draws=600,
        seed=1,
        init=torch.tensor(known.mean),
        draw_dtype=torch.float32,
        progress=False,
    )
    check_moments(run.draws, known.mean, known.variance)
    assert ess_bulk(np.moveaxis(run.draws, 0, 1).astype(np.float64)).min() > 3_000


def test_both_acceptance_rules_take_the_same_decisions():
    known = skewed()
    draws = [
        hmc_fast.run(
            known.density,
            hmc_fast.HMC(1.0, num_leapfrog=3, acceptance=rule),
            chains=8,
            burn_in=0,
            draws=100,
            init=torch.zeros(2),
            progress=False,
        ).draws
        for rule in ("log_ratio", "density_ratio")
    ]
    assert np.array_equal(draws[0], draws[1])


def test_a_rejected_proposal_repeats_the_old_state():
    """With a huge step size nearly all is rejected: the state must then be the old one, and be counted."""
    known = skewed()
    run = hmc_fast.run(
        known.density,
        hmc_fast.HMC(1.5, num_leapfrog=3),
        chains=16,
        burn_in=0,
        draws=50,
        init=torch.zeros(2),
        draw_dtype=torch.float32,
        progress=False,
    )
    accepted = run.trace.pivot(index="iteration", columns="chain", values="accepted").to_numpy()
    assert 0.02 < accepted.mean() < 0.9
    start = np.zeros((1, 16, 2), dtype=np.float32)
    previous = np.concatenate((start, run.draws[:-1]))
    moved = (run.draws != previous).any(-1)
    assert np.array_equal(moved, accepted.astype(bool))
    # the log likelihood in the trace is the kept state's, not the proposal's
    recorded = run.trace.pivot(index="iteration", columns="chain", values="log_likelihood").to_numpy()
    actual = np.stack([known.density.fn(torch.tensor(d, dtype=torch.float64)) for d in run.draws.reshape(-1, 2)])
    np.testing.assert_allclose(recorded.ravel(), actual, rtol=1e-5, atol=1e-5)


def test_hmc_on_a_conjugate_model():
    posterior, known = linear_regression()
    run = hmc_fast.run(
        posterior,
        hmc_fast.HMC(0.06, num_leapfrog=3, jitter=0.3),
        chains=32,
        burn_in=50,
        draws=400,
        draw_dtype=torch.float32,
        progress=False,
    )
    assert run.acceptance_rate < 0.98
    check_moments(run.draws, known.mean, known.variance)


def test_temperature_widens_the_posterior():
    posterior, known = linear_regression()
    posterior.temperature = 4.0
    run = hmc_fast.run(
        posterior,
        hmc_fast.HMC(0.1, num_leapfrog=4, jitter=0.3),
        chains=32,
        burn_in=50,
        draws=300,
        draw_dtype=torch.float32,
        progress=False,
    )
    check_moments(run.draws, known.mean, 4 * known.variance)


def test_inverse_mass_leaves_the_law_alone():
    known = correlated_gaussian()
    run = hmc_fast.run(
        known.density,
        hmc_fast.HMC(0.4, num_leapfrog=10, jitter=0.3, inverse_mass=torch.tensor(known.variance)),
        chains=32,
        burn_in=50,
        draws=400,
        init=torch.tensor(known.mean),
        draw_dtype=torch.float32,
        progress=False,
    )
    assert run.acceptance_rate > 0.5
    check_moments(run.draws, known.mean, known.variance)


@pytest.mark.parametrize("friction", [0.5, 4.0])
def test_sghmc_variance_matches_its_discretisation(friction):
    """For a Gaussian the update is linear, so its stationary covariance solves a Lyapunov equation.

    The step is coarse: that covariance differs from the target's, and only the right noise factor and the
    right order of kick and drift meet it.
    """
    step_size, stiffness = 0.2, 6.0
    density = hmc_fast.Density(lambda theta: -0.5 * stiffness * (theta**2).sum(), 4, dtype=torch.float64)
    decay = 1 - step_size * friction
    update = np.array(
        [[decay, -step_size * stiffness], [step_size * decay, 1 - step_size**2 * stiffness]]
    )  # (m, theta)
    noise = np.sqrt(2 * friction * step_size) * np.array([[1.0], [step_size]])
    expected = solve_discrete_lyapunov(update, noise @ noise.T)[1, 1]
    assert abs(expected * stiffness - 1) > 0.04, "the discretisation must show"
    run = hmc_fast.run(
        density,
        hmc_fast.SGHMC(step_size, friction=friction, steps_per_iteration=15),
        chains=64,
        burn_in=20,
        draws=250,
        init=torch.zeros(4),
        draw_dtype=torch.float32,
        progress=False,
    )
    check_moments(run.draws, np.zeros(4), np.full(4, expected))


def test_sghmc_on_a_skewed_target():
    known = skewed()
    run = hmc_fast.run(
        known.density,
        hmc_fast.SGHMC(0.1, friction=1.0, steps_per_iteration=30),
        chains=64,
        burn_in=20,
        draws=150,
        init=torch.zeros(2),
        draw_dtype=torch.float32,
        progress=False,
    )
    check_moments(run.draws, known.mean, known.variance, bias=0.02)


def test_sghmc_minibatches_find_the_conjugate_posterior():
    """A minibatch likelihood that is not scaled by N/B would give four times the variance."""
    posterior, known = linear_regression()
    run = hmc_fast.run(
        posterior,
        hmc_fast.SGHMC(0.006, friction=30.0, batch_size=16, steps_per_iteration=40),
        chains=32,
        burn_in=30,
        draws=150,
        draw_dtype=torch.float32,
        progress=False,
    )
    # gradient noise heats the chain by an amount of order step size / friction; it is not accounted for
    check_moments(run.draws, known.mean, known.variance, bias=0.1)


def test_noise_estimate_removes_noise():
    """With the noise estimate equal to the friction the dynamics lose energy and come to rest."""
    density = hmc_fast.Density(lambda theta: -0.5 * (theta**2).sum(), 3)
    run = hmc_fast.run(
        density,
        hmc_fast.SGHMC(0.1, friction=2.0, noise_estimate=2.0, steps_per_iteration=200),
        chains=2,
        burn_in=0,
        draws=2,
        init=torch.ones(3),
        draw_dtype=torch.float32,
        progress=False,
    )
    assert np.abs(run.draws[-1]).max() < 1e-3


def test_sghmc_names_a_chain_that_blew_up():
    density = hmc_fast.Density(lambda theta: -(theta**4).sum(), 2)
    with pytest.raises(hmc_fast.UserError, match=r"diverged to NaN or infinity at iteration .* smaller step size"):
        hmc_fast.run(
            density,
            hmc_fast.SGHMC(0.9, friction=1.0, steps_per_iteration=50),
            chains=2,
            burn_in=0,
            draws=5,
            init=torch.full((2,), 10.0),
            progress=False,
        )
