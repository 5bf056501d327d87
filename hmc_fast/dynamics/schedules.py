"""Step size schedules for stochastic-gradient samplers, evaluated on the device from the step counter."""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import UserError

__all__ = ["CosineCyclical", "PolynomialDecay", "Schedule"]


class Schedule(Protocol):
    """Step size and noise as functions of the step counter, elementwise in any number of steps `(S,)` int64.

    `multiplier` scales a leapfrog step size, in units of theta; its square scales a learning rate, such as the step
    size of SGLD.
    """

    def multiplier(self, step: Tensor, steps_per_iteration: int) -> Tensor:
        """Step size relative to its maximum, float64."""

    def explores(self, step: Tensor, steps_per_iteration: int) -> Tensor:
        """Whether the step runs without noise, bool."""

    def keeps(self, iteration: int) -> bool:
        """Whether the draw after this iteration is kept."""


@dataclass(frozen=True)
class CosineCyclical:
    """Cyclical cosine schedule (Zhang et al. 2020, arXiv:1902.03932, eq. 1).

    Their learning rate, the square of our leapfrog step size, falls as (1 + cos(pi r)) / 2 over the fraction r of a
    cycle, so our step size falls as cos(pi r / 2). The chain explores early in a cycle and samples late.

    Attributes:
        cycle_length: iterations per cycle.
        keep: iterations at the end of a cycle whose draws are kept.
        exploration: fraction of a cycle that runs without noise (temperature 0), as in the paper's
            exploration stage; with 0 the noise is always on.
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
        """Position of a step, int64, within its cycle, in [0, 1), float64."""
        period = self.cycle_length * steps_per_iteration
        return (step % period).double() / period

    def multiplier(self, step: Tensor, steps_per_iteration: int) -> Tensor:
        """cos(pi r / 2)."""
        return torch.cos(0.5 * math.pi * self.fraction(step, steps_per_iteration))

    def explores(self, step: Tensor, steps_per_iteration: int) -> Tensor:
        """Whether the cycle is in its exploration stage."""
        return self.fraction(step, steps_per_iteration) < self.exploration

    def keeps(self, iteration: int) -> bool:
        """Whether the iteration is among the last `keep` of its cycle."""
        return iteration % self.cycle_length >= self.cycle_length - self.keep

    def kept_before(self, iteration: int) -> int:
        """How many iterations before this one are kept."""
        cycles, rest = divmod(iteration, self.cycle_length)
        return cycles * self.keep + max(0, rest - (self.cycle_length - self.keep))

    def kept(self, index: Any) -> Any:
        """The iteration that is kept after `index` others; elementwise."""
        cycles, rest = divmod(index, self.keep)
        return cycles * self.cycle_length + (self.cycle_length - self.keep) + rest


@dataclass(frozen=True)
class PolynomialDecay:
    """The learning rate a (b + t)^-gamma of step t = 0, 1, ... (Welling & Teh 2011, sec. 4).

    It starts at the sampler's own step size, so a is that times b^gamma. With gamma in (1/2, 1] the bias of SGLD
    vanishes in the limit of a long run, for averages that weight each draw by its step size. hmc_fast weights draws
    equally.

    Attributes:
        offset: b, in steps (gradients, not iterations); the decay sets in after about b steps.
        power: gamma.
    """

    offset: float
    power: float = 0.55

    def __post_init__(self) -> None:
        if not (math.isfinite(self.offset) and self.offset > 0):
            raise UserError(f"offset {self.offset} must be a positive number of steps")
        if not 0 < self.power <= 1:
            raise UserError(f"power {self.power} must lie in (0, 1]: above 1 the chain stops moving too early")

    def multiplier(self, step: Tensor, steps_per_iteration: int) -> Tensor:
        """(1 + t/b)^(-gamma/2)."""
        return (1 + step.double() / self.offset) ** (-0.5 * self.power)

    def explores(self, step: Tensor, steps_per_iteration: int) -> Tensor:
        """Never."""
        return torch.zeros_like(step, dtype=torch.bool)

    def keeps(self, iteration: int) -> bool:
        """Always."""
        return True
