"""Arithmetic of the gradient: float32, tf32 or bf16, only inside a `with arithmetic(...)` block.

A deterministic low-precision gradient keeps leapfrog reversible and volume-preserving, so a Metropolis test with an
exact energy remains exact. The precision of the gradient is therefore an option; that of the energy is not.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from ..errors import UserError

__all__ = ["Precision", "arithmetic", "check_precision"]

Precision = Literal["fp32", "tf32", "bf16"]


def check_precision(precision: str, device: torch.device) -> None:
    """Raises UserError for an unknown precision, or for tf32 without a CUDA device."""
    if precision not in ("fp32", "tf32", "bf16"):
        raise UserError(f"precision {precision!r} is unknown: use fp32, tf32 or bf16")
    if precision == "tf32" and device.type != "cuda":
        raise UserError(f"precision 'tf32' needs a CUDA device, not {device}: use fp32 or bf16")


@contextmanager
def arithmetic(precision: Precision, device: torch.device) -> Iterator[None]:
    """Runs the model in `precision`; all global flags are restored on exit.

    By default torch allows tf32 in cuDNN convolutions; here it is off unless requested. cuDNN is restricted to
    deterministic algorithms: the same seed must give the same draws, and leapfrog must be reversible.
    """
    cudnn = torch.backends.cudnn
    if device.type == "cuda":
        saved = torch.backends.cuda.matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic
        torch.backends.cuda.matmul.allow_tf32 = cudnn.allow_tf32 = precision == "tf32"
        cudnn.deterministic = True
    try:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            yield
    finally:
        if device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic = saved
