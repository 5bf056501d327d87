"""Batches of examples read ahead of their use, in a given order: by a thread, or by worker processes.

Rows are given, not drawn, so what is read depends neither on the number of workers nor on how far they are ahead.
"""

import itertools
import signal
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..compute.batches import Inputs, each, named
from ..compute.batches import rows as rows_of
from ..errors import UserError

__all__ = [
    "Batch",
    "Failure",
    "Reader",
    "ReaderThread",
    "ReaderWorkers",
    "check_alike",
    "ended_workers_told",
    "leaves",
]

Batch = tuple[Inputs, Tensor]
Rows = Sequence[int] | np.ndarray


@dataclass(frozen=True)
class Failure:
    """What a worker returns instead of a batch: exceptions lose their type and place between processes."""

    message: str


class Reader(ABC):
    """The batches of an order, one after the other. `close` may be called twice, and from any state."""

    closed = False

    @abstractmethod
    def __next__(self) -> Batch:
        """Valid until the next one is asked for.

        Raises:
            UserError: an example cannot be read.
            StopIteration: the order is at its end.
        """

    @abstractmethod
    def close(self) -> None: ...

    def __iter__(self) -> "Reader":
        return self

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ReaderThread(Reader):
    """One thread: for arrays, whose rows are copied without Python's lock.

    Args:
        read: rows in, a batch out.
        ahead: batches; 0 reads in the calling thread.
        pin: to page-locked memory, from which a copy to a GPU does not wait.
    """

    def __init__(self, read: Callable[[Rows], Batch], order: Iterator[Rows], *, ahead: int, pin: bool) -> None:
        self._read, self._order, self._pin = read, order, pin
        self._waiting: deque[Future[Batch]] = deque()
        self._thread = ThreadPoolExecutor(1, "hmc_fast reader") if ahead else None
        for _ in range(ahead):
            self._submit()

    def __next__(self) -> Batch:
        if self._thread is None:
            return self._batch(next(self._order))
        if not self._waiting:
            raise StopIteration
        batch = self._waiting.popleft()
        self._submit()
        return batch.result()

    def close(self) -> None:
        self.closed = True
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def _submit(self) -> None:
        assert self._thread is not None
        rows = next(self._order, None)
        if rows is not None:
            self._waiting.append(self._thread.submit(self._batch, rows))

    def _batch(self, rows: Rows) -> Batch:
        x, y = self._read(rows)
        return (each(x, Tensor.pin_memory), y.pin_memory()) if self._pin else (x, y)


class ReaderWorkers(Reader):
    """Worker processes of torch's DataLoader.

    Args:
        read: rows in, a batch out. like: a batch of any size. size: of the largest batch in the order.
        workers: at least 1. ahead: of each worker, in messages.
        together: batches per message.
        pin: to page-locked memory. Otherwise a worker writes to memory that both processes keep: with new memory
            for every message, reading and sending 128 small images takes .9 ms of CPU time instead of .4.
    """

    def __init__(
        self,
        read: Callable[[Rows], Batch],
        order: Iterator[Rows],
        *,
        like: Batch,
        size: int,
        workers: int,
        ahead: int,
        together: int,
        pin: bool,
    ) -> None:
        self._sizes: deque[int] = deque()
        self._arrived: deque[Batch] = deque()
        number = workers * ahead + 1  # one is in use
        self._slots = [] if pin else [_shared(like, together * size) for _ in range(number)]
        loader = DataLoader(
            _Posts(read, self._slots),
            batch_sampler=_messages(order, together, number, self._sizes),  # type: ignore[arg-type]
            num_workers=workers,
            prefetch_factor=ahead,
            collate_fn=_unchanged,
            pin_memory=pin,
            worker_init_fn=_left_to_the_run,
            generator=torch.Generator().manual_seed(0),  # else the workers' seed comes from the global one
        )
        self._batches: Any = iter(loader)
        # Collected within a cycle of references, whose queues close first, the iterator would wait 5 s for each
        # worker. So it is kept alive until this reader is gone, to which it must not refer.
        self._finalizer = weakref.finalize(self, _shut_down, self._batches)

    def __next__(self) -> Batch:
        if not self._arrived:
            x, y = self._message()
            begin = 0
            while begin < len(y):
                end = begin + self._sizes.popleft()
                self._arrived.append((rows_of(x, slice(begin, end)), y[begin:end]))
                begin = end
        return self._arrived.popleft()

    def _message(self) -> Batch:
        try:
            batch = next(self._batches)
        except (OSError, EOFError) as error:  # killed with half a message under way
            raise _ended(error) from error
        if isinstance(batch, Failure):
            raise UserError(batch.message)
        if self._slots:
            slot, count = batch
            x, y = self._slots[slot]
            return rows_of(x, slice(count)), y[:count]
        x, y = batch
        return x if isinstance(x, Tensor | dict) else tuple(x), y  # pinning makes tuples lists

    def close(self) -> None:
        self.closed, self._batches = True, iter(())
        self._finalizer()


@contextmanager
def ended_workers_told() -> Iterator[None]:
    """Raises UserError when a worker was killed or did not start. Torch raises from a signal handler: anywhere."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise _ended(error) from error


def _ended(error: Exception) -> UserError:
    reason = str(error).strip().split("\n")[0] or type(error).__name__
    return UserError(f"a worker that reads the Dataset ended ({reason}): num_workers=0 reads it in this process")


class _Posts(Dataset[Any]):
    """In a worker: reads several batches, and leaves them in a slot if there are any."""

    def __init__(self, read: Callable[[Rows], Batch], slots: list[Batch]) -> None:
        self._read, self._slots = read, slots

    def __getitems__(self, message: tuple[int, list[int]]) -> Batch | tuple[int, int] | Failure:
        slot, rows = message
        try:
            batch = self._read(rows)
            if not self._slots:
                return batch
            for place, values in zip(leaves(self._slots[slot]), leaves(batch), strict=True):
                check_alike(place, values, rows)
                place[: len(values)] = values
            return slot, len(batch[1])
        except UserError as error:
            return Failure(str(error))


def check_alike(known: Tensor, values: Tensor, rows: Rows) -> None:
    """Raises UserError if the examples of these rows differ in type or shape from those that are known."""
    if known.shape[1:] != values.shape[1:] or known.dtype != values.dtype:
        raise UserError(
            f"the Dataset's examples do not stack (example 0 is {known.dtype} of shape {tuple(known.shape[1:])}, "
            f"those from {rows[0]} on {values.dtype} of shape {tuple(values.shape[1:])}): they must be tensors, "
            "arrays or numbers, of one shape"
        )


def leaves(batch: Batch) -> list[Tensor]:
    """Every tensor of a batch, y last."""
    return [*(tensor for _, tensor in named(batch[0])), batch[1]]


def _shared(like: Batch, count: int) -> Batch:
    def space(tensor: Tensor) -> Tensor:
        return tensor.new_empty(count, *tensor.shape[1:]).share_memory_()

    return each(like[0], space), space(like[1])


def _messages(
    order: Iterator[Rows], together: int, slots: int, sizes: deque[int]
) -> Iterator[tuple[int, list[int]]]:
    """A slot in turn, and rows of several batches, whose sizes are noted."""
    for slot in itertools.cycle(range(slots)):
        group = list(itertools.islice(order, together))
        if not group:
            return
        sizes.extend(map(len, group))
        yield slot, [int(row) for rows in group for row in rows]


def _shut_down(batches: Any) -> None:
    """What the iterator's own `__del__` calls."""
    batches._shutdown_workers()


def _unchanged(batch: Any) -> Any:
    return batch


def _left_to_the_run(worker: int) -> None:
    """Ctrl-C and a closed terminal reach all processes, but the run needs batches until its iteration is over."""
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
