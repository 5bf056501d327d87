"""Simpler operations for those that have no translation: torch's own decompositions, and a few more."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .translation import supported

__all__ = ["decompose"]


def decompose(function: Any) -> Callable[..., Any] | None:
    """A function of the same arguments; None for an operation that is to be kept."""
    if supported(function):
        return None
    if function in _OURS:
        return _OURS[function]
    if function._can_decompose():  # into other operations, by torch itself
        return function.decompose
    from torch._decomp import decomposition_table

    return None if function.is_view else decomposition_table.get(function)


def _var_mean(
    x: Tensor, dim: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    dims = list(dim) if dim else list(range(x.dim()))
    number = math.prod(x.shape[d] for d in dims)
    mean = x.mean(dims, keepdim=True)
    var = (x - mean).square().sum(dims, keepdim=keepdim) / max(
        0, number - (1 if correction is None else correction)
    )
    return var, mean if keepdim else x.mean(dims)


def _var(x: Tensor, dim: Sequence[int] | None = None, **options: Any) -> Tensor:
    return _var_mean(x, dim, **options)[0]


_OURS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.var.correction: _var,
    torch.ops.aten.var_mean.correction: _var_mean,
}
