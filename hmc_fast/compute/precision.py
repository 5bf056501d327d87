"""The arithmetic that a gradient is computed in: float32, tf32 or bf16.

A deterministic low-precision gradient keeps leapfrog reversible and volume-preserving, so a Metropolis test
with an exact energy leaves the target unchanged: the gradient's precision is an option, the energy's is not.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from ..errors import UserError

__all__ = ["Precision", "arithmetic", "check_precision"]

Precision = Literal["fp32", "tf32", "bf16"]


def check_precision(precision: str, device: torch.device) -> None:
    """Raises UserError for an unknown precision, or tf32 where there is none."""
    if precision not in ("fp32", "tf32", "bf16"):
        raise UserError(f"precision {precision!r} is unknown: use fp32, tf32 or bf16")
    if precision == "tf32" and device.type != "cuda":
        raise UserError(f"precision 'tf32' needs a CUDA device, not {device}: use fp32 or bf16")


@contextmanager
def arithmetic(precision: Precision, device: torch.device) -> Iterator[None]:
    """Runs the model in `precision`; every flag is restored on leaving.

    torch allows tf32 in cuDNN convolutions by default: here it is off unless asked for. cuDNN is restricted to
    deterministic algorithms, so that the same seed gives the same draws and leapfrog stays reversible.
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
