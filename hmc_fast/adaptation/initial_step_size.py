"""A reasonable initial step size, to within a factor of two (Hoffman & Gelman 2014, algorithm 4)."""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["find_step_size"]

_CROSSED = 0.8  # as in Stan; the paper uses 0.5
_MAX_DOUBLINGS = 100  # 2^100 covers most of the range of float32


def find_step_size(accept_prob: Callable[[Tensor], Tensor], step_size: Tensor) -> Tensor:
    """Doubles or halves each of K step sizes until the acceptance probability crosses 0.8.

    Args:
        accept_prob: maps `(K,)` step sizes to the `(K,)` acceptance probabilities of one leapfrog step; NaN counts
            as 0.
        step_size: initial guess, `(K,)`, positive.

    Reads one value back to the host per trial, so it runs only before sampling and at the end of adaptation
    windows.
    """
    accepts = _accepts(accept_prob, step_size)
    factor = torch.where(accepts, 2.0, 0.5).to(step_size)
    searching = torch.ones_like(accepts)
    for _ in range(_MAX_DOUBLINGS):
        step_size = torch.where(searching, step_size * factor, step_size)
        searching = searching & (_accepts(accept_prob, step_size) == (factor > 1))
        if not bool(searching.any()):
            break
    return step_size


def _accepts(accept_prob: Callable[[Tensor], Tensor], step_size: Tensor) -> Tensor:
    return torch.nan_to_num(accept_prob(step_size), nan=0.0) > _CROSSED
