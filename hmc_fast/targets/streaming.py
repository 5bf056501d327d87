"""Data that are read as they are needed, because they do not fit in memory, or are kept there because they do.

Whatever is streamed is read in an order that is known beforehand: rows 0..N-1 for a gradient on all data, and for
minibatches the permutations that follow from the seed. So it is read ahead, and the draws are those in memory.
"""

import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal
from weakref import WeakSet

import torch
from torch import Tensor

from ..compute.batches import Inputs, each, rows
from ..compute.device import free_memory, human
from ..compute.recording import Unrecordable, is_recording
from ..errors import UserError
from .examples import as_inputs, as_tensor
from .reading import Batch, Reader, Rows, check_alike, ended_workers_told, leaves
from .sources import Source, in_order, same, source_of
from .validation import check_data

__all__ = ["Stream", "Streaming", "place"]

Streaming = Literal["auto", True, False]

_FIRST = 3  # examples kept, on which the model is tried
_READ_BYTES, _READ_ROWS = 2**20, 2**16  # of one batch when all data are read once
_SHARE = 0.5  # of the free memory that data may take: the rest is for activations, draws and others


def place(
    data: Any, streaming: Streaming, num_workers: int, device: torch.device, dtype: torch.dtype
) -> "tuple[Stream | None, Inputs, Tensor]":
    """All examples, copied, and no stream, if they fit in memory; else a stream and its first examples.

    Raises:
        UserError: data of the wrong kind, or that change from one access to the next and may not be streamed.
    """
    if streaming not in ("auto", True, False):
        raise UserError(f"stream {streaming!r} is unknown: use 'auto', True or False")
    source = source_of(data, num_workers)
    if source.num_data == 0:
        raise UserError("the data are empty: X must contain at least one example")
    first = source.read(range(min(_FIRST, source.num_data)))
    changes = not same(first, source.read(range(min(_FIRST, source.num_data))))
    changes = changes or not same(source.spots(), source.spots())
    if changes and streaming is False:
        raise UserError(
            f"{source.name} gave another example the second time: a posterior is conditioned on fixed data, so "
            "take its random transforms (augmentation) out"
        )
    source.refuse_another_length()
    needed = _bytes(first, dtype)
    reason = "as asked" if streaming is True else _shortage(source.num_data * needed, device)
    if changes:
        reason = reason or "because they change"
    if streaming is False or reason is None:
        return None, *(_copied(data) if isinstance(data, tuple | list) else _stacked(source, first))
    total = human(source.num_data * needed)
    note = f"data: {total} are streamed, {reason}"
    if changes:
        note += f"; {source.name} gives other examples with every access, so the chains sample no fixed posterior"
    stream = Stream(source, device, dtype, note, changes=changes)
    return stream, *first


class Stream:
    """The examples of a source, on a device. Outside `open` nothing is read ahead from one pass to the next.

    Attributes:
        note: why the data are streamed. changes: whether examples differ from one access to the next.
        fit: labels as the likelihood takes them.
    """

    fit: Callable[[Tensor], Tensor]

    def __init__(
        self, source: Source, device: torch.device, dtype: torch.dtype, note: str, *, changes: bool
    ) -> None:
        self.source, self.note, self.changes = source, note, changes
        self.num_data = source.num_data
        self.device, self.dtype = device, dtype
        self.example_bytes = _bytes(source.read([0]), dtype)
        self.digests: tuple[str, ...] = ()
        self._spots = source.spots()
        self._depth = 0
        self._in_order: dict[int, Reader] = {}
        self._readers: WeakSet[Reader] = WeakSet()

    def to(self, device: torch.device) -> "Stream":
        moved = copy.copy(self)
        moved.device, moved._depth, moved._in_order, moved._readers = device, 0, {}, WeakSet()
        return moved

    @ended_workers_told()
    def survey(self) -> Tensor:
        """Reads all examples once, in bounded memory, to check them and for `digests`. Returns the smallest and the
        largest label.

        Raises:
            UserError: NaN or infinity, or labels that do not fit the likelihood; names the row.
        """
        hashes = [hashlib.sha256() for _ in leaves(self._spots)]
        size = max(1, min(_READ_ROWS, _READ_BYTES // self.example_bytes))
        extremes = None
        with self.reader(in_order(self.num_data, size), size) as reader:
            for part, (x, y) in zip(in_order(self.num_data, size), reader, strict=True):
                check_data(x, y, first_row=part.start)
                y = self.fit(y)
                known = y.flatten() if extremes is None else torch.cat([extremes, y.flatten()])
                extremes = torch.stack([known.min(), known.max()])
                for tensor, hash in zip(leaves((x, y)), hashes, strict=True):
                    hash.update(self._converted(tensor).contiguous().numpy().data)
        assert extremes is not None
        self.digests = ("changes",) if self.changes else tuple(hash.hexdigest()[:16] for hash in hashes)
        return extremes

    # --- reading ---

    @contextmanager
    def open(self) -> Iterator[None]:
        """For the time of a run: what is read ahead is kept from one pass to the next, and ends with it.

        Raises:
            UserError: the data are no longer those of which the posterior was made.
        """
        self.source.refuse_another_length()
        if not self.changes and not same(self._spots, self.source.spots()):
            raise UserError(
                f"{self.source.name} changed after the posterior was made of it: leave streamed data as they are, "
                "or make a new Posterior"
            )
        self._depth += 1
        try:
            with ended_workers_told():
                yield
        finally:
            self._depth -= 1
            if not self._depth:
                for reader in list(self._readers):
                    reader.close()
                self._in_order.clear()

    def reader(self, order: Iterable[Rows], size: int) -> Reader:
        """Batches of `size` rows in this order, on the host."""
        reader = self.source.reader(order, size, self.example_bytes, pin=self.device.type == "cuda")
        self._readers.add(reader)
        return reader

    def in_order(self, size: int) -> Iterator[tuple[slice, Inputs, Tensor]]:
        """All data once, `size` examples at a time."""
        refuse_recording()
        reader = self._in_order.pop(size, None)
        if reader is None:
            order = in_order(self.num_data, size)
            reader = self.reader(_endless(self.num_data, size) if self._depth else order, size)
        try:
            for part in in_order(self.num_data, size):
                yield slice(part.start, part.stop), *self.placed(next(reader))
        except BaseException:  # GeneratorExit, too: the reader is in the midst of a pass
            reader.close()
            raise
        if self._depth:
            self._in_order[size] = reader
        else:
            reader.close()

    def chosen(self, indices: Tensor, size: int) -> Iterator[tuple[slice, Inputs, Tensor]]:
        """Rows `indices (C, B)`, `size` columns at a time: `(C, size, ...)`. Nothing is read ahead."""
        refuse_recording()
        for part in in_order(indices.shape[1], size):
            columns = slice(part.start, part.stop)
            given = indices[:, columns].cpu()
            x, y = self.placed(self.source.read(given.flatten().tolist()))
            yield columns, each(x, lambda t: t.unflatten(0, given.shape)), y.unflatten(0, given.shape)  # noqa: B023

    def placed(self, batch: Batch) -> Batch:
        """On the device, in the dtypes of the posterior's data."""
        x, y = batch
        return each(x, self._placed), self._placed(self.fit(y))

    def write(self, batch: Batch, buffers: list[Tensor]) -> None:
        """Copies to buffers on the device, of any shape that holds as many examples; y is the last."""
        for buffer, values in zip(buffers, leaves((batch[0], self.fit(batch[1]))), strict=True):
            buffer.copy_(values.view(buffer.shape), non_blocking=True)

    def refuse_changes(self) -> None:
        """Raises UserError if the data change from one access to the next."""
        if self.changes:
            raise UserError(
                f"{self.source.name} gives other examples with every access, but this sampler needs one density: "
                "take its random transforms (augmentation) out, or use a minibatch sampler such as SGHMC"
            )

    def _converted(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor

    def _placed(self, tensor: Tensor) -> Tensor:
        return self._converted(tensor.to(self.device, non_blocking=True))


def refuse_recording() -> None:
    """Raises Unrecordable: a recording would contain the examples of one batch."""
    if is_recording():
        raise Unrecordable("the data are streamed, which no recording can contain")


def _endless(num_data: int, size: int) -> Iterator[range]:
    while True:
        yield from in_order(num_data, size)


# --- in memory or not ---


def _bytes(batch: Batch, dtype: torch.dtype) -> int:
    """Of one example, converted."""
    return max(1, sum((t[:1].to(dtype) if t.is_floating_point() else t[:1]).nbytes for t in leaves(batch)))


def _shortage(needed: int, device: torch.device) -> str | None:
    """Why data of `needed` bytes are not kept in memory, or None. On their way to a GPU they pass the host's."""
    for place in dict.fromkeys((device, torch.device("cpu"))):
        free = free_memory(place)
        if needed > _SHARE * free:
            return f"more than half of the {human(free)} free on {place}"
    return None


def _copied(data: Any) -> Batch:
    return as_inputs(data[0], "X"), as_tensor(data[1], "y")


@ended_workers_told()
def _stacked(source: Source, first: Batch) -> Batch:
    """All examples of a Dataset."""
    x, y = (rows(first[0], slice(1)), first[1][:1])
    x = each(x, lambda t: t.new_empty(source.num_data, *t.shape[1:]))
    y = y.new_empty(source.num_data, *y.shape[1:])
    example_bytes = _bytes(first, torch.float64)
    size = max(1, min(_READ_ROWS, _READ_BYTES // example_bytes))
    with source.reader(in_order(source.num_data, size), size, example_bytes, pin=False) as reader:
        for part, batch in zip(in_order(source.num_data, size), reader, strict=True):
            for whole, values in zip(leaves((x, y)), leaves(batch), strict=True):
                check_alike(whole, values, part)
                whole[part.start : part.stop] = values
    return x, y
