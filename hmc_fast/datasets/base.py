"""`Dataset`: training and test examples, validated in one place."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError

__all__ = ["Dataset", "permutation", "scales", "validate"]

_SUBSET_SEED = 0


@dataclass(frozen=True, eq=False)
class Dataset:
    """Data of a supervised task: N training and T test examples.

    Attributes:
        name: as given to `load`.
        x_train, x_test: `(N, ...)` and `(T, ...)` float32.
        y_train, y_test: classification: `(N,)`, `(T,)` int64 in 0..num_classes-1. Regression: float32,
            standardised with the training set's statistics; `y * y_std + y_mean` is in original units.
        num_classes: K; 0 for regression.
        class_names: K names, or none.

    Raises:
        UserError: see `validate`.
    """

    name: str
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    task: Literal["classification", "regression"]
    num_classes: int = 0
    class_names: tuple[str, ...] = ()
    y_mean: float = 0.0
    y_std: float = 1.0

    def __post_init__(self) -> None:
        validate(self)

    def subset(self, train_size: int, test_size: int | None = None) -> "Dataset":
        """The first examples of a fixed random order; None keeps the whole test set.

        Class proportions are preserved, and smaller subsets are contained in larger ones. Inputs and targets keep
        the scale of the full set.

        Raises:
            UserError: a size under 1, or more than there are examples.
        """
        train = self._first(self.y_train, train_size, "training")
        x_test, y_test = self.x_test, self.y_test
        if test_size is not None:
            test = self._first(y_test, test_size, "test")
            x_test, y_test = x_test[test], y_test[test]
        return dataclasses.replace(
            self, x_train=self.x_train[train], y_train=self.y_train[train], x_test=x_test, y_test=y_test
        )

    def grey_images(self) -> np.ndarray | None:
        """The test inputs as `(T, H, W)`, if they are greyscale images (the rows of digits are 8 x 8)."""
        x = self.x_test.numpy()
        if x.ndim == 4 and x.shape[1] == 1:
            return np.asarray(x[:, 0])
        side = math.isqrt(x[0].size)
        if self.name == "digits" and side * side == x[0].size:
            return np.asarray(x.reshape(-1, side, side))
        return None

    def _first(self, y: Tensor, size: int, part: str) -> Tensor:
        if not 1 <= size <= len(y):
            raise UserError(f"{part} size {size} must be in 1..{len(y)}, the {part} examples of {self.name}")
        order = permutation(len(y), _SUBSET_SEED)
        if self.task == "classification":
            # The i-th of the n examples of a class is placed at (i + 1/2) / n, so that classes interleave evenly.
            labels = y.numpy()[order]
            place = np.empty(len(y))
            for label in np.unique(labels):
                members = np.flatnonzero(labels == label)
                place[members] = (np.arange(len(members)) + 0.5) / len(members)
            order = order[np.argsort(place, kind="stable")]
        return torch.from_numpy(order[:size].copy())


def permutation(count: int, seed: int) -> np.ndarray:
    """A fixed random order of 0..count-1, int64.

    It sorts raw random bits, because NumPy guarantees that these stay the same in all versions, unlike the output
    of `Generator.permutation`.
    """
    return np.argsort(np.random.PCG64(seed).random_raw(count), kind="stable")


def scales(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over the first axis; a constant column gets 1 and so standardises to zeros."""
    constant = np.ptp(values, axis=0) == 0
    return values.mean(axis=0), np.where(constant, 1.0, values.std(axis=0))


def validate(data: Dataset) -> None:
    """Checks that a data set, whatever its origin, satisfies the documentation of `Dataset`.

    Raises:
        UserError: a wrong type or shape, no examples, unequal numbers of examples and labels, NaN or infinities, or
            labels that are not integers in 0..K-1.
    """
    if data.task not in ("classification", "regression"):
        raise UserError(f"{data.name}: task {data.task!r} is unknown: use 'classification' or 'regression'")
    for part, x, y in (("training", data.x_train, data.y_train), ("test", data.x_test, data.y_test)):
        _check_part(f"{data.name}, {part} set", x, y)
        if data.task == "classification":
            _check_labels(f"{data.name}, {part} set", y, data.num_classes)
        elif not y.is_floating_point():
            raise UserError(f"{data.name}, {part} set: regression targets must be floats, not {y.dtype}")
        else:
            _check_finite(f"{data.name}, {part} set", "targets", y)
    if data.x_train.shape[1:] != data.x_test.shape[1:]:
        raise UserError(
            f"{data.name}: training examples have shape {tuple(data.x_train.shape[1:])}, test examples "
            f"{tuple(data.x_test.shape[1:])}: they must be the same"
        )
    if data.class_names and len(data.class_names) != data.num_classes:
        raise UserError(
            f"{data.name}: {len(data.class_names)} class names for {data.num_classes} classes: "
            "name all of them, or none"
        )


def _check_part(where: str, x: Any, y: Any) -> None:
    if not (isinstance(x, Tensor) and isinstance(y, Tensor)):
        raise UserError(f"{where}: x and y must be tensors, not {type(x).__name__} and {type(y).__name__}")
    if x.dtype != torch.float32 or x.ndim < 2:
        raise UserError(f"{where}: x must be float32 (N, ...), not {x.dtype} of shape {tuple(x.shape)}")
    if y.ndim != 1 or len(x) != len(y):
        raise UserError(
            f"{where}: {len(x)} examples but labels of shape {tuple(y.shape)}: there must be one per example"
        )
    if x.numel() == 0:
        raise UserError(f"{where} is empty (shape {tuple(x.shape)}): at least one example is needed")
    _check_finite(where, "features", x)


def _check_finite(where: str, what: str, values: Tensor) -> None:
    bad = ~torch.isfinite(values)
    if bool(bad.any()):
        row = int(bad.nonzero()[0, 0])
        raise UserError(f"{where}: NaN or infinity in the {what} of row {row}: remove or impute it")


def _check_labels(where: str, y: Tensor, num_classes: int) -> None:
    if num_classes < 2:
        raise UserError(f"{where}: {num_classes} classes: classification needs at least 2")
    if y.dtype != torch.int64:
        raise UserError(f"{where}: labels must be integers (int64), not {y.dtype}")
    bad = (y < 0) | (y >= num_classes)
    if bool(bad.any()):
        row = int(bad.nonzero()[0, 0])
        raise UserError(f"{where}: label {int(y[row])} in row {row} must be in 0..{num_classes - 1}")
