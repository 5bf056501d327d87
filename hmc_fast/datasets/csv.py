"""Kaggle's CSV format of the MNIST family: `label,pixel1,...,pixel784`, one image per line."""

import contextlib
import itertools
import warnings
from pathlib import Path

import numpy as np

from ..atomic_files import written_atomically
from ..checked_files import Unreadable, read_npz
from ..errors import UserError

__all__ = ["read_csv"]


def read_csv(path: Path, side: int = 28) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 `(N, side, side)` and labels int64 `(N,)`.

    Parsed once: the arrays are cached next to the file as `NAME.cache.npz`, valid while its size and modification
    time match.

    Raises:
        UserError: an empty or ragged file, or a cell that is not an integer; names the line.
    """
    stat = path.stat()
    key = np.array([stat.st_size, stat.st_mtime_ns])
    cache = path.with_name(path.name + ".cache.npz")
    cached = _read_cache(cache, key, side)
    if cached is not None:
        return cached
    table = _parse(path, 1 + side * side)
    labels, pixels = table[:, 0], table[:, 1:]
    bad = np.argwhere((pixels < 0) | (pixels > 255))
    if len(bad):
        row, column = bad[0]
        raise UserError(
            f"{path} line {_line_number(path, row)} has pixel{column + 1} = {pixels[row, column]}: "
            "pixels must lie in 0..255"
        )
    images = pixels.astype(np.uint8).reshape(-1, side, side)
    _write_cache(cache, key, images, labels)
    return images, labels


def _parse(path: Path, width: int) -> np.ndarray:
    """All cells as int64, `(N, width)`."""
    import pandas as pd

    with path.open("rb") as file:
        header = file.readline().decode("utf-8", "replace").strip()
    if not header:
        raise UserError(f"{path} is empty: it must start with the header label,pixel1,...,pixel{width - 1}")
    if header.split(",")[0].strip().strip('"') != "label" or header.count(",") != width - 1:
        raise UserError(
            f"{path} line 1 has {header.count(',') + 1} columns, the first {header.split(',')[0][:40]!r}: the "
            f"header must be label,pixel1,...,pixel{width - 1}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # pandas only warns when it drops cells or casts infinities
            frame = pd.read_csv(path, header=None, skiprows=1, dtype=np.int64, names=range(width), index_col=False)
    except pd.errors.EmptyDataError as error:
        raise UserError(f"{path} holds a header and no images") from error
    except (ValueError, OverflowError, pd.errors.ParserError, Warning) as error:
        _explain(path, width, error)
    if frame.empty:
        raise UserError(f"{path} holds a header and no images")
    return frame.to_numpy()


def _explain(path: Path, width: int, error: Exception) -> None:
    """Finds the first bad line; slow, but only called for a file that failed to parse."""
    with path.open(encoding="utf-8", errors="replace") as file:
        next(file)
        for number, line in enumerate(file, start=2):
            if not line.strip():
                continue
            cells = line.rstrip("\r\n").split(",")
            if len(cells) != width:
                raise UserError(f"{path} line {number} has {len(cells)} columns instead of {width}") from error
            for column, cell in enumerate(cells):
                if not cell.strip().lstrip("-").isdigit():
                    name = "label" if column == 0 else f"pixel{column}"
                    raise UserError(f"{path} line {number} has {name} {cell!r}: it must be an integer") from error
    raise UserError(f"{path} cannot be read: {error}") from error


def _line_number(path: Path, row: int) -> int:
    """The line number of the row-th image; blank lines are allowed."""
    with path.open("rb") as file:
        filled = (number for number, line in enumerate(file, start=1) if line.strip())
        return next(itertools.islice(filled, row + 1, None))


def _read_cache(cache: Path, key: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray] | None:
    try:
        saved = read_npz(cache, ("key", "images", "labels"))
    except Unreadable:
        return None  # a damaged cache is rebuilt
    if len(saved) < 3 or not np.array_equal(saved["key"], key):
        return None
    images, labels = saved["images"], saved["labels"]
    is_whole = labels.ndim == 1 and images.shape == (len(labels), side, side)
    return (images, labels) if is_whole and images.dtype == np.uint8 and labels.dtype == np.int64 else None


def _write_cache(cache: Path, key: np.ndarray, images: np.ndarray, labels: np.ndarray) -> None:
    # In a read-only directory the file is simply parsed again next time.
    with contextlib.suppress(OSError), written_atomically(cache) as temporary:
        np.savez(temporary, key=key, images=images, labels=labels)
