"""The IDX format of the MNIST family: a magic number, big-endian sizes, then unsigned bytes."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from ..errors import UserError

__all__ = ["MOST_BYTES", "read_idx"]

MOST_BYTES = 2**26  # of an unpacked file; the largest of Fashion-MNIST has 47,040,016


def read_idx(path: Path, num_dimensions: int) -> np.ndarray:
    """The uint8 array in a `.gz` IDX file, of which no more is unpacked than its header declares, and one byte.

    Raises:
        UserError: not a gzip file, wrong magic number, more than MOST_BYTES, truncated, or trailing bytes.
    """
    begin = 4 + 4 * num_dimensions
    try:
        with gzip.open(path, "rb") as file:
            sizes = _sizes(path, file.read(begin), num_dimensions)
            size = math.prod(sizes)
            raw = file.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is not a complete gzip file ({error}): download it again") from error
    if len(raw) != size:
        found = f"{len(raw):,}" if len(raw) < size else "more"
        raise UserError(
            f"{path} should contain {' x '.join(map(str, sizes))} bytes but contains {found}: it is truncated or "
            "damaged, download it again"
        )
    return np.frombuffer(raw, dtype=np.uint8).reshape(sizes)


def _sizes(path: Path, header: bytes, num_dimensions: int) -> list[int]:
    magic = bytes((0, 0, 8, num_dimensions))  # 8 = unsigned bytes
    if header[:4] != magic:
        raise UserError(
            f"{path} is not an IDX file of {num_dimensions} dimensions: it starts with "
            f"{header[:4].hex() or 'nothing'} instead of {magic.hex()}"
        )
    if len(header) < 4 + 4 * num_dimensions:
        raise UserError(
            f"{path} ends after {len(header)} bytes, within its header: it is truncated, download it again"
        )
    sizes = [int(size) for size in np.frombuffer(header[4:], dtype=">u4")]
    if math.prod(max(1, size) for size in sizes) > MOST_BYTES:  # numpy limits an empty array's sizes too
        raise UserError(
            f"{path} declares {' x '.join(map(str, sizes))} bytes, and at most {MOST_BYTES:,} are read: download "
            "it again"
        )
    return sizes
