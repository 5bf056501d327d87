"""Approximations against a conjugate posterior."""

import torch

from hmc_fast import Gaussian, Normal, Posterior
from hmc_fast.datasets import Dataset
from hmc_fast.experiments.approximations import BATCH_SIZE, approximate


def linear_regression() -> tuple[Posterior, torch.Tensor, torch.Tensor]:
    """A conjugate posterior of four parameters: with its exact mean and precision."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(3 * BATCH_SIZE, 3, generator=generator)
    x[:, 1] += 0.8 * x[:, 0]
    y = x @ torch.tensor([1.0, -2.0, 0.5]) + 0.7 + 0.5 * torch.randn(len(x), generator=generator)
    posterior = Posterior(torch.nn.Linear(3, 1), (x, y), Gaussian(0.5), Normal(variance=1.0))
    design = torch.cat((x, torch.ones(len(x), 1)), 1).double()
    precision = design.T @ design / 0.25 + torch.eye(4)
    return posterior, torch.linalg.solve(precision, design.T @ y.double() / 0.25), precision


def test_sgd_ends_at_the_maximum_and_swag_about_it() -> None:
    posterior, mean, precision = linear_regression()
    sd = precision.inverse().diagonal().sqrt()
    data: Dataset = None  # type: ignore[assignment]  # no method looks at it
    bag = approximate("ensemble", posterior, lambda seed: torch.nn.Linear(3, 1), data, epochs=60, members=2)
    assert bag.draws.shape == (2, 1, 4)
    assert bag.passes.tolist() == [60, 120]
    assert (torch.from_numpy(bag.draws[:, 0]) - mean).abs().max() < 0.3 * sd.min()
    swag = approximate("swag", posterior, lambda seed: torch.nn.Linear(3, 1), data, epochs=60)
    assert (torch.from_numpy(swag.draws).mean((0, 1)) - mean).abs().max() < sd.max()
    assert swag.draws.std(0).min() > 0


def test_mean_field_has_the_exact_mean_and_the_conditional_deviations() -> None:
    """The best factorised approximation of N(m, P^-1) has variances 1 / P_ii (Bishop 2006, 10.1.2)."""
    posterior, mean, precision = linear_regression()
    data: Dataset = None  # type: ignore[assignment]
    bag = approximate("mean_field", posterior, lambda seed: torch.nn.Linear(3, 1), data, epochs=600)
    draws = torch.from_numpy(bag.draws[:, 0]).double()
    expected = precision.diagonal().rsqrt()
    assert (draws.mean(0) - mean).abs().max() < 4 * expected.max() / len(draws) ** 0.5 + 0.3 * expected.min()
    assert torch.allclose(draws.std(0), expected, rtol=0.5)  # 40 draws: an error of 11 %
    assert bag.passes[-1] == 300 + 4 * 300
