"""Rows of one shape that arrive in order: in host memory, or in a `.npy` file that a crash leaves readable.

The room of a file is reserved when it is created, so a full disk is noticed at the start. Its header comes with the
first rows: a file without one holds nothing. A checkpoint stores how many rows it counts and their SHA-256; what
lies beyond them is written again.
"""

import hashlib
import io
import math
import os
import tokenize
import weakref
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import atomic_files
from ..errors import UserError

__all__ = ["Counted", "Damaged", "RowFile", "Rows", "is_begun", "npy_header", "verified"]

_READ = 2**24  # bytes hashed at a time


class Damaged(UserError):
    """A file that does not hold what a run wrote. what: the file, and what is wrong with it."""

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(f"{what}: it was damaged or changed since; start a new run in another directory")


class Counted(NamedTuple):
    """What a checkpoint says about a file of rows."""

    rows: int
    sha256: str


class Rows:
    """Rows in host memory: `shape[0]` of them, each of `shape[1:]`; the first `count` are filled."""

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self.shape, self.dtype, self.count = shape, np.dtype(dtype), 0
        self._values = np.empty(shape, self.dtype)

    @property
    def nbytes(self) -> int:
        """Of all rows, filled or not."""
        return math.prod(self.shape) * self.dtype.itemsize

    def append(self, rows: np.ndarray) -> None:
        """`(number, *shape[1:])`."""
        self._values[self.count : self.count + len(rows)] = rows
        self.count += len(rows)

    def read(self) -> np.ndarray:
        """The rows so far, not a copy."""
        return self._values[: self.count]

    def sync(self) -> Counted:
        """Returns when all rows so far are on the disk, if they belong there."""
        return Counted(self.count, "")


class RowFile(Rows):
    """Rows in a `.npy` file.

    Args:
        count: rows that are in it, when resuming. hasher: of these rows, from `verified`.

    Raises:
        NotWritten: the disk is full, or the file cannot be written.
        Damaged: the file has not the shape or dtype that the run's has.
    """

    def __init__(
        self, path: Path, shape: tuple[int, ...], dtype: Any, *, count: int = 0, hasher: Any = None
    ) -> None:
        self.path, self.shape, self.dtype, self.count = path, shape, np.dtype(dtype), count
        self._header = npy_header(shape, self.dtype)
        self._row_bytes = self.dtype.itemsize * math.prod(shape[1:])
        self._hasher = hasher or hashlib.sha256()
        self._synced = -1  # rows
        self._descriptor = atomic_files.open_file(path)
        weakref.finalize(self, os.close, self._descriptor)
        if not count:
            atomic_files.allocate(path, self._descriptor, len(self._header) + self.nbytes)
        elif os.pread(self._descriptor, len(self._header), 0) == npy_header((count, *shape[1:]), self.dtype):
            self.shape = (count, *shape[1:])  # the run has ended, perhaps early
        elif os.pread(self._descriptor, len(self._header), 0) != self._header:
            raise _damaged(path, f"is not an array of shape {shape} and type {self.dtype}")

    def append(self, rows: np.ndarray) -> None:
        """Writes in place; an error leaves the rows before as they are."""
        assert self.count + len(rows) <= self.shape[0]
        if not len(rows):
            return  # without a header the file holds nothing
        data = np.ascontiguousarray(rows, self.dtype).data.cast("B") if rows.size else memoryview(b"")
        if not self.count:
            atomic_files.write_at(self.path, self._descriptor, memoryview(self._header), 0)
        offset = len(self._header) + self.count * self._row_bytes
        atomic_files.write_at(self.path, self._descriptor, data, offset)
        self._hasher.update(data)
        self.count += len(rows)

    def read(self) -> np.ndarray:
        if not self.count:
            return np.empty((0, *self.shape[1:]), self.dtype)
        return np.load(self.path, mmap_mode="r")[: self.count]

    def sync(self) -> Counted:
        if self._synced != self.count:
            atomic_files.sync(self.path, self._descriptor)
            self._synced = self.count
        return Counted(self.count, self._hasher.hexdigest())


def npy_header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    """The first bytes of a `.npy` file."""
    buffer = io.BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, described)
    return buffer.getvalue()


def is_begun(path: Path) -> bool:
    """Whether a file may hold rows."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(1) not in (b"", b"\0")


def verified(path: Path, counted: Counted) -> Any:
    """The SHA-256 of the rows that a checkpoint counts, as a hash object that goes on with the rows after them.

    Raises:
        Damaged: the file is missing, has another size than its header says, or other rows.
    """
    hasher = hashlib.sha256()
    if not counted.rows:
        return hasher
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            if version != (1, 0):
                raise _damaged(path, f"is a .npy file of version {version}")
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            size = math.prod(shape) * dtype.itemsize
            found = os.fstat(file.fileno()).st_size - file.tell()
            if found != size:
                raise _damaged(path, f"has {found:,} bytes of rows instead of {size:,}")
            left = counted.rows * (size // shape[0])
            while left > 0 and (block := file.read(min(left, _READ))):
                hasher.update(block)
                left -= len(block)
    except OSError as error:
        raise _damaged(path, f"cannot be read ({error.strerror})") from error
    except (
        ValueError, TypeError, SyntaxError, ZeroDivisionError, IndexError, OverflowError, tokenize.TokenError
    ) as error:  # fmt: skip
        if isinstance(error, Damaged):
            raise
        raise _damaged(path, "is not a .npy file") from error
    if hasher.hexdigest() != counted.sha256:
        raise _damaged(path, f"does not hold the {counted.rows:,} rows that the checkpoint counts")
    return hasher


def _damaged(path: Path, what: str) -> Damaged:
    return Damaged(f"{path} {what}")
