"""The coefficients of an update: one row of numbers per chain, in memory that kernels read.

    m     <- decay m + kick g + noise M^(1/2) xi,   g: gradient of log density over T
    theta <- theta + drift M^-1 m

A sampler expresses its paper's update in these four numbers, or in the six of `FlowCoefficients`;
`kernels/reference.py` defines their effect.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Coefficients", "FlowCoefficients"]


class Coefficients(NamedTuple):
    """Numbers, or tensors `(1,)` or `(C,)` on the chains' device; in the order of the kernels' columns."""

    kick: float | Tensor
    drift: float | Tensor
    decay: float | Tensor = 1.0
    noise: float | Tensor = 0.0

    def write(self, out: Tensor, temperature: float) -> None:
        """Writes to `out (C, 4)`; nothing is copied from the host, so a captured step may do it."""
        _write(self, temperature, out)

    @classmethod
    def buffer(cls, theta: Tensor) -> Tensor:
        """A buffer `(C, 4)` for the chains `theta (C, D)`, in their dtype.

        Float64 beside float32 rows keeps the compiler from vectorising the update: 9 % of a step of four chains of
        the digits MLP, 2 cores.
        """
        return torch.zeros(len(theta), len(cls._fields), dtype=theta.dtype, device=theta.device)


class FlowCoefficients(NamedTuple):
    """Those of `ops.kick_flow`: a kick, then Langevin dynamics without a force."""

    kick: float | Tensor
    drift: Tensor
    decay: Tensor
    noise: Tensor
    shared_noise: Tensor
    position_noise: Tensor

    @classmethod
    def of(
        cls, kick: float | Tensor, duration: Tensor, friction: float, explores: Tensor | None = None
    ) -> "FlowCoefficients":
        """The exact solution of dtheta = M^-1 m dt, dm = -gamma m dt + sqrt(2 gamma M) dW after a time t.

            a = exp(-gamma t)    theta = theta + (1 - a)/gamma M^-1 m + s/gamma M^(-1/2) xi1
                                 m     = a m + (1 - a)^2/s M^(1/2) xi1 + sqrt(1 - a^2 - (1 - a)^4/s^2) M^(1/2) xi2
            s^2 = 2 gamma t - 3 + 4 a - a^2

        duration: t, float64 `(1,)` or `(S,)`. explores: bool of the same shape, where noise is off.
        """
        x = friction * duration
        lost = -torch.expm1(-x)  # 1 - a
        s = _flow_variance(x, lost).sqrt()
        shared = lost**2 / s
        own = (-torch.expm1(-2 * x) - shared**2).sqrt()
        on = 1.0 if explores is None else torch.where(explores, 0.0, 1.0)
        return cls(kick, lost / friction, torch.exp(-x), on * own, on * shared, on * s / friction)

    def write(self, out: Tensor, temperature: float) -> None:
        """As for `Coefficients`, to `out (C, 6)`."""
        _write(self, temperature, out)

    @classmethod
    def buffer(cls, theta: Tensor) -> Tensor:
        """As for `Coefficients`, `(C, 6)`."""
        return torch.zeros(len(theta), len(cls._fields), dtype=theta.dtype, device=theta.device)


def _flow_variance(x: Tensor, lost: Tensor) -> Tensor:
    """s^2 = 2 x - 3 + 4 exp(-x) - exp(-2 x), which is 2/3 x^3 for small x: there from its series, because the
    terms cancel. At x = 1/4, where one takes over from the other, both are right to 2e-15."""
    series = torch.zeros_like(x)
    for k in range(16, 2, -1):
        series = (series + (-1) ** k * (4 - 2**k) / math.factorial(k)) * x
    return torch.where(x < 0.25, series * x * x, 2 * (x - lost) - lost**2)


def _write(coefficients: Coefficients | FlowCoefficients, temperature: float, out: Tensor) -> None:
    kick, *others = coefficients
    for column, value in enumerate((kick / temperature, *others)):
        if isinstance(value, Tensor):
            out[:, column] = value
        else:
            out[:, column].fill_(value)
