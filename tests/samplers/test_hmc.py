"""HMC against known distributions, with tolerances from its own effective sample size."""

import numpy as np
import pytest
import torch

import hmc_fast
from cases import sample
from hmc_fast.results.diagnostics import ess_bulk
from targets import check_moments, correlated_gaussian, linear_regression, skewed

KNOWN = {"correlated": correlated_gaussian, "skewed": skewed}


@pytest.mark.parametrize(
    ("name", "acceptance"),
    [("correlated", "log_ratio"), ("skewed", "log_ratio"), ("skewed", "density_ratio")],
)
def test_hmc_matches_known_moments(name, acceptance):
    known = KNOWN[name]()
    # a step size with visible energy error: without the test, or with a wrong one, the distribution would be off
    step_size = {"correlated": 0.055, "skewed": 0.9}[name]
    run = sample(
        known.density,
        hmc_fast.HMC(step_size, num_leapfrog=20 if name == "correlated" else 3, acceptance=acceptance, jitter=0.3),
        chains=384,
        burn_in=40,
        draws=40,
        init=torch.tensor(known.mean),
    )
    assert 0.4 < run.acceptance_rate < 0.97
    check_moments(run.draws, known.mean, known.variance)


@pytest.mark.statistical
@pytest.mark.parametrize("name", KNOWN)
def test_hmc_meets_tight_moments_in_a_long_run(name):
    """Ten times the effective draws of the test above: a bias of a few per cent of a deviation shows here."""
    known = KNOWN[name]()
    step_size, num_leapfrog = {"correlated": (0.055, 20), "skewed": (0.9, 3)}[name]
    run = sample(
        known.density,
        hmc_fast.HMC(step_size, num_leapfrog=num_leapfrog, jitter=0.3),
        chains=256,
        burn_in=100,
        draws=600,
        seed=1,
        init=torch.tensor(known.mean),
    )
    check_moments(run.draws, known.mean, known.variance)
    assert ess_bulk(np.moveaxis(run.draws, 0, 1).astype(np.float64)).min() > 3_000


def test_both_acceptance_rules_take_the_same_decisions():
    known = skewed()
    draws = [
        sample(
            known.density,
            hmc_fast.HMC(1.0, num_leapfrog=3, acceptance=rule),
            chains=8,
            burn_in=0,
            draws=100,
            init=torch.zeros(2),
        ).draws
        for rule in ("log_ratio", "density_ratio")
    ]
    assert np.array_equal(draws[0], draws[1])


def test_a_rejected_proposal_repeats_the_old_state():
    """With a huge step size nearly all is rejected: the state must then be the old one, and be counted."""
    known = skewed()
    run = sample(
        known.density,
        hmc_fast.HMC(1.5, num_leapfrog=3),
        chains=16,
        burn_in=0,
        draws=50,
        init=torch.zeros(2),
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
    run = sample(
        posterior,
        hmc_fast.HMC(0.06, num_leapfrog=3, jitter=0.3),
        chains=384,
        burn_in=25,
        draws=40,
    )
    assert run.acceptance_rate < 0.98
    check_moments(run.draws, known.mean, known.variance)


def test_temperature_widens_the_posterior():
    posterior, known = linear_regression()
    posterior.temperature = 4.0
    run = sample(
        posterior,
        hmc_fast.HMC(0.1, num_leapfrog=4, jitter=0.3),
        chains=384,
        burn_in=25,
        draws=32,
    )
    check_moments(run.draws, known.mean, 4 * known.variance)


def test_inverse_mass_leaves_the_law_alone():
    known = correlated_gaussian()
    run = sample(
        known.density,
        hmc_fast.HMC(0.4, num_leapfrog=10, jitter=0.3, inverse_mass=torch.tensor(known.variance)),
        chains=384,
        burn_in=25,
        draws=40,
        init=torch.tensor(known.mean),
    )
    assert run.acceptance_rate > 0.5
    check_moments(run.draws, known.mean, known.variance)


def test_jitter_is_uniform_around_the_number_of_steps():
    density = hmc_fast.Density(lambda theta: -0.5 * (theta**2).sum(), 2)
    sampler = hmc_fast.HMC(1e-3, num_leapfrog=50, jitter=0.4)
    state = sampler.init(density, torch.zeros(1, 2))
    steps = []
    for _ in range(60):
        _, info = sampler.step(state)
        steps.append(info.num_leapfrog)
    assert min(steps) >= 30
    assert max(steps) <= 70
    assert abs(np.mean(steps) - 50) < 4 * 20 / np.sqrt(3 * 60)


def test_without_a_test_in_burn_in_alone_every_finite_proposal_is_taken():
    density = hmc_fast.Density(lambda theta: -0.5 * (theta**2).sum(), 4, dtype=torch.float64)
    sampler = hmc_fast.HMC(2.5, num_leapfrog=8, test_in_burn_in=False)  # unstable: energies grow without bound
    state = sampler.init(density, torch.ones(3, 4, dtype=torch.float64))
    _, info = sampler.step(state, warming_up=True)
    assert info.accepted.all()
    assert (info.accept_prob < 1e-3).all()
    before = state.theta.clone()
    _, info = sampler.step(state)
    assert not info.accepted.any()
    assert torch.equal(state.theta, before)
