"""The coefficients of an update: one row of four numbers per chain, in memory that kernels read.

    m     <- decay m + kick g + noise M^(1/2) xi,   g: gradient of log density over T
    theta <- theta + drift M^-1 m

A sampler expresses its paper's update in these four numbers; `kernels/reference.py` defines their effect.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..kernels import ops

__all__ = ["Coefficients"]


class Coefficients(NamedTuple):
    """Numbers, or tensors `(1,)` or `(C,)` on the chains' device."""

    kick: float | Tensor
    drift: float | Tensor
    decay: float | Tensor = 1.0
    noise: float | Tensor = 0.0

    def write(self, out: Tensor, temperature: float) -> None:
        """Writes to `out (C, 4)`; nothing is copied from the host, so a captured step may do it."""
        kick = self.kick / temperature
        columns = (ops.KICK, kick), (ops.DRIFT, self.drift), (ops.DECAY, self.decay), (ops.NOISE, self.noise)
        for column, value in columns:
            if isinstance(value, Tensor):
                out[:, column] = value
            else:
                out[:, column].fill_(value)

    @staticmethod
    def buffer(theta: Tensor) -> Tensor:
        """A buffer `(C, 4)` for the chains `theta (C, D)`, in their dtype.

        Float64 beside float32 rows keeps the compiler from vectorising the update: 9 % of a step of four chains of
        the digits MLP, 2 cores.
        """
        return torch.zeros(len(theta), 4, dtype=theta.dtype, device=theta.device)
