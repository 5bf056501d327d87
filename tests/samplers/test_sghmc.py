"""SGHMC: its discretisation's stationary distribution, skewed and conjugate targets, chains that blow up."""

import numpy as np
import pytest
import torch
from scipy.linalg import solve_discrete_lyapunov

import hmc_fast
from cases import sample
from targets import check_moments, linear_regression, skewed


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
    run = sample(
        density,
        hmc_fast.SGHMC(step_size, friction=friction, steps_per_iteration=15),
        chains=640,
        burn_in=15,
        draws=30,
        init=torch.zeros(4),
    )
    check_moments(run.draws, np.zeros(4), np.full(4, expected))


def test_sghmc_on_a_skewed_target():
    known = skewed()
    run = sample(
        known.density,
        hmc_fast.SGHMC(0.1, friction=1.0, steps_per_iteration=30),
        chains=512,
        burn_in=12,
        draws=24,
        init=torch.zeros(2),
    )
    check_moments(run.draws, known.mean, known.variance, bias=0.02)


def test_sghmc_minibatches_find_the_conjugate_posterior():
    """A minibatch likelihood that is not scaled by N/B would give four times the variance."""
    posterior, known = linear_regression()
    run = sample(
        posterior,
        hmc_fast.SGHMC(0.006, friction=30.0, batch_size=16, steps_per_iteration=40),
        chains=256,
        burn_in=12,
        draws=24,
    )
    # gradient noise heats the chain by an amount of order step size / friction; it is not accounted for
    check_moments(run.draws, known.mean, known.variance, bias=0.1)


def test_noise_estimate_removes_noise():
    """With the noise estimate equal to the friction the dynamics lose energy and come to rest."""
    density = hmc_fast.Density(lambda theta: -0.5 * (theta**2).sum(), 3)
    run = sample(
        density,
        hmc_fast.SGHMC(0.1, friction=2.0, noise_estimate=2.0, steps_per_iteration=200),
        chains=2,
        burn_in=0,
        draws=2,
        init=torch.ones(3),
    )
    assert np.abs(run.draws[-1]).max() < 1e-3


def test_sghmc_names_a_chain_that_blew_up():
    density = hmc_fast.Density(lambda theta: -(theta**4).sum(), 2)
    with pytest.raises(hmc_fast.UserError, match=r"diverged to NaN or infinity at iteration .* smaller step size"):
        sample(
            density,
            hmc_fast.SGHMC(0.9, friction=1.0, steps_per_iteration=50),
            chains=2,
            burn_in=0,
            draws=5,
            init=torch.full((2,), 10.0),
        )
