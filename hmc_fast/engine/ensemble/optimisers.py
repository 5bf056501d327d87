"""The updates by which members are trained, over one flat buffer; g is the gradient of a mean over examples.

    AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101)          SGD with momentum
        theta = theta - rate decay theta                            m     = mu m + g + decay theta
        m     = b1 m + (1 - b1) g                                   theta = theta - rate m
        v     = b2 v + (1 - b2) g^2
        theta = theta - rate / (1 - b1^k) m / (sqrt(v / (1 - b2^k)) + damping)

Both are those of torch.optim. What changes with the step k are numbers that the update reads from a buffer, so that
a step can be recorded once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

__all__ = ["SGD", "AdamW", "Optimiser"]


class Optimiser(Protocol):
    """An update of all members.

    Attributes:
        moments: the number of buffers `(C, D)` that it keeps, zero at first. columns: of numbers per step.
    """

    moments: ClassVar[int]
    columns: ClassVar[int]

    def numbers(self, rates: Tensor, first: int) -> Tensor:
        """Of steps `first`, `first + 1`, ... with the learning rates `rates (S,)` float64: `(S, columns)`."""

    def update(self, theta: Tensor, grad: Tensor, moments: Sequence[Tensor], numbers: Tensor) -> None:
        """One step. grad: `(C, D)`, of the objective. numbers: `(C, columns)`, of this step."""


@dataclass(frozen=True)
class AdamW:
    """With torch's averages and damping. weight_decay: decoupled from the gradient."""

    weight_decay: float
    moments: ClassVar[int] = 2
    columns: ClassVar[int] = 3

    _AVERAGES: ClassVar[tuple[float, float]] = (0.9, 0.999)
    _DAMPING: ClassVar[float] = 1e-8

    def numbers(self, rates: Tensor, first: int) -> Tensor:
        steps = torch.arange(first + 1, first + 1 + len(rates), dtype=torch.float64)
        unseen, unseen_squares = (average**steps for average in self._AVERAGES)
        return torch.stack(
            [rates / (1 - unseen), (1 - unseen_squares).rsqrt(), 1 - rates * self.weight_decay], dim=1
        )

    def update(self, theta: Tensor, grad: Tensor, moments: Sequence[Tensor], numbers: Tensor) -> None:
        (mean, square), (share, square_share) = moments, self._AVERAGES
        rate, scale, kept = numbers.split(1, dim=1)
        theta.mul_(kept)
        mean.mul_(share).add_(grad, alpha=1 - share)
        square.mul_(square_share).add_(grad.square(), alpha=1 - square_share)
        theta.sub_(rate * mean / (square.sqrt() * scale + self._DAMPING))


@dataclass(frozen=True)
class SGD:
    """With momentum .9. weight_decay: part of the gradient, as in torch."""

    weight_decay: float
    moments: ClassVar[int] = 1
    columns: ClassVar[int] = 1

    _MOMENTUM: ClassVar[float] = 0.9

    def numbers(self, rates: Tensor, first: int) -> Tensor:
        return rates[:, None]

    def update(self, theta: Tensor, grad: Tensor, moments: Sequence[Tensor], numbers: Tensor) -> None:
        (momentum,) = moments
        momentum.mul_(self._MOMENTUM).add_(grad).add_(theta, alpha=self.weight_decay)
        theta.sub_(numbers * momentum)
