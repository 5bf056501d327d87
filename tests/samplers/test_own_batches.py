"""`sampler.step(state, batch)` in a loop of the user's own: rows of the data, or examples (x, y)."""

import numpy as np
import pytest
import torch
from torch import nn

import hmc_fast
from cases import SAMPLERS, classifier, data, network

ON_BATCHES = [n for n in SAMPLERS if isinstance(SAMPLERS[n](), hmc_fast.samplers.minibatch_chain.MinibatchSampler)]
TESTED = [n for n in SAMPLERS if n not in ON_BATCHES]


def started(name, posterior):
    sampler = SAMPLERS[name]()
    return sampler, sampler.init(posterior, posterior.initial("prior", 3, 0), seed=1)


@pytest.mark.parametrize("name", ON_BATCHES)
def test_examples_are_as_good_as_their_rows(name):
    x, y = data()
    posterior = hmc_fast.Posterior(network(), (x, y), prior=hmc_fast.Normal(0.5))
    (sampler, one), (_, other) = (started(name, posterior) for _ in range(2))
    for size in (7, 18, 2):  # smaller and larger than the samplers' own
        rows = torch.randperm(len(y), generator=torch.Generator().manual_seed(size))[:size]
        _, by_rows = sampler.step(one, rows.expand(3, -1))
        _, by_examples = sampler.step(other, (x[rows], y[rows].numpy()))
        torch.testing.assert_close(by_examples.log_likelihood, by_rows.log_likelihood, rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(other.theta, one.theta, rtol=1e-9, atol=1e-12)
    assert one.steps.count == other.steps.count > 0
    sampler.step(one)  # and on with batches of their own
    sampler.step(other)
    torch.testing.assert_close(other.theta, one.theta, rtol=1e-9, atol=1e-12)
    assert other._scratch.log_lik.shape == (3, sampler.batch_size or 20)


def test_the_likelihood_of_a_batch_is_scaled_to_all_data():
    """One plain gradient step of SGLD: theta + eps/2 g without noise to speak of."""
    x, y = data()
    posterior = hmc_fast.Posterior(network(), (x, y), prior=hmc_fast.Normal(0.5))
    sampler = hmc_fast.SGLD(1e-16, batch_size=5, steps_per_iteration=1)
    state = sampler.init(posterior, posterior.initial("prior", 2, 0), seed=1)
    theta = state.theta.clone()
    _, info = sampler.step(state, (x[3:8], y[3:8]))
    expected, value = torch.empty_like(theta), theta.new_empty(2, 5)
    posterior.log_likelihood_and_grad(theta, expected, value, torch.arange(3, 8).expand(2, 5))
    torch.testing.assert_close(state.grad, expected, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(info.log_likelihood, 4 * value.sum(1), rtol=1e-6, atol=1e-6)


class ByName(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, features, weights):
        return self.layer(features) * weights


def test_inputs_by_name():
    x, y = data(dtype=torch.float32)
    inputs = {"features": x, "weights": np.ones((20, 1))}
    posterior = hmc_fast.Posterior(ByName(), (inputs, y))
    sampler = hmc_fast.SGHMC(0.02, friction=5.0, batch_size=4, steps_per_iteration=2)
    state = sampler.init(posterior, posterior.initial("model", 2, 0), seed=1)
    sampler.step(state, ({"features": x[:6], "weights": np.ones((6, 1))}, y[:6]))
    with pytest.raises(hmc_fast.UserError, match="the batch's inputs have shape"):
        sampler.step(state, ({"features": x[:6]}, y[:6]))


@pytest.mark.parametrize("name", TESTED)
def test_a_test_on_all_data_needs_all_data(name):
    posterior, x, y = classifier()
    sampler, state = started(name, posterior)
    with pytest.raises(hmc_fast.UserError, match="leave batch out, or use SGHMC"):
        sampler.step(state, (x[:4], y[:4]))


def test_adaptation_needs_all_data():
    posterior, x, y = classifier()
    sampler = hmc_fast.MCLMC(adapt=True)
    state = sampler.init(posterior, posterior.initial("prior", 2, 0), warm_up_iterations=20)
    with pytest.raises(hmc_fast.UserError, match="adapt needs the full data"):
        sampler.step(state, (x[:4], y[:4]), warming_up=True)


def test_a_density_has_no_examples():
    density = hmc_fast.Density(lambda theta: -(theta**2).sum(), 3)
    sampler = hmc_fast.SGLD(1e-3)
    state = sampler.init(density, density.initial("default", 2, 0))
    with pytest.raises(hmc_fast.UserError, match="a bare Density has no examples"):
        sampler.step(state, (torch.zeros(2, 3), torch.zeros(2)))


X, Y = torch.zeros(5, 4), torch.zeros(5, dtype=torch.int64)
MISTAKES = {
    "inputs alone": (X, r"batch is torch.float32 \(5, 4\): give a pair \(x, y\) of examples, or rows"),
    "rows of one chain": (torch.arange(5), r"batch is torch.int64 \(5,\)"),
    "rows of fewer chains": (torch.zeros(2, 5, dtype=torch.int64), r"rows of the data, int64 \(3, B\)"),
    "rows that are not there": (torch.full((3, 2), 80), r"rows 80..80: they must lie in 0..79"),
    "text": ("all", "batch is a str"),
    "a triple": ((X, Y, Y), "batch is a tuple"),
    "lengths": ((X, Y[:4]), "X has 5 examples but y has 4"),
    "no examples": ((X[:0], Y[:0]), "the data are empty"),
    "another shape": ((X[:, :3], Y), r"the batch's inputs have shape \(3,\) per example, but .* have \(4,\)"),
    "NaN": ((X + torch.nan, Y), "NaN or infinity in row 0"),
    "labels of another kind": ((X, Y.float()), r"the batch's y is torch.float32 \(5,\), but that of the data"),
    "labels of another shape": ((X, torch.zeros(5, 2).long()), r"y has shape \(5, 2\)"),
    "labels out of range": ((X, Y + 3), r"labels must be integers in 0..2"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_batch_that_does_not_fit_gets_one_sentence(name):
    batch, message = MISTAKES[name]
    sampler, state = started("sghmc", classifier()[0])
    theta = state.theta.clone()
    with pytest.raises(hmc_fast.UserError, match=message) as caught:
        sampler.step(state, batch)
    assert "\n" not in str(caught.value)
    assert torch.equal(state.theta, theta)
