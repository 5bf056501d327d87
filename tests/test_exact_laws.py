"""Samplers with a Metropolis test, other than HMC, against known laws at steps so coarse that the test matters."""

import numpy as np
import pytest
import torch

import hmc_fast
import targets
from hmc_fast.kernels import ops
from targets import check_moments, correlated_gaussian, linear_regression, skewed

KNOWN = {"correlated": correlated_gaussian, "skewed": skewed}
SAMPLERS = {
    "ghmc, skewed": ("skewed", lambda: hmc_fast.GHMC(1.1, friction=0.8)),
    "ghmc drifting, skewed": ("skewed", lambda: hmc_fast.GHMC(1.1, friction=0.8, acceptance_drift=0.3)),
    "ghmc, several steps": ("correlated", lambda: hmc_fast.GHMC(0.06, friction=1.0, num_leapfrog=16)),
    "amagold, full batch": ("skewed", lambda: hmc_fast.AMAGOLD(0.9, friction=0.4, num_leapfrog=3)),
}
ON_DATA = {
    "ghmc": lambda: hmc_fast.GHMC(0.08, friction=6.0),
    "split_hmc": lambda: hmc_fast.SplitHMC(0.14, num_splits=3, num_leapfrog=2),
    "split_hmc, with mass": lambda: hmc_fast.SplitHMC(
        0.75, num_splits=3, num_leapfrog=1, inverse_mass=torch.tensor([0.01, 0.02])
    ),
    "split_hmc, two subsets": lambda: hmc_fast.SplitHMC(0.1, num_splits=2, num_leapfrog=2),
    "amagold": lambda: hmc_fast.AMAGOLD(0.022, friction=1.0, batch_size=24, num_leapfrog=3),
    "amagold, with mass": lambda: hmc_fast.AMAGOLD(
        0.2, friction=0.2, batch_size=24, num_leapfrog=3, inverse_mass=torch.tensor([0.01, 0.012])
    ),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_exact_samplers_match_known_moments(name):
    target, make = SAMPLERS[name]
    known = KNOWN[target]()
    run = hmc_fast.run(
        known.density,
        make(),
        chains=64,
        burn_in=50,
        draws=300,
        init=torch.tensor(known.mean),
        draw_dtype=torch.float32,
        progress=False,
    )
    assert 0.3 < run.acceptance_rate < 0.97
    check_moments(run.draws, known.mean, known.variance)


@pytest.mark.parametrize("name", ON_DATA)
def test_exact_samplers_match_a_posterior_in_closed_form(name):
    posterior, known = linear_regression()
    run = hmc_fast.run(
        posterior,
        ON_DATA[name](),
        chains=64,
        burn_in=50,
        draws=200,
        init=torch.tensor(known.mean),
        draw_dtype=torch.float32,
        progress=False,
    )
    assert 0.3 < run.acceptance_rate < 0.95
    check_moments(run.draws, known.mean, known.variance)


@pytest.mark.parametrize(
    "make",
    [
        lambda: hmc_fast.GHMC(0.8, friction=0.8),
        lambda: hmc_fast.AMAGOLD(0.6, friction=0.4, num_leapfrog=3),
        lambda: hmc_fast.AdjustedMCLMC(1.2, num_leapfrog=3, jitter=0.4),
        lambda: hmc_fast.MCLMC(0.5, decoherence_length=2.0, steps_per_iteration=6),
    ],
)
def test_temperature_widens_the_law(make):
    density = hmc_fast.Density(
        lambda theta: -0.5 * (theta**2).sum(), 4, temperature=2.5, dtype=torch.float64
    ).prepared(compiled=targets.PATH == "compiled")
    run = hmc_fast.run(density, make(), chains=64, burn_in=50, draws=300, progress=False)
    check_moments(run.draws, np.zeros(4), np.full(4, 2.5), bias=0.03 if run.acceptance_rate is None else 0.0)


def state_of(sampler, posterior, seed=1):
    return sampler.init(posterior, posterior.initial(torch.tensor([1.0, -2.0]), 3, 0), seed=seed)


def energy(posterior, theta, momentum):
    potential, _ = posterior.potential_and_grad(theta)
    return potential + (momentum**2).double().sum(1) / 2


@pytest.mark.parametrize("num_splits", [2, 3, 5, 64])
def test_split_hmc_follows_the_posterior_to_second_order(num_splits):
    """64 data in 3 or 5 subsets of unequal size: were their shares wrong, the error would not vanish."""
    posterior, _ = linear_regression()
    errors = []
    for halvings in range(3):
        sampler = hmc_fast.SplitHMC(0.02 / 2**halvings, num_splits=num_splits, num_leapfrog=6 * 2**halvings)
        state = state_of(sampler, posterior)
        _, info = sampler.step(state)
        errors.append(info.energy_error.abs().numpy())
        start = energy(posterior, posterior.initial(torch.tensor([1.0, -2.0]), 3, 0), state.origin.momentum)
        end = energy(posterior, state.proposal.theta, state.proposal.momentum)
        np.testing.assert_allclose(info.energy_error, end - start, atol=1e-6)
    orders = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    assert (orders > 1.8).all(), orders


@pytest.mark.parametrize("num_splits", [2, 3, 5])
def test_a_split_trajectory_is_its_own_reverse(num_splits):
    posterior, _ = linear_regression()
    sampler = hmc_fast.SplitHMC(0.1, num_splits=num_splits, num_leapfrog=3)
    state = state_of(sampler, posterior)
    state.call(sampler.begin)
    start = state.proposal.theta.clone(), state.proposal.momentum.clone()
    sampler.trajectory(state)
    assert (state.proposal.theta - start[0]).abs().min() > 1e-3
    state.proposal.momentum.neg_()
    sampler.trajectory(state)
    torch.testing.assert_close(state.proposal.theta, start[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(state.proposal.momentum, -start[1], rtol=0, atol=1e-11)


def test_split_hmc_visits_subsets_there_and_back():
    sampler = hmc_fast.SplitHMC(0.1, num_splits=3, num_leapfrog=2)
    visits = list(sampler.visits(2))
    assert [v.subset for v in visits] == [0, 1, 2, 1, 0, 1, 2, 1, 0]
    assert [v.kicks for v in visits] == [1, 1, 2, 1, 2, 1, 2, 1, 1]
    assert [v.drifts for v in visits] == [True] * 8 + [False]
    assert len(visits) == sampler.gradients_per_iteration(None)


def test_amagold_without_noise_is_hamiltonian():
    """Full data and no friction: rho is the loss of kinetic energy, so its test is HMC's."""
    posterior, _ = linear_regression()
    sampler = hmc_fast.AMAGOLD(0.03, friction=0.0, num_leapfrog=5)
    state = state_of(sampler, posterior)
    start = state.theta.clone()
    _, info = sampler.step(state)
    error = energy(posterior, state.proposal.theta, state.proposal.momentum) - energy(
        posterior, start, state.origin.momentum
    )
    np.testing.assert_allclose(info.energy_error, error, rtol=1e-5, atol=1e-6)
    assert info.energy_error.abs().max() > 1e-3


def test_amagolds_batches_are_uniform_and_independent_of_the_past():
    posterior, _ = linear_regression()
    sampler = hmc_fast.AMAGOLD(1e-6, friction=1.0, batch_size=8, num_leapfrog=1)
    state = state_of(sampler, posterior)
    seen = []
    plain = posterior.log_likelihood_and_grad

    def watching(theta, grad, log_lik, indices=None):
        seen.append(indices.clone())
        plain(theta, grad, log_lik, indices)

    posterior.log_likelihood_and_grad = watching
    for _ in range(800):
        sampler.step(state)
    counts = torch.bincount(torch.cat(seen).flatten(), minlength=64).numpy()
    expected = 800 * 8 * 3 / 64
    assert len(counts) == 64
    assert ((counts - expected) ** 2 / expected).sum() < 63 + 5 * np.sqrt(2 * 63)
    assert any(len(row.unique()) < 8 for row in seen[0]) or any(len(row.unique()) < 8 for b in seen for row in b)


def test_ghmc_keeps_its_momentum_and_turns_it_at_a_rejection():
    known = skewed()
    sampler = hmc_fast.GHMC(1.8, friction=1e-3)  # hardly any of the momentum is new
    state = sampler.init(known.density, torch.zeros(64, 2, dtype=torch.float64), seed=0)
    turned = moved = 0
    for _ in range(20):
        before = state.momentum.clone()
        _, info = sampler.step(state)
        kept = torch.where(info.accepted[:, None], state.proposal.momentum, -state.origin.momentum)
        assert torch.equal(state.momentum, kept)
        share = (before * state.origin.momentum).sum(1) / (before.norm(dim=1) * state.origin.momentum.norm(dim=1))
        assert (share > 0.5).float().mean() > 0.9, "the old momentum lives on"
        turned, moved = turned + int((~info.accepted).sum()), moved + int(info.accepted.sum())
    assert turned > 10
    assert moved > 10


def test_the_acceptance_variable_stays_uniform():
    """Its law must be that of fresh uniforms, whatever the target."""
    if targets.PATH == "compiled":
        pytest.skip("the law is tested above")
    known = skewed()
    sampler = hmc_fast.GHMC(1.1, friction=0.8, acceptance_drift=0.3)
    state = sampler.init(known.density, torch.tensor(known.mean).repeat(256, 1), seed=0)
    values = []
    for iteration in range(300):
        sampler.step(state)
        if iteration >= 60 and iteration % 12 == 0:
            values.append(state.acceptance_variable.clone())
    values = torch.cat(values).numpy()
    assert (np.abs(values) <= 1).all()
    counts = np.histogram(values, 20, (-1, 1))[0]
    expected = len(values) / 20
    assert ((counts - expected) ** 2 / expected).sum() < 19 + 6 * np.sqrt(2 * 19), counts


def test_more_splits_or_a_larger_batch_than_data_are_refused():
    posterior, _ = linear_regression(num_data=8)
    theta = posterior.initial("prior", 1, 0)
    with pytest.raises(hmc_fast.UserError, match="splits 9 must not exceed the 8"):
        hmc_fast.SplitHMC(0.1, num_splits=9, num_leapfrog=1).init(posterior, theta)
    with pytest.raises(hmc_fast.UserError, match="batch size 9 must lie between 1 and the 8"):
        hmc_fast.AMAGOLD(0.1, friction=1.0, batch_size=9).init(posterior, theta)


def test_coefficients_hold_amagolds_update():
    """m' = ((1 - e b) m + e g + eta) / (1 + e b), eta ~ N(0, 4 e b), and a drift of e / 2."""
    posterior, _ = linear_regression()
    eps, beta = 0.3, 0.7
    state = state_of(hmc_fast.AMAGOLD(eps, friction=beta, batch_size=8), posterior)
    kick, drift, decay, noise = (
        float(state.coefficients[0, column]) for column in (ops.KICK, ops.DRIFT, ops.DECAY, ops.NOISE)
    )
    assert kick == pytest.approx(eps / (1 + eps * beta))
    assert drift == pytest.approx(eps / 2)
    assert decay == pytest.approx((1 - eps * beta) / (1 + eps * beta))
    assert noise**2 == pytest.approx(4 * eps * beta / (1 + eps * beta) ** 2)
