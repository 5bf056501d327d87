"""Densities with known moments, and the check of a sampler's draws against them."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import special
from torch import Tensor

import hmc_fast
from hmc_fast.results.diagnostics import ess_bulk

# How the targets below compute; set by pytest's option --path (conftest.py).
PATH = "eager"


@dataclass(frozen=True)
class Known:
    """A density with the mean and variance of every coordinate."""

    density: hmc_fast.Density
    mean: np.ndarray
    variance: np.ndarray


def correlated_gaussian() -> Known:
    """Three coordinates of scales 0.1, 1, 3 and correlation 0.9; not centred."""
    scale = np.array([0.1, 1.0, 3.0])
    covariance = (0.9 + 0.1 * np.eye(3)) * np.outer(scale, scale)
    precision = torch.tensor(np.linalg.inv(covariance))
    mean = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)

    def log_density(theta: Tensor) -> Tensor:
        return -0.5 * (theta - mean) @ precision @ (theta - mean)

    density = hmc_fast.Density(log_density, 3, dtype=torch.float64)
    return Known(density, mean.numpy(), np.diag(covariance))


def skewed() -> Known:
    """Logarithm of a Gamma(2) variable, twice: a symmetric target cannot show a wrong sign."""
    shape = 2.0

    def log_density(theta: Tensor) -> Tensor:
        return (shape * theta - torch.exp(theta) - math.lgamma(shape)).sum()

    density = hmc_fast.Density(log_density, 2, dtype=torch.float64)
    return Known(density, np.full(2, special.digamma(shape)), np.full(2, special.polygamma(1, shape)))


def gaussian(covariance, mean=0.0, **options):
    """A Gaussian of any covariance `(D, D)`; options: of the Density."""
    precision = torch.tensor(np.linalg.inv(covariance))

    def log_density(theta):
        centred = theta - mean
        return -0.5 * centred @ precision.to(theta.device) @ centred

    return hmc_fast.Density(log_density, len(covariance), dtype=torch.float64, **options)


def linear_regression(num_data: int = 64, noise_std: float = 0.5) -> tuple[hmc_fast.Posterior, Known]:
    """Bayesian linear regression, whose posterior is Gaussian in closed form."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(num_data, 2, generator=generator, dtype=torch.float64)
    y = x @ torch.tensor([1.0, -2.0], dtype=torch.float64) + noise_std * torch.randn(
        num_data, generator=generator, dtype=torch.float64
    )
    model = torch.nn.Linear(2, 1, bias=False).double()
    posterior = hmc_fast.Posterior(
        model, (x, y), likelihood=hmc_fast.Gaussian(noise_std), prior=hmc_fast.Normal(1.0)
    )
    if PATH == "captured":
        posterior = posterior.to("cuda")
    posterior = posterior.prepared(path="eager" if PATH == "captured" else PATH)
    precision = (x.T @ x / noise_std**2 + torch.eye(2, dtype=torch.float64)).numpy()
    covariance = np.linalg.inv(precision)
    mean = covariance @ (x.T @ y).numpy() / noise_std**2
    density = hmc_fast.Density(lambda theta: -theta.sum(), 2)  # unused: moments are what counts here
    return posterior, Known(density, mean, np.diag(covariance))


def energy(posterior: hmc_fast.Posterior, theta: Tensor, momentum: Tensor) -> Tensor:
    """Potential and kinetic energy of every chain, in float64."""
    potential, _ = posterior.potential_and_grad(theta)
    return potential + (momentum**2).double().sum(1) / 2


def check_moments(draws: np.ndarray, mean: np.ndarray, variance: np.ndarray, bias: float = 0.0) -> None:
    """Means and variances of draws `(S, C, D)` lie within 4.5 standard errors, from the draws' own ESS.

    bias: allowance for a sampler that is not exact, as a share of the standard deviation and variance.
    """
    chains = np.moveaxis(np.asarray(draws, dtype=np.float64), 0, 1)  # (C, S, D)
    assert np.isfinite(chains).all()
    squares = (chains - mean) ** 2
    for values, expected, unit in ((chains, mean, np.sqrt(variance)), (squares, variance, variance)):
        ess = ess_bulk(values)
        assert (ess > 200).all(), f"too few effective draws to judge: {ess}"
        error = np.abs(values.mean((0, 1)) - expected)
        allowed = 4.5 * values.std((0, 1)) / np.sqrt(ess) + bias * unit
        assert (error < allowed).all(), f"off by {error / allowed} of what is allowed, ESS {ess}"
        assert (allowed < 0.3 * unit).all(), f"the tolerance {allowed / unit} is too wide to mean anything"
