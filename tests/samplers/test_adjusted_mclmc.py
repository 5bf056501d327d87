"""Adjusted MCLMC: order, reversibility, the volume in its energy error, and known moments."""

import numpy as np
import pytest
import torch

import hmc_fast
from cases import directions, sample
from targets import check_moments, correlated_gaussian, linear_regression, skewed


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
    state.trajectory.set_length(12)
    state.trajectory.run()
    assert (state.proposal.theta - start).abs().max() > 0.05
    there = state.kinetic_change.clone()
    state.proposal.momentum.neg_()
    state.trajectory.set_length(12)
    state.trajectory.run()
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
        state.trajectory.set_length(3)
        state.trajectory.run()
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
    run = sample(
        known.density,
        hmc_fast.AdjustedMCLMC(step_size, num_leapfrog=24 if name == "correlated" else 3, jitter=0.4),
        chains=512,
        burn_in=40,
        draws=40,
        init=torch.tensor(known.mean),
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
        chains=512,
        burn_in=30,
        draws=40,
        init=torch.tensor(known.mean),
        draw_dtype=torch.float32,
        progress=False,
    )
    assert 0.3 < run.acceptance_rate < 0.97
    check_moments(run.draws, known.mean, known.variance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_step_has_the_length_set_last(dtype):
    """At unit speed a step of eps moves by eps, also where adaptation has changed eps since the state was made."""
    density = hmc_fast.Density(lambda theta: -0.5 * (theta**2).sum(), 5, dtype=dtype)
    sampler = hmc_fast.AdjustedMCLMC(0.1, num_leapfrog=1)
    state = sampler.init(density, torch.zeros(2, 5, dtype=dtype))
    state.set_step_size(torch.tensor([0.3, 0.7]))
    state.trajectory.set_length(1)
    sampler.propose(state)
    torch.testing.assert_close(state.proposal.theta.norm(dim=1), torch.tensor([0.3, 0.7], dtype=dtype))
