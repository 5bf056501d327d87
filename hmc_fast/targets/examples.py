"""Whatever holds a user's data, as tensors of our own: what is done to the original later changes no run."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from ..compute.batches import Inputs, named, rows
from ..errors import UserError

__all__ = ["Examples", "as_inputs", "as_tensor", "examples"]


Examples = tuple[Inputs, Tensor]  # X and y


def examples(data: Any) -> Examples:
    """X `(N, ...)` and y `(N, ...)`, copied, from a pair of tensors, arrays, data frames or lists, or from a torch
    Dataset whose examples are such pairs.

    Raises:
        UserError: anything else, or a Dataset that gives another example each time.
    """
    if isinstance(data, DataLoader):
        raise UserError("data is a DataLoader, which makes batches of its own: give its dataset, loader.dataset")
    if isinstance(data, IterableDataset):
        raise UserError("data is an IterableDataset, whose examples have no numbers: give a map-style Dataset")
    if isinstance(data, Dataset):
        return _collated(data)
    if not isinstance(data, tuple | list) or len(data) != 2:
        found = f"{len(data)} things" if isinstance(data, tuple | list) else f"a {type(data).__name__}"
        raise UserError(f"data is {found}: give a pair (X, y), or a torch Dataset")
    return as_inputs(data[0], "X"), as_tensor(data[1], "y")


def as_inputs(values: Any, name: str) -> Inputs:
    """`as_tensor`, or one of each in a mapping, or in a tuple of tensors or arrays."""
    if isinstance(values, Mapping):
        return {str(key): as_tensor(value, f"{name}[{key!r}]") for key, value in values.items()}
    if isinstance(values, tuple) and values and all(isinstance(value, Tensor | np.ndarray) for value in values):
        return tuple(as_tensor(value, f"{name}[{index}]") for index, value in enumerate(values))
    return as_tensor(values, name)


def as_tensor(values: Any, name: str) -> Tensor:
    """A copy of a tensor, a numpy array, a pandas frame or series, or (nested) lists of numbers.

    name: for messages.

    Raises:
        UserError: something else, or what holds no numbers.
    """
    if isinstance(values, Tensor):
        return values.detach().clone()
    if hasattr(values, "to_numpy"):
        values = values.to_numpy()
    try:
        array = np.asarray(values)
    except ValueError as error:  # lists of different lengths
        raise UserError(f"{name} is no array ({error}): give examples of equal shape") from error
    if array.dtype.kind not in "biuf" or array.ndim == 0:
        what = f"holds {array.dtype}" if array.ndim else f"is a {type(values).__name__}"
        raise UserError(f"{name} {what}: give a tensor or array of numbers, with text and categories encoded")
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=True))


def _collated(data: "Dataset[Any]") -> tuple[Inputs, Tensor]:
    count = len(data)  # type: ignore[arg-type]
    if count == 0:
        raise UserError("the Dataset is empty: it must contain at least one example")
    first = data[0]
    if not isinstance(first, tuple | list) or len(first) != 2:
        raise UserError(f"the Dataset's examples are a {type(first).__name__}: they must be pairs (x, y)")
    x, y = _stacked([data[index] for index in range(count)])
    again, _ = _stacked([data[0]])
    if any(not torch.equal(a, b) for a, b in zip(_leaves(again), _leaves(rows(x, slice(1))), strict=True)):
        raise UserError(
            "the Dataset's first example was another the second time: a posterior is conditioned on fixed data, so "
            "take its random transforms (augmentation) out"
        )
    return x, y


def _stacked(pairs: list[Any]) -> tuple[Inputs, Tensor]:
    try:
        x, y = default_collate(pairs)
    except (RuntimeError, TypeError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(
            f"the Dataset's examples do not stack ({reason}): they must be tensors, arrays or numbers, of one shape"
        ) from error
    return as_inputs(tuple(x) if isinstance(x, list) else x, "X"), as_tensor(y, "y")


def _leaves(x: Inputs) -> list[Tensor]:
    return [tensor for _, tensor in named(x)]
