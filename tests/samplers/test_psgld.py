"""pSGLD: RMSprop in burn-in, SGLD with a fixed preconditioner after it."""

import numpy as np
import pytest
import torch

import hmc_fast
from targets import check_moments, gaussian, linear_regression


def test_psgld_is_rmsprop_in_burn_in_and_sgld_after():
    eps, decay, damping, scale = 0.3, 0.9, 1e-3, torch.tensor([0.2, 1.0], dtype=torch.float64)
    target = gaussian(np.diag(scale.numpy() ** 2))
    sampler = hmc_fast.PSGLD(eps, decay=decay, damping=damping, steps_per_iteration=1)
    state = sampler.init(target, scale.repeat(1024, 1), warm_up_iterations=40)
    mean_square = torch.zeros(1024, 2, dtype=torch.float64)
    for t in range(40):
        share = max(1 / (t + 1), 1 - decay)
        mean_square = (1 - share) * mean_square + share * (state.theta / scale**2) ** 2
        sampler.step(state, warming_up=True)
    torch.testing.assert_close(state.mean_square, mean_square, rtol=1e-6, atol=1e-12)
    preconditioner = 1 / (damping + mean_square.sqrt())
    sampler.steps_per_iteration, draws = 10, []
    for _ in range(55):
        sampler.step(state)
        draws.append(state.theta.numpy().copy())
    torch.testing.assert_close(state.preconditioner, preconditioner, rtol=1e-6, atol=1e-12)
    # each chain's stationary distribution: SGLD with step eps G on stiffness k
    rate = eps * preconditioner
    expected = (rate / (1 - (1 - rate / (2 * scale**2)) ** 2)).numpy()
    assert (expected.mean(0) / scale.numpy() ** 2).max() > 1.1, "the discretisation must show"
    check_moments(np.stack(draws)[15:] / np.sqrt(expected), np.zeros(2), np.ones(2))


def test_the_preconditioner_is_that_of_the_mean_gradient():
    posterior, _ = linear_regression()
    theta = posterior.initial("prior", 2, 0)
    grad, log_lik = torch.empty_like(theta), theta.new_empty(2, posterior.num_data)
    posterior.log_likelihood_and_grad(theta, grad, log_lik)
    sampler = hmc_fast.PSGLD(1e-6, steps_per_iteration=1)
    state = sampler.init(posterior, theta, warm_up_iterations=1)
    sampler.step(state, warming_up=True)
    torch.testing.assert_close(state.mean_square, (grad / posterior.num_data) ** 2)


def test_psgld_without_burn_in_is_refused():
    with pytest.raises(hmc_fast.UserError, match="burn_in is 0"):
        hmc_fast.PSGLD(1e-3).init(gaussian(np.eye(2)), torch.zeros(1, 2, dtype=torch.float64))
