"""Many small data sets at once: each chain sees its own, so that one run is thousands of simulated experiments."""

import math

import torch
from torch import Tensor

from hmc_fast.kernels import ops
from hmc_fast.kernels.ops import Segment
from hmc_fast.targets.base import Target

__all__ = ["Replicates"]

NOISE_STD = 2.0  # so that one step size suits both families


class Replicates(Target):
    """Regression of `y (C, N)` on one `x (N, D)`, linear with known noise or logistic; prior N(0, 1)."""

    dtype = torch.float64
    device = torch.device("cpu")
    temperature = 1.0

    def __init__(self, x: Tensor, y: Tensor, family: str) -> None:
        self.x, self.y, self.family = x, y, family
        self.num_data, self.num_params = x.shape
        self.prior = (Segment(0, self.num_params, ops.NORMAL, scale=1.0),)

    @classmethod
    def simulate(cls, theta: Tensor, num_data: int, family: str, generator: torch.Generator) -> "Replicates":
        x = torch.randn(num_data, theta.shape[1], generator=generator, dtype=torch.float64)
        replicates = cls(x, torch.empty(len(theta), num_data, dtype=torch.float64), family)
        replicates.resample(theta, generator)
        return replicates

    def resample(self, theta: Tensor, generator: torch.Generator) -> None:
        """Fresh data of each chain, given its parameters."""
        location = theta @ self.x.T
        if self.family == "linear":
            noise = torch.randn(location.shape, generator=generator, dtype=torch.float64)
            self.y = location + NOISE_STD * noise
        else:
            uniform = torch.rand(location.shape, generator=generator, dtype=torch.float64)
            self.y = (uniform < torch.sigmoid(location)).double()

    def log_likelihood_and_grad(
        self, theta: Tensor, grad: Tensor, log_lik: Tensor, indices: Tensor | None = None
    ) -> None:
        x, y = self.x.expand(len(theta), -1, -1), self.y
        if indices is not None:
            x, y = x.gather(1, indices[:, :, None].expand(-1, -1, self.num_params)), y.gather(1, indices)
        location = torch.einsum("cnd,cd->cn", x, theta)
        if self.family == "linear":
            residual = (y - location) / NOISE_STD**2
            log_lik.copy_(
                -0.5 * ((y - location) / NOISE_STD) ** 2 - math.log(NOISE_STD) - 0.5 * math.log(2 * math.pi)
            )
        else:
            residual = y - torch.sigmoid(location)
            log_lik.copy_(y * location - torch.nn.functional.softplus(location))
        grad.copy_(torch.einsum("cnd,cn->cd", x, residual) * (self.num_data / x.shape[1]))

    def log_likelihood(self, theta: Tensor, log_lik: Tensor) -> None:
        self.log_likelihood_and_grad(theta, torch.empty_like(theta), log_lik)

    def to(self, device: torch.device | str) -> "Replicates":
        raise NotImplementedError("these tests run where they were built")

    def gradient_function(self):  # type: ignore[no-untyped-def]
        raise NotImplementedError("these tests run un-compiled")
