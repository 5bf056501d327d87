"""Where examples come from: arrays that are read in place, or a torch Dataset. Row numbers in, a batch out."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset
from torch.utils.data._utils.collate import collate, default_collate_fn_map

from ..errors import UserError
from .examples import as_inputs, as_tensor, check_kind, is_tree
from .reading import Batch, Reader, ReaderThread, ReaderWorkers, Rows, leaves

__all__ = ["Source", "in_order", "same", "source_of"]

_SPOTS = 8  # examples read again: all of them unchanged by chance has probability 2^-8 if half of them flip
_AHEAD, _AHEAD_BYTES = 8, 2**28  # batches read ahead, unless they are large
_MESSAGE_BYTES = 2**22  # from a worker


class Source(ABC):
    """N examples. name: of the data, for messages."""

    name: str
    num_data: int

    @abstractmethod
    def read(self, rows: Rows) -> Batch:
        """The examples of these rows, on the host. Raises UserError if one cannot be read."""

    @abstractmethod
    def reader(self, order: Iterable[Rows], size: int, example_bytes: int, *, pin: bool) -> Reader:
        """Reads ahead in this order. size: of the largest batch."""

    @abstractmethod
    def refuse_another_length(self) -> None:
        """Raises UserError if the number of examples is no longer N."""

    def spots(self) -> Batch:
        """A few examples, from the first to the last."""
        return self.read(sorted({round(row) for row in np.linspace(0, self.num_data - 1, _SPOTS)}))


def source_of(data: Any, num_workers: int) -> Source:
    """A pair of tensors, arrays, data frames or lists, or a map-style Dataset of such pairs; nothing is copied but
    frames and lists.

    Raises:
        UserError: anything else, or pairs of unequal length.
    """
    if isinstance(data, DataLoader):
        raise UserError("data is a DataLoader, which makes batches of its own: give its dataset, loader.dataset")
    if isinstance(data, IterableDataset):
        raise UserError("data is an IterableDataset, whose examples have no numbers: give a map-style Dataset")
    if type(data) is TensorDataset and len(data.tensors) == 2:
        return _Arrays(*data.tensors)
    if isinstance(data, Dataset):
        return _Examples(data, num_workers)
    if not isinstance(data, tuple | list) or len(data) != 2:
        found = f"{len(data)} things" if isinstance(data, tuple | list) else f"a {type(data).__name__}"
        raise UserError(f"data is {found}: give a pair (X, y), or a torch Dataset")
    return _Arrays(*data)


def same(first: Batch, second: Batch) -> bool:
    """Whether two batches hold the same values."""
    pairs = zip(leaves(first), leaves(second), strict=True)
    return all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs)


def in_order(num_data: int, size: int) -> Iterator[range]:
    """Rows 0..N-1, `size` at a time."""
    for start in range(0, num_data, size):
        yield range(start, min(start + size, num_data))


class _Arrays(Source):
    """Read in place, by a thread: a file mapped into memory (`np.memmap`) is never read as a whole."""

    name = "data"

    def __init__(self, x: Any, y: Any) -> None:
        self._x, self._y = _in_place(x, "X"), _in_place(y, "y")
        if any(values.ndim == 0 for _, values in (*_named(self._x), ("y", self._y))):
            raise UserError("the data are single numbers: X and y must contain one row per example")
        self.num_data = len(self._y)
        for name, values in _named(self._x):
            if len(values) != self.num_data:
                raise UserError(
                    f"{name} has {len(values)} examples but y has {self.num_data}: the numbers must match"
                )

    def read(self, rows: Rows) -> Batch:
        index = np.asarray(rows, dtype=np.int64)
        x = _each(self._x, lambda array: _gather(array, index))
        return x, _gather(self._y, index)

    def reader(self, order: Iterable[Rows], size: int, example_bytes: int, *, pin: bool) -> Reader:
        ahead = max(1, min(_AHEAD, _AHEAD_BYTES // (size * example_bytes)))
        return ReaderThread(self.read, iter(order), ahead=ahead, pin=pin)

    def refuse_another_length(self) -> None:
        """An array keeps its length."""


def _in_place(values: Any, name: str) -> Any:
    """An array or tensor (or a dict or tuple of them) as it is; a copy of anything else."""
    if is_tree(values):
        items = values.items() if isinstance(values, dict) else enumerate(values)
        leaves = {key: _in_place(value, f"{name}[{key!r}]") for key, value in items}
        return {str(key): leaf for key, leaf in leaves.items()} if isinstance(values, dict) else (*leaves.values(),)
    if isinstance(values, Tensor):
        values = values.detach()
        known = values.device.type == "cpu" and values.dtype != torch.bfloat16 and values.layout is torch.strided
        return values.numpy() if known else values
    if isinstance(values, np.ndarray) and values.ndim:
        check_kind(values, name)
        return values
    return as_tensor(values, name).numpy()


def _named(x: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(x, dict | tuple):
        yield "X", x
        return
    for key, values in x.items() if isinstance(x, dict) else enumerate(x):
        yield f"X[{key!r}]", values


def _each(x: Any, function: Any) -> Any:
    if isinstance(x, dict):
        return {key: function(values) for key, values in x.items()}
    return tuple(function(values) for values in x) if isinstance(x, tuple) else function(x)


def _gather(array: Any, rows: np.ndarray) -> Tensor:
    if isinstance(array, Tensor):
        return array[torch.from_numpy(rows).to(array.device)].cpu()
    # np.take is faster, but would first copy the whole of an array that is stored in another way.
    plain = array.flags.c_contiguous and array.flags.aligned and array.dtype.isnative
    return as_tensor(np.take(array, rows, axis=0) if plain else array[rows], "data", copy=False)


class _Examples(Source):
    """A Dataset of pairs, read by worker processes, or in this one."""

    def __init__(self, dataset: "Dataset[Any]", num_workers: int) -> None:
        self.name, self._dataset, self._workers = f"the Dataset {type(dataset).__name__}", dataset, num_workers
        self.num_data = len(dataset)  # type: ignore[arg-type]
        if self.num_data == 0:
            raise UserError("the Dataset is empty: it must contain at least one example")

    def refuse_another_length(self) -> None:
        found = len(self._dataset)  # type: ignore[arg-type]
        if found != self.num_data:
            raise UserError(
                f"{self.name} had {self.num_data} examples and now has {found}: a posterior is conditioned on "
                "fixed data, so make a new Posterior of it"
            )

    def read(self, rows: Rows) -> Batch:
        pairs = self._pairs(rows)
        try:
            x, y = _collated(pairs)
        except Exception as error:  # of many types, by what does not stack
            reason = str(error).split("\n")[0]
            raise UserError(
                f"the Dataset's examples do not stack ({reason}){self._odd_one(rows, pairs)}: they must be "
                "tensors, arrays or numbers, of one shape"
            ) from error
        x = tuple(x) if isinstance(x, list) else x
        return as_inputs(x, "X", copy=False), as_tensor(y, "y", copy=False)

    def reader(self, order: Iterable[Rows], size: int, example_bytes: int, *, pin: bool) -> Reader:
        if self._workers == 0:
            return ReaderThread(self.read, iter(order), ahead=0, pin=pin)
        together = max(1, min(_AHEAD, _MESSAGE_BYTES // (size * example_bytes)))
        return ReaderWorkers(
            self.read,
            iter(order),
            like=self.read([0]),
            size=size,
            workers=self._workers,
            ahead=2 if 2 * self._workers * together * size * example_bytes <= _AHEAD_BYTES else 1,
            together=together,
            pin=pin,
        )

    def _pairs(self, rows: Rows) -> list[Any]:
        together = getattr(self._dataset, "__getitems__", None)
        if together is not None:
            try:
                return list(together([int(row) for row in rows]))
            except Exception:  # one by one, the example is known
                pass
        return [self._pair(int(row)) for row in rows]

    def _pair(self, row: int) -> Any:
        try:
            pair = self._dataset[row]
        except Exception as error:  # the user's code may raise anything
            raise UserError(
                f"example {row} of {self.name} cannot be read ({type(error).__name__}: {error}): mend it or take "
                "it out"
            ) from error
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise UserError(f"the Dataset's examples are a {type(pair).__name__}: they must be pairs (x, y)")
        return pair

    def _odd_one(self, rows: Rows, pairs: list[Any]) -> str:
        for row, pair in zip(rows, pairs, strict=True):
            try:
                _collated([pairs[0], pair])
            except Exception:
                return f", first example {row}"
        return ""


def _collated(pairs: list[Any]) -> Any:
    """`default_collate`, which in a worker would stack tensors in new shared memory."""
    return collate(pairs, collate_fn_map={**default_collate_fn_map, Tensor: _stack})


def _stack(tensors: list[Tensor], *, collate_fn_map: Any = None) -> Tensor:
    return torch.stack(tensors)
