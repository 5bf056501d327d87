"""Microcanonical dynamics: its kick, its geometry, and the laws of the two samplers made of it."""

import numpy as np
import pytest
import torch

import hmc_fast
from hmc_fast.adaptation import EnergyVariance
from hmc_fast.dynamics.isokinetic import isokinetic_kick
from hmc_fast.results.diagnostics import ess_bulk, rhat
from hmc_fast.samplers.protocol import restore, state_tensors
from targets import check_moments, correlated_gaussian, linear_regression, skewed


def directions(chains, dim, seed=0):
    u = torch.randn(chains, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return u / u.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("dim", [2, 3, 17])
def test_a_kick_solves_its_differential_equation(dim):
    """du/dt = (1 - u u^T) g / (D - 1), by many small explicit steps of fourth order; dK' = e.u' |g|."""
    u, force = directions(5, dim), 4 * directions(5, dim, seed=1)

    def slope(v):
        return (force - v * (v * force).sum(1, keepdim=True)) / (dim - 1)

    step, count, v, kinetic = 0.7, 2000, u.clone(), torch.zeros(5, dtype=torch.float64)
    h = step / count
    for _ in range(count):
        before = (v * force).sum(1)
        a = slope(v)
        b = slope(v + h / 2 * a)
        c = slope(v + h / 2 * b)
        d = slope(v + h * c)
        v = v + h / 6 * (a + 2 * b + 2 * c + d)
        kinetic += h / 2 * (before + (v * force).sum(1))
    change = isokinetic_kick(u, force, torch.full((5,), step, dtype=torch.float64))
    torch.testing.assert_close(u, v, rtol=0, atol=1e-8)
    torch.testing.assert_close(change, kinetic, rtol=0, atol=1e-6)


def test_kicks_of_any_strength_keep_the_length_and_too_strong_ones_say_so():
    for strength in (0.0, 1e-8, 1.0, 1e3, 1e8):
        u = directions(6, 4)
        force = strength * torch.cat((u[:2], -u[2:4], directions(2, 4, seed=3)))  # along, against, across
        change = isokinetic_kick(u, force, torch.ones(6, dtype=torch.float64))
        torch.testing.assert_close(u.norm(dim=1), torch.ones(6, dtype=torch.float64))
        assert not change.isnan().any()
        assert (torch.isfinite(change) == (strength < 20)).all()
        if strength == 0:
            assert torch.equal(change, torch.zeros(6, dtype=torch.float64))


def adjusted(target, step_size, num_leapfrog, theta, seed=0):
    sampler = hmc_fast.AdjustedMCLMC(step_size, num_leapfrog=num_leapfrog)
    return sampler, sampler.init(target, theta, seed=seed)


def test_energy_error_is_of_second_order():
    known, errors = skewed(), []
    for halvings in range(4):
        sampler, state = adjusted(
            known.density, 0.4 / 2**halvings, 4 * 2**halvings, torch.zeros(16, 2, dtype=torch.float64)
        )
        errors.append(sampler.step(state)[1].energy_error.abs().mean().item())
    orders = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    assert (np.abs(orders[1:] - 2) < 0.2).all(), orders


def test_a_trajectory_is_its_own_reverse():
    known = correlated_gaussian()
    sampler, state = adjusted(known.density, 0.05, 12, torch.tensor(known.mean) + 0.1 * directions(4, 3))
    state.call(sampler.begin)
    start, u = state.proposal.theta.clone(), state.proposal.momentum.clone()
    state.trajectory.run(12)
    assert (state.proposal.theta - start).abs().max() > 0.05
    there = state.kinetic_change.clone()
    state.proposal.momentum.neg_()
    state.trajectory.run(12)
    torch.testing.assert_close(state.proposal.theta, start, rtol=0, atol=1e-10)
    torch.testing.assert_close(state.proposal.momentum, -u, rtol=0, atol=1e-10)
    torch.testing.assert_close(state.kinetic_change, 0 * there, rtol=0, atol=1e-9)  # back again


def test_the_kinetic_change_is_the_logarithm_of_the_volume():
    """exp(-dK) is the Jacobian determinant of the map (theta, u) -> (theta', u') on R^3 x sphere: what makes the
    test exact."""
    known = skewed_three()

    def trajectory(theta, u):
        sampler, state = adjusted(known, 0.5, 3, theta[None])
        state.call(sampler.begin)
        state.proposal.momentum.copy_(u[None])
        state.trajectory.run(3)
        return state.proposal.theta[0].clone(), state.proposal.momentum[0].clone(), float(state.kinetic_change)

    theta, u = torch.tensor([0.3, -0.8, 0.5], dtype=torch.float64), directions(1, 3)[0]
    *end, change = trajectory(theta, u)
    first, last, eps = tangents(u), tangents(end[1]), 1e-6
    columns = []
    for index in range(5):
        moved = []
        for sign in (1, -1):
            shifted, turned = theta.clone(), u.clone()
            if index < 3:
                shifted[index] += sign * eps
            else:
                turned = turned + sign * eps * first[index - 3]
                turned = turned / turned.norm()
            new_theta, new_u, _ = trajectory(shifted, turned)
            moved.append(torch.cat((new_theta, last @ new_u)))
        columns.append((moved[0] - moved[1]) / (2 * eps))
    volume = torch.linalg.det(torch.stack(columns, 1)).abs().log().item()
    assert abs(change) > 0.02
    assert volume == pytest.approx(-change, abs=1e-5)


def skewed_three():
    return hmc_fast.Density(lambda theta: (2 * theta - torch.exp(theta)).sum(), 3, dtype=torch.float64)


def tangents(u):
    """An orthonormal basis of the plane at right angles to u, as rows."""
    return torch.linalg.svd(u[None])[2][1:]


@pytest.mark.parametrize(("name", "step_size"), [("correlated", 0.11), ("skewed", 1.6)])
def test_adjusted_mclmc_matches_known_moments(name, step_size):
    known = {"correlated": correlated_gaussian, "skewed": skewed}[name]()
    run = hmc_fast.run(
        known.density,
        hmc_fast.AdjustedMCLMC(step_size, num_leapfrog=24 if name == "correlated" else 3, jitter=0.4),
        chains=64,
        burn_in=100,
        draws=300,
        init=torch.tensor(known.mean),
        progress=False,
    )
    assert 0.3 < run.acceptance_rate < 0.97
    check_moments(run.draws, known.mean, known.variance)


def test_adjusted_mclmc_on_a_posterior_with_a_metric():
    posterior, known = linear_regression()
    run = hmc_fast.run(
        posterior,
        hmc_fast.AdjustedMCLMC(
            1.3, num_leapfrog=4, jitter=0.4, inverse_mass=torch.tensor(known.variance * [1.0, 1.7])
        ),
        chains=64,
        burn_in=50,
        draws=300,
        init=torch.tensor(known.mean),
        draw_dtype=torch.float32,
        progress=False,
    )
    assert 0.3 < run.acceptance_rate < 0.97
    check_moments(run.draws, known.mean, known.variance)


def gaussian(scales):
    precision = torch.tensor(1 / scales**2)
    return hmc_fast.Density(lambda theta: -0.5 * (theta**2 * precision).sum(), len(scales), dtype=torch.float64)


@pytest.mark.statistical
def test_the_bias_of_unadjusted_mclmc_shrinks_with_its_step():
    """Its variances on 20 coordinates: a wide error at a coarse step, hardly any at a fine one."""
    scales, errors = np.linspace(0.5, 2.0, 20), []
    for step_size in (3.2, 0.8):
        run = hmc_fast.run(
            gaussian(scales),
            hmc_fast.MCLMC(step_size, decoherence_length=5.0, steps_per_iteration=int(8 / step_size)),
            chains=64,
            burn_in=200,
            draws=400,
            progress=False,
        )
        draws = np.asarray(run.draws)
        errors.append(np.abs((draws**2).mean((0, 1)) / scales**2 - 1).mean())
    assert errors[0] > 0.1
    assert errors[1] < 0.02, errors


@pytest.mark.parametrize(
    "make", [pytest.param(hmc_fast.MCLMC, marks=pytest.mark.statistical), hmc_fast.AdjustedMCLMC]
)
def test_no_numbers_given(make):
    """Scales over three decades; what is learned is all there is."""
    scales = np.logspace(-2, 1, 12)
    run = hmc_fast.run(
        gaussian(scales),
        make(adapt=True),
        chains=16,
        burn_in=300,
        draws=300,
        init=torch.randn(16, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64),
        progress=False,
    )
    chains = np.moveaxis(np.asarray(run.draws), 0, 1)
    assert rhat(chains).max() < 1.02
    check_moments(run.draws, np.zeros(12), scales**2, bias=0.03 if make is hmc_fast.MCLMC else 0.0)
    assert ess_bulk(chains).min() > 300


def test_steps_that_are_not_finite_do_not_poison_the_learning():
    """Beyond |theta| = 3 the density is NaN: a hard wall that the first, longest steps run into."""

    def log_density(theta):
        return torch.where((theta.abs() > 3).any(), torch.nan, -0.5 * (theta**2).sum())

    target = hmc_fast.Density(log_density, 4, dtype=torch.float64)
    sampler = hmc_fast.MCLMC(50.0, adapt=True)
    state = sampler.init(target, torch.zeros(8, 4, dtype=torch.float64), seed=0, warm_up_iterations=200)
    for _ in range(200):
        _, info = sampler.step(state, warming_up=True)
    assert torch.isfinite(state.theta).all()
    assert torch.isfinite(info.energy_error).all()
    assert 0.01 < float(info.step_size[0]) < 3


def test_what_was_learned_is_frozen_after_burn_in():
    arguments = {"chains": 4, "burn_in": 40, "draws": 30, "progress": False, "seed": 3}
    whole = hmc_fast.run(gaussian(np.logspace(-1, 1, 5)), hmc_fast.MCLMC(), **arguments)
    step_sizes = whole.trace.loc[whole.trace["phase"] == "sampling", "step_size"]
    assert step_sizes.nunique() == 1
    assert whole.trace["step_size"].nunique() > 20


def test_learning_goes_on_from_a_checkpoint():
    target, sampler = gaussian(np.logspace(-1, 1, 5)), hmc_fast.MCLMC()
    theta = torch.zeros(3, 5, dtype=torch.float64)
    state, copy = (sampler.init(target, theta, seed=2, warm_up_iterations=60) for _ in range(2))
    for _ in range(30):
        sampler.step(state, warming_up=True)
    restore(copy, {name: tensor.clone() for name, tensor in state_tensors(state).items()})
    for iteration in range(30, 70):
        sampler.step(state, warming_up=iteration < 60)
        sampler.step(copy, warming_up=iteration < 60)
    assert torch.equal(state.theta, copy.theta)
    assert torch.equal(state.coefficients, copy.coefficients)
    assert torch.equal(state.tuner, copy.tuner)


def test_energy_variance_finds_the_step_size_of_its_target():
    """dE = eps^3 z has variance eps^6: with D v = 1e-3 the step size is 1e-3^(1/6)."""
    state = torch.zeros(EnergyVariance.rows, dtype=torch.float64)
    tuner = EnergyVariance(state, 10, 1e-4)
    tuner.restart(3.0)
    generator = torch.Generator().manual_seed(0)
    steps = []
    for _ in range(2000):
        error = tuner.step_size**3 * torch.randn(8, generator=generator, dtype=torch.float64)
        tuner.update(error, torch.ones(8, dtype=torch.bool))
        steps.append(float(tuner.step_size))
    # the weights favour draws near the target, so the centre of the estimate lies a little off
    assert np.mean(steps[500:]) == pytest.approx(1e-3 ** (1 / 6), rel=0.1)


def test_a_single_parameter_is_refused():
    target = hmc_fast.Density(lambda theta: -0.5 * (theta**2).sum(), 1)
    for sampler in (hmc_fast.MCLMC(0.1), hmc_fast.AdjustedMCLMC(0.1, num_leapfrog=2)):
        with pytest.raises(hmc_fast.UserError, match="2 parameters or more"):
            sampler.init(target, torch.zeros(1, 1))
