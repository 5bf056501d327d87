"""The gradient pass: chains batched in every way, micro-batches, minibatches, predictions."""

import pytest
import torch
from torch import nn

import hmc_fast
from cases import data, network
from hmc_fast.models import lenet5


def expected(posterior, row, x, y, scale=1.0):
    """U and its gradient, by hand."""
    row = row.clone().requires_grad_()
    log_lik = -nn.functional.cross_entropy(posterior.flat(row, x), y, reduction="sum") * scale
    std = torch.tensor(0.2, dtype=torch.float64).sqrt()
    log_prior = torch.distributions.Normal(torch.zeros_like(std), std).log_prob(row).sum()
    potential = -(log_lik + log_prior) / posterior.temperature
    return potential.item(), torch.autograd.grad(potential, row)[0]


@pytest.mark.parametrize("chain_batching", ["vmap", "loop"])
@pytest.mark.parametrize("micro_batch_size", [1, 7, 20, 1000])
@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_potential_and_gradient(chain_batching, micro_batch_size, temperature):
    x, y = data()
    posterior = hmc_fast.Posterior(
        network(),
        (x, y),
        prior=hmc_fast.Normal(0.2),
        temperature=temperature,
        micro_batch_size=micro_batch_size,
        chain_batching=chain_batching,
    )
    theta = posterior.initial("prior", 3, 0)
    potential, grad = posterior.potential_and_grad(theta)
    for chain, row in enumerate(theta):
        value, gradient = expected(posterior, row, x, y)
        assert potential[chain].item() == pytest.approx(value, rel=1e-10)
        torch.testing.assert_close(grad[chain], gradient)


@pytest.mark.parametrize("chain_batching", ["vmap", "loop"])
def test_a_minibatch_is_scaled_by_n_over_b_and_log_likelihoods_are_not(chain_batching):
    x, y = data()
    posterior = hmc_fast.Posterior(
        network(), (x, y), prior=hmc_fast.Normal(0.2), chain_batching=chain_batching, micro_batch_size=3
    )
    theta = posterior.initial("prior", 2, 0)
    indices = torch.tensor([[0, 3, 5, 7, 9], [1, 2, 4, 6, 8]])
    potential, grad = posterior.potential_and_grad(theta, indices)
    for chain, row in enumerate(theta):
        value, gradient = expected(posterior, row, x[indices[chain]], y[indices[chain]], scale=4.0)
        assert potential[chain].item() == pytest.approx(value, rel=1e-10)
        torch.testing.assert_close(grad[chain], gradient)
    log_lik = torch.empty(2, 5, dtype=torch.float64)
    posterior.log_likelihood_and_grad(theta, torch.empty_like(theta), log_lik, indices)
    row0 = -nn.functional.cross_entropy(posterior.flat(theta[0], x[indices[0]]), y[indices[0]], reduction="none")
    torch.testing.assert_close(log_lik[0], row0)


def test_model_defaults_batch_convolutions_by_loop():
    images = torch.randn(4, 1, 28, 28), torch.randint(0, 10, (4,))
    assert hmc_fast.Posterior(lenet5(), images).chain_batching == "loop"
    assert hmc_fast.Posterior(network(torch.float32), data(dtype=torch.float32)).chain_batching == "vmap"


@pytest.mark.parametrize("capability", ["AVX512", "AVX2"])
@pytest.mark.parametrize("channels", [16, 24])
def test_vectors_are_halved_where_channels_do_not_fill_them(monkeypatch, capability, channels):
    """On a CPU without full vectors the option would turn vectors off."""
    options = []
    monkeypatch.setattr(torch, "compile", lambda function, **given: options.append(given["options"]) or function)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    model = nn.Sequential(nn.Conv2d(1, channels, 3), nn.Flatten(), nn.Linear(36 * channels, 3))
    posterior = hmc_fast.Posterior(model, (torch.randn(4, 1, 8, 8), torch.arange(4) % 3)).prepared(path="compiled")
    posterior.potential_and_grad(posterior.initial("prior", 1, 0))
    halved = capability == "AVX512" and channels == 24
    assert [given.get("cpp.simdlen") for given in options] == [256 if halved else None]


def test_predictions_do_not_depend_on_the_batching():
    x, y = data()
    theta = None
    results = []
    for batching in ("vmap", "loop"):
        posterior = hmc_fast.Posterior(network(), (x, y), chain_batching=batching)
        theta = posterior.initial("prior", 3, 0) if theta is None else theta
        results.append(posterior.predict(theta, x, batch_size=6))
    assert results[0].shape == (3, 20, 3)
    torch.testing.assert_close(*results)
    torch.testing.assert_close(results[0].sum(-1), torch.ones(3, 20, dtype=torch.float64))
