"""Step-size schedules of stochastic-gradient samplers, evaluated on the device from the step counter."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import UserError

__all__ = ["CosineCyclical"]


@dataclass(frozen=True)
class CosineCyclical:
    """Cyclical cosine schedule (Zhang et al. 2020, arXiv:1902.03932, eq. 1).

    Their learning rate, the square of our step size, falls as (1 + cos(pi r)) / 2 over the fraction r of a
    cycle, so the step size falls as cos(pi r / 2). Early in a cycle the chain explores, late it samples.

    Attributes:
        cycle_length: iterations per cycle.
        keep: iterations at the end of a cycle whose draws count.
        exploration: fraction of a cycle that runs without noise (temperature 0), as in the paper's
            exploration stage; 0 never switches it off.
    """

    cycle_length: int
    keep: int = 1
    exploration: float = 0.0

    def __post_init__(self) -> None:
        if self.cycle_length < 1:
            raise UserError(f"cycle length {self.cycle_length} must be at least 1 iteration")
        if not 1 <= self.keep <= self.cycle_length:
            raise UserError(f"keep {self.keep} must lie between 1 and the cycle length {self.cycle_length}")
        if not 0 <= self.exploration < 1:
            raise UserError(f"exploration {self.exploration} must lie in [0, 1)")

    def fraction(self, step: Tensor, steps_per_iteration: int) -> Tensor:
        """How far into its cycle step `(1,)` int64 is, in [0, 1), float64."""
        period = self.cycle_length * steps_per_iteration
        return (step % period).double() / period

    def multiplier(self, fraction: Tensor) -> Tensor:
        """Step size as a share of its largest."""
        return torch.cos(0.5 * math.pi * fraction)

    def keeps(self, iteration: int) -> bool:
        """Whether the draw after this iteration counts."""
        return iteration % self.cycle_length >= self.cycle_length - self.keep
