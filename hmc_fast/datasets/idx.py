"""The IDX format of the MNIST family: a magic number, big-endian sizes, then unsigned bytes."""

import gzip
import zlib
from pathlib import Path

import numpy as np

from ..errors import UserError

__all__ = ["read_idx"]


def read_idx(path: Path, num_dimensions: int) -> np.ndarray:
    """The uint8 array in a `.gz` IDX file.

    Raises:
        UserError: not a gzip file, wrong magic number, truncated, or trailing bytes.
    """
    try:
        with gzip.open(path, "rb") as file:
            raw = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is not a complete gzip file ({error}): download it again") from error
    magic = bytes((0, 0, 8, num_dimensions))  # 8 = unsigned bytes
    if raw[:4] != magic:
        raise UserError(
            f"{path} is not an IDX file of {num_dimensions} dimensions: it starts with "
            f"{raw[:4].hex() or 'nothing'} instead of {magic.hex()}"
        )
    begin = 4 + 4 * num_dimensions
    if len(raw) < begin:
        raise UserError(
            f"{path} ends after {len(raw)} bytes, within its header: it is truncated, download it again"
        )
    sizes = np.frombuffer(raw[4:begin], dtype=">u4").astype(np.int64)
    if len(raw) != begin + sizes.prod():
        raise UserError(
            f"{path} should contain {' x '.join(map(str, sizes))} bytes but contains {len(raw) - begin}: it is "
            "truncated or damaged, download it again"
        )
    return np.frombuffer(raw[begin:], dtype=np.uint8).reshape(sizes)
