"""Counts the torch operations of a function, and the FLOPs of the large ones, while it runs once."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Operations", "WatchingMode", "count_operations", "waits_for_value"]


@dataclass(frozen=True)
class Operations:
    """number: calls into torch. flops: in matrix products, convolutions and attention, two per multiply-add."""

    number: int
    flops: int


class WatchingMode(TorchDispatchMode):
    """A dispatch mode that is never compiled. Telling torch so saves it from importing Dynamo to find out, which
    takes over a second in every run."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


class _Count(WatchingMode):
    def __init__(self) -> None:
        super().__init__()
        self.number = self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.number += 1
        self.flops += _flops(func._opname, args, result)
        return result


def count_operations(function: Callable[[], object]) -> Operations:
    """Runs `function` once. torch's own FlopCounterMode would import triton, Dynamo and Inductor first."""
    with _Count() as count:
        function()
    return Operations(count.number, count.flops)


def waits_for_value(func: Any, args: Any) -> bool:
    """Whether the operation reads a value back to the host, or returns a shape that depends on values."""
    if func._opname in (
        "_local_scalar_dense",
        "nonzero",
        "masked_select",
        "equal",
        "unique_consecutive",
        "_unique2",
    ):
        return True
    if func._opname in ("index", "index_put_", "index_put"):
        return any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1])
    return False


_LEFT_FACTOR = {"mm": 0, "bmm": 0, "addmm": 1, "baddbmm": 1}  # its place among the arguments


def _flops(name: str, args: Any, result: Any) -> int:
    if name in _LEFT_FACTOR:
        return 2 * result.numel() * args[_LEFT_FACTOR[name]].shape[-1]
    if name == "convolution":
        x, weight, transposed = args[0], args[1], args[6]
        return _convolution(weight, x if transposed else result)
    if name == "convolution_backward":
        (grad, x, weight), transposed, wanted = args[:3], args[7], args[10]
        return _convolution(weight, x if transposed else grad) * sum(wanted[:2])  # input, weight
    if name.startswith("_scaled_dot_product"):
        # Forward: the scores and their product with the values. Backward: the scores again and four more products.
        query, key, value = args[1:4] if name.endswith("backward") else args[:3]
        scores = 2 * math.prod(query.shape[:-1]) * key.shape[-2]
        if name.endswith("backward"):
            return scores * (3 * query.shape[-1] + 2 * value.shape[-1])
        return scores * (query.shape[-1] + value.shape[-1])
    return 0


def _convolution(weight: Any, positions: Any) -> int:
    """Every filter at every position of every image."""
    return 2 * weight.numel() * positions.shape[0] * math.prod(positions.shape[2:])
