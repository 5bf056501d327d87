"""Likelihoods against torch.distributions."""

import pytest
import torch

import hmc_fast
from hmc_fast.targets import likelihoods


def test_likelihoods_against_torch_distributions():
    outputs, generator = torch.randn(6, 2, dtype=torch.float64), torch.Generator().manual_seed(0)
    y = torch.randn(6, generator=generator, dtype=torch.float64)
    std = torch.nn.functional.softplus(outputs[:, 1]) + 1e-3
    normal = torch.distributions.Normal
    hetero = likelihoods.resolve("heteroscedastic")
    torch.testing.assert_close(hetero.log_prob(outputs, y), normal(outputs[:, 0], std).log_prob(y))
    torch.testing.assert_close(hetero.predict(outputs), torch.stack((outputs[:, 0], std**2), -1))
    known = hmc_fast.Gaussian(0.3)
    torch.testing.assert_close(known.log_prob(outputs[:, :1], y), normal(outputs[:, 0], 0.3).log_prob(y))
    assert known.predict(outputs[:, :1])[:, 1].unique().item() == pytest.approx(0.09)
    binary = (y > 0).long()
    bernoulli = likelihoods.resolve("bernoulli")
    expected = torch.distributions.Bernoulli(logits=outputs[:, 0]).log_prob(binary.double())
    torch.testing.assert_close(bernoulli.log_prob(outputs[:, :1], binary), expected)
    p = torch.sigmoid(outputs[:, 0])
    torch.testing.assert_close(bernoulli.predict(outputs[:, 0]), torch.stack((1 - p, p), -1))
    categorical = likelihoods.resolve("categorical")
    expected = torch.distributions.Categorical(logits=outputs).log_prob(binary)
    torch.testing.assert_close(categorical.log_prob(outputs, binary), expected)
    custom = likelihoods.resolve(lambda out, target: -((out[:, 0] - target) ** 2))
    torch.testing.assert_close(custom.log_prob(outputs, y), -((outputs[:, 0] - y) ** 2))
    with pytest.raises(hmc_fast.UserError, match="noise_std 0"):
        hmc_fast.Gaussian(0)


def test_categorical_log_probabilities_are_minus_the_cross_entropy():
    outputs = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0, 2, 1, 1, 0])
    ours = hmc_fast.Categorical().log_prob(outputs, y)
    theirs = -torch.nn.functional.cross_entropy(outputs, y, reduction="none")
    torch.testing.assert_close(ours, theirs)
    weights = torch.randn(5, dtype=torch.float64)
    torch.testing.assert_close(*(torch.autograd.grad((v * weights).sum(), outputs)[0] for v in (ours, theirs)))
    with pytest.raises(hmc_fast.UserError, match=r"outputs of shape \(5, 3\) for labels of shape \(4,\)"):
        hmc_fast.Categorical().log_prob(outputs, y[:4])
