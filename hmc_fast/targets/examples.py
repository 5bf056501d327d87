"""Whatever holds a user's examples, as tensors of our own: what is done to the original later changes no run."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..compute.batches import Inputs
from ..errors import UserError

__all__ = ["Examples", "as_inputs", "as_tensor", "check_kind", "is_tree"]

Examples = tuple[Inputs, Tensor]  # X and y


def as_inputs(values: Any, name: str, *, copy: bool = True) -> Inputs:
    """`as_tensor`, or one of each in a mapping, or in a tuple of tensors or arrays."""
    if isinstance(values, Mapping):
        return {str(key): as_tensor(value, f"{name}[{key!r}]", copy=copy) for key, value in values.items()}
    if is_tree(values):
        return tuple(as_tensor(value, f"{name}[{index}]", copy=copy) for index, value in enumerate(values))
    return as_tensor(values, name, copy=copy)


def is_tree(values: Any) -> bool:
    """Whether X is several arrays, not one."""
    if isinstance(values, Mapping):
        return True
    several = isinstance(values, tuple) and len(values) > 0
    return several and all(isinstance(value, Tensor | np.ndarray) for value in values)


def as_tensor(values: Any, name: str, *, copy: bool = True) -> Tensor:
    """A tensor, a numpy array, a pandas frame or series, or (nested) lists of numbers.

    name: for messages. copy: False shares the memory where that can be.

    Raises:
        UserError: something else, or what holds no numbers.
    """
    if isinstance(values, Tensor):
        return values.detach().clone() if copy else values.detach()
    if hasattr(values, "to_numpy"):
        values = values.to_numpy()
    try:
        array = np.asarray(values)
    except ValueError as error:  # lists of different lengths
        raise UserError(f"{name} is no array ({error}): give examples of equal shape") from error
    if array.ndim == 0:
        raise UserError(
            f"{name} is a {type(values).__name__}: give a tensor or array of numbers, with text and categories "
            "encoded"
        )
    check_kind(array, name)
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=copy))


def check_kind(array: np.ndarray, name: str) -> None:
    """Raises UserError if the array holds no numbers."""
    if array.dtype.kind not in "biuf":
        raise UserError(
            f"{name} holds {array.dtype}: give a tensor or array of numbers, with text and categories encoded"
        )
