"""Storage of draws: a half-precision ring buffer on the device, flushed to host memory or `draws.npy` when full.

Device memory does not grow with the number of draws, and the device synchronises with the host only once per
`capacity` draws. The chain itself keeps full precision; only stored draws are rounded.
"""

import re

import numpy as np
import torch
from torch import Tensor

from ..arguments import shown
from ..errors import UserError
from ..kernels import ops
from .row_files import Rows

__all__ = ["DrawStore", "bytes_per_draw", "numpy_dtype", "parse_capacity"]

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
_NUMPY = {torch.float16: np.float16, torch.float32: np.float32, torch.float64: np.float64}

# A larger ring gains nothing: flushing 256 MiB already takes far longer than launching the copy.
_DEFAULT_BYTES = 2**28


def numpy_dtype(dtype: torch.dtype) -> np.dtype:
    """Of stored draws. Raises UserError for an unsupported dtype."""
    if dtype not in _NUMPY:
        raise UserError(f"draw_dtype {dtype} is unknown: use torch.float16, float32 or float64")
    return np.dtype(_NUMPY[dtype])


def bytes_per_draw(num_chains: int, num_params: int, dtype: torch.dtype) -> int:
    """Bytes of one stored draw of all chains. Raises UserError for an unsupported dtype."""
    return num_chains * num_params * numpy_dtype(dtype).itemsize


def parse_capacity(capacity: "int | str | None", draw_size: int, num_draws: int) -> int:
    """The capacity of the ring in draws, given in draws (`64`) or bytes (`"512MB"`, `"1GiB"`).

    Raises:
        UserError: an invalid capacity, or one too small for a single draw.
    """
    if capacity is None:
        return max(1, min(num_draws, _DEFAULT_BYTES // draw_size))
    text = str(capacity).strip().lower()
    match = re.fullmatch(r"(\d{1,18}(?:\.\d{1,18})?)\s*(?:([kmg]i?)?b)?", text, re.ASCII)
    if not match:
        raise UserError(f"capacity {shown(capacity)} is invalid: give a number of draws (64) or bytes ('512MB')")
    if text.endswith("b"):
        size = int(float(match[1]) * _UNITS[match[2] or ""])
        if size < draw_size:
            raise UserError(
                f"capacity {capacity!r} is less than one draw of all chains: give at least {draw_size:,} bytes"
            )
        return min(size // draw_size, num_draws)
    if "." in text or int(text) < 1:
        raise UserError(f"capacity {capacity!r} must be a whole number of draws, at least 1")
    return min(int(text), num_draws)


class DrawStore:
    """Stores S draws of C chains.

    Args:
        num_draws, num_chains, num_params: S, C, D.
        capacity: draws in the ring, see `parse_capacity`.
        dtype: torch.float16, float32 or float64.
        rows: where draws go, of shape (S, C, D) and the same dtype; None: to host memory.

    Attributes:
        counts: `(2,)` int64: how many values overflowed, and how many became subnormal, when rounded.
    """

    def __init__(
        self,
        num_draws: int,
        num_chains: int,
        num_params: int,
        *,
        capacity: "int | str | None" = None,
        dtype: torch.dtype = torch.float16,
        device: torch.device | str = "cpu",
        rows: Rows | None = None,
    ) -> None:
        shape = (num_draws, num_chains, num_params)
        self.capacity = parse_capacity(capacity, bytes_per_draw(num_chains, num_params, dtype), num_draws)
        self.ring = torch.empty(self.capacity, *shape[1:], dtype=dtype, device=device)
        self.counts = torch.zeros(2, dtype=torch.int64, device=device)
        self.rows = Rows(shape, numpy_dtype(dtype)) if rows is None else rows
        self._pushed = self.rows.count

    @property
    def count(self) -> int:
        """Number of draws pushed so far."""
        return self._pushed

    @property
    def nbytes(self) -> int:
        """Bytes of all S draws, as stored."""
        return self.rows.nbytes

    def push(self, theta: Tensor) -> None:
        """Rounds `theta (C, D)` into the next slot, or each of several, `(K, C, D)`, in turn."""
        each = theta if theta.dim() == 3 else theta[None]
        while len(each):
            if self._pushed - self.rows.count == self.capacity:
                self.flush()
            slot = self._pushed % self.capacity
            length = min(len(each), self.capacity - max(slot, self._pushed - self.rows.count))
            ops.store(self.ring[slot : slot + length].flatten(0, 1), each[:length].flatten(0, 1), self.counts)
            self._pushed, each = self._pushed + length, each[length:]

    def flush(self) -> None:
        """Moves what is in the ring to its place in the file or in host memory."""
        while self.rows.count < self._pushed:  # at most twice: the ring may wrap
            slot = self.rows.count % self.capacity
            length = min(self._pushed - self.rows.count, self.capacity - slot)
            self.rows.append(self.ring[slot : slot + length].cpu().numpy())

    def draws(self) -> np.ndarray:
        """All draws so far, `(S, C, D)`; a view of the file or buffer, not a copy."""
        self.flush()
        return self.rows.read()
