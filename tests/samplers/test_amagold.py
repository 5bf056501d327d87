"""AMAGOLD: HMC without friction, uniform batches, its coefficients."""

import numpy as np
import pytest
import torch

import hmc_fast
from cases import state_of
from hmc_fast.kernels import ops
from targets import energy, linear_regression


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
