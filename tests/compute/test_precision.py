"""Low precision: for the gradient alone, with exact energies."""

import torch

import hmc_fast
from cases import data, network


def test_low_precision_is_for_the_gradient_alone():
    x, y = data(dtype=torch.float32)
    exact = hmc_fast.Posterior(network(torch.float32), (x, y))
    low = hmc_fast.Posterior(exact._trainable(), (x, y), precision="bf16")
    assert exact.exact_gradient_pass
    assert not low.exact_gradient_pass
    theta = exact.initial("model", 2, 0)
    values = []
    for posterior in (exact, low):
        grad, log_lik, again = torch.empty_like(theta), torch.empty(2, 20), torch.empty(2, 20)
        posterior.log_likelihood_and_grad(theta, grad, log_lik)
        posterior.log_likelihood(theta, again)
        values.append((grad, log_lik, again))
    assert not torch.equal(values[0][0], values[1][0])
    torch.testing.assert_close(values[0][0], values[1][0], atol=0.3, rtol=0.1)
    assert torch.equal(values[0][2], values[1][2])
    torch.testing.assert_close(values[0][1], values[0][2])


def test_hmc_in_low_precision_still_targets_the_exact_posterior():
    """The recorded energy error is that of exact energies: it must match a float64 evaluation."""
    x, y = data(dtype=torch.float32)
    model = network(torch.float32)
    low = hmc_fast.Posterior(model, (x, y), prior=hmc_fast.Normal(0.2), precision="bf16")
    sampler = hmc_fast.HMC(0.1, num_leapfrog=5)
    state = sampler.init(low, low.initial("prior", 2, 0), seed=1)
    before = state.theta.clone()
    _, info = sampler.step(state)
    exact = hmc_fast.Posterior(model.double(), (x.double(), y), prior=hmc_fast.Normal(0.2))
    new, old = (exact.potential_and_grad(t.double())[0] for t in (state.proposal.theta, before))
    kinetic = 0.5 * (state.proposal.momentum.double() ** 2 - state.origin.momentum.double() ** 2).sum(1)
    torch.testing.assert_close(info.energy_error, new - old + kinetic, atol=1e-4, rtol=1e-4)
