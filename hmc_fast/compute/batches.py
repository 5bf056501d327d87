"""Inputs of a batch: a tensor `(B, ...)`, or a dict or tuple of them, which a model takes by name or position."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

__all__ = ["Inputs", "Part", "chunks", "columns", "count", "each", "named", "parts", "rows", "shapes", "to"]

Inputs = Tensor | dict[str, Tensor] | tuple[Tensor, ...]
Part = tuple[slice, Any, Tensor]  # of all examples: which, and their X and y


def each(x: Inputs, function: Callable[[Tensor], Tensor]) -> Any:
    """The same tree with `function` of every tensor."""
    if isinstance(x, Tensor):
        return function(x)
    if isinstance(x, dict):
        return {name: function(tensor) for name, tensor in x.items()}
    return tuple(function(tensor) for tensor in x)


def named(x: Inputs) -> Iterator[tuple[str, Tensor]]:
    """Every tensor, with how a message calls it."""
    if isinstance(x, Tensor):
        yield "X", x
        return
    for key, tensor in x.items() if isinstance(x, dict) else enumerate(x):
        yield f"X[{key!r}]", tensor


def rows(x: Inputs, index: Any) -> Any:
    """`x[index]` of every tensor."""
    return x[index] if isinstance(x, Tensor) else each(x, lambda tensor: tensor[index])


def count(x: Inputs) -> int:
    """The number of examples B."""
    return len(x) if isinstance(x, Tensor) else len(next(tensor for _, tensor in named(x)))


def chunks(x: Inputs, size: int) -> Iterator[Any]:
    """In order, `size` examples at a time."""
    for start in range(0, count(x), size):
        yield rows(x, slice(start, start + size))


def parts(x: Inputs, y: Tensor, size: int, indices: Tensor | None = None) -> Iterable[Part]:
    """`size` examples at a time of X and y `(N, ...)`, or of each chain's `indices (C, B)`: `(C, size, ...)`."""
    total = len(y) if indices is None else indices.shape[1]
    if total <= size:  # no generator, which torch.compile cannot trace in every version
        given = (x, y) if indices is None else (rows(x, indices), y[indices])
        return ((slice(0, total), *given),)
    return _parts(x, y, size, total, indices)


def _parts(x: Inputs, y: Tensor, size: int, total: int, indices: Tensor | None) -> Iterator[Part]:
    for start in range(0, total, size):
        part = slice(start, min(start + size, total))
        chosen: Any = part if indices is None else indices[:, part]
        yield part, rows(x, chosen), y[chosen]


def columns(x: Inputs, y: Tensor, size: int) -> Iterable[Part]:
    """`size` columns at a time of X and y `(C, B, ...)`."""
    total = y.shape[1]
    if total <= size:
        return ((slice(0, total), x, y),)
    starts = (slice(start, min(start + size, total)) for start in range(0, total, size))
    return ((part, each(x, lambda t: t[:, part].contiguous()), y[:, part].contiguous()) for part in starts)  # noqa: B023


def shapes(x: Inputs) -> Any:
    """Of one example: the tensor's, or the same tree of them."""
    if isinstance(x, Tensor):
        return tuple(x.shape[1:])
    if isinstance(x, dict):
        return {name: tuple(tensor.shape[1:]) for name, tensor in x.items()}
    return tuple(tuple(tensor.shape[1:]) for tensor in x)


def to(x: Inputs, device: torch.device, dtype: torch.dtype) -> Any:
    """On `device`; floating tensors in `dtype`, others as they are."""
    return each(x, lambda tensor: tensor.to(device, dtype if tensor.is_floating_point() else None))
