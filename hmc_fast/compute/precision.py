"""Arithmetic of the gradient: float32, tf32 or bf16, only inside a `with arithmetic(...)` block.

A deterministic low-precision gradient keeps leapfrog reversible and volume-preserving, so a Metropolis test with an
exact energy remains exact. The precision of the gradient is therefore an option; that of the energy is not.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

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
    with (
        _flags(precision) if device.type == "cuda" else nullcontext(),
        torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"),
    ):
        yield


@contextmanager
def _flags(precision: Precision) -> Iterator[None]:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    tf32 = precision == "tf32"
    # From torch 2.9 on each library has a newer flag, which decides; "none" inherits a user's wider setting.
    libraries = matmul, getattr(cudnn, "conv", None), getattr(cudnn, "rnn", None)
    newer = [library for library in libraries if hasattr(library, "fp32_precision")]
    flags: list[tuple[Any, str, Any, Any]] = [  # and torch's own default
        (matmul, "allow_tf32", tf32, False),
        (cudnn, "allow_tf32", tf32, True),
        (cudnn, "deterministic", True, False),
        *((library, "fp32_precision", "tf32" if tf32 else "ieee", "none") for library in newer),
    ]
    saved = []
    for owner, name, _, default in flags:
        try:
            saved.append((owner, name, getattr(owner, name)))
        except RuntimeError:  # where a user has set the newer flag alone, torch refuses to read the older one
            saved.append((owner, name, default))
    try:
        for owner, name, value, _ in flags:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in saved:  # the newer flags last: the older ones overwrite them
            setattr(owner, name, value)
