"""Small densities, each written twice: as a user of torch would, and as a user of jax would.

At this size a step costs what a library adds to the arithmetic, and little else.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

import hmc_fast

# Rubin 1981: effects of coaching in eight schools, and their standard errors.
EFFECTS = (28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0)
ERRORS = (15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0)


@dataclass(frozen=True)
class SmallDensity:
    """A log density over `dim` numbers, up to a constant.

    in_torch, in_jax: `(dim,) -> scalar`. step_size, num_leapfrog: of a timed iteration of HMC.
    """

    name: str
    dim: int
    in_torch: Callable[[Tensor], Tensor]
    in_jax: Callable[[Any], Any]
    step_size: float
    num_leapfrog: int
    batch_size: None = None

    def target(self, device: torch.device, precision: str = "fp32") -> hmc_fast.Density:
        assert precision == "fp32", "a bare density computes in its own dtype"
        return hmc_fast.Density(self.in_torch, self.dim, device=device)

    @property
    def start(self) -> Tensor:
        """Where every library starts and gradients are compared, `(dim,)`: no gradient is 0 there."""
        return torch.linspace(-1, 1, self.dim)


def gaussian() -> SmallDensity:
    """Ten dimensions, standard deviations .5 to 2, neighbours correlated by .5."""
    scales, index = np.linspace(0.5, 2, 10), np.arange(10)
    covariance = 0.5 ** np.abs(index[:, None] - index) * np.outer(scales, scales)
    precision = np.linalg.inv(covariance).astype(np.float32)
    tensor = torch.tensor(precision)

    def in_torch(theta: Tensor) -> Tensor:
        return -0.5 * theta @ tensor.to(theta.device) @ theta

    def in_jax(theta: Any) -> Any:
        return -0.5 * theta @ precision @ theta

    return SmallDensity("Gaussian, 10 dimensions", 10, in_torch, in_jax, step_size=0.2, num_leapfrog=10)


def eight_schools() -> SmallDensity:
    """mu ~ N(0, 5), tau ~ half-Cauchy(5), effects mu + tau z with z ~ N(0, 1), over (mu, log tau, z)."""
    effects, errors = torch.tensor(EFFECTS), torch.tensor(ERRORS)
    jax_effects, jax_errors = np.array(EFFECTS, np.float32), np.array(ERRORS, np.float32)

    def in_torch(theta: Tensor) -> Tensor:
        mu, log_tau, z = theta[0], theta[1], theta[2:]
        tau = log_tau.exp()
        residuals = (effects.to(theta.device) - mu - tau * z) / errors.to(theta.device)
        # the last term: d tau = tau d log tau
        log_prior = -0.5 * (mu / 5) ** 2 - torch.log1p((tau / 5) ** 2) + log_tau
        return log_prior - 0.5 * (z**2).sum() - 0.5 * (residuals**2).sum()

    def in_jax(theta: Any) -> Any:
        import jax.numpy as jnp

        mu, log_tau, z = theta[0], theta[1], theta[2:]
        tau = jnp.exp(log_tau)
        residuals = (jax_effects - mu - tau * z) / jax_errors
        log_prior = -0.5 * (mu / 5) ** 2 - jnp.log1p((tau / 5) ** 2) + log_tau
        return log_prior - 0.5 * (z**2).sum() - 0.5 * (residuals**2).sum()

    return SmallDensity("eight schools", 10, in_torch, in_jax, step_size=0.2, num_leapfrog=10)
