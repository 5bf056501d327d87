"""JSON objects and arrays from files that anyone may have written or damaged, read within bounds of memory."""

import json
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np

__all__ = ["Unreadable", "read_json", "read_npy", "read_npz"]

_MOST_JSON = 2**24  # bytes; a run's largest file has some kilobytes
_MOST_ARRAYS = 2**29  # bytes, unpacked; a report of more test points would take minutes
_DEEPEST = 32  # of nested objects
_DAMAGES = (
    ValueError, KeyError, EOFError, TypeError, SyntaxError, IndexError, OverflowError, RecursionError, MemoryError,
    NotImplementedError, struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


class Unreadable(ValueError):
    """A file that is not what it should be. Its text is a predicate, such as "is not valid JSON"."""


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file.

    Raises:
        Unreadable: a file that is missing, too large, no JSON or no object, or nested more than 32 deep.
    """
    try:
        _check_regular(path)
        if path.stat().st_size > _MOST_JSON:
            raise Unreadable(f"has more than {_MOST_JSON:,} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Unreadable("is missing or cannot be read") from error
    except (ValueError, RecursionError) as error:
        raise error if isinstance(error, Unreadable) else Unreadable("is not valid JSON") from error
    if not isinstance(content, dict):
        raise Unreadable("does not contain a JSON object")
    level: list[Any] = [content]
    for _ in range(_DEEPEST):
        level = [part for value in level for part in _parts(value)]
    if level:
        raise Unreadable(f"is nested more than {_DEEPEST} deep")
    return content


def _parts(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def read_npz(path: Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Those of the arrays `names` that an archive holds; only numbers.

    Raises:
        Unreadable: a file that is missing or no archive, or arrays of other sizes than they say or too large.
    """
    try:
        _check_regular(path)
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            held = {name: archive.getinfo(f"{name}.npy") for name in names if f"{name}.npy" in archive.namelist()}
            if sum(info.file_size for info in held.values()) > _MOST_ARRAYS:
                raise Unreadable(f"unpacks to more than {_MOST_ARRAYS:,} bytes")
            if any(info.flag_bits & 1 for info in held.values()):
                raise Unreadable("is encrypted")
            arrays = {}
            for name, info in held.items():
                try:
                    with archive.open(info) as member:
                        arrays[name] = _array(member, info.file_size)
                except Unreadable as error:
                    raise Unreadable(f"{error} in {name!r}") from error
            return arrays
    except OSError as error:
        raise Unreadable("is missing or cannot be read") from error
    except _DAMAGES as error:
        raise error if isinstance(error, Unreadable) else Unreadable("is not a valid npz archive") from error


def read_npy(path: Path) -> np.ndarray:
    """The numbers of a `.npy` file, mapped, not read.

    Raises:
        Unreadable: a file that is missing, or of another size than it says.
    """
    try:
        _check_regular(path)
        with path.open("rb") as file:
            _header(file, path.stat().st_size)
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except OSError as error:
        raise Unreadable("is missing or cannot be read") from error
    except _DAMAGES as error:
        raise error if isinstance(error, Unreadable) else Unreadable("is not a valid npy file") from error


def _check_regular(path: Path) -> None:
    """Reading a pipe or a device may never end."""
    if path.exists() and not path.is_file():
        raise Unreadable("is not a file")


def _array(file: IO[bytes], size: int) -> np.ndarray:
    """An array from a stream of `size` bytes."""
    shape, fortran_order, dtype = _header(file, size)
    raw = file.read(math.prod(shape) * dtype.itemsize + 1)  # one more byte: the end has the checksum
    return np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran_order else "C")


def _header(file: IO[bytes], size: int) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, order and type of the array that fills the rest of a file of `size` bytes."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise Unreadable(f"is an array of version {version}")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read(file)
    if dtype.kind not in "biuf" or any(length < 0 for length in shape):
        raise Unreadable("contains no numbers")
    if math.prod(shape) * dtype.itemsize != size - file.tell():
        raise Unreadable(f"does not hold the {shape} numbers that it declares")
    return shape, fortran_order, dtype
