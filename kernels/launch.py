"""What all kernel launchers share: argument checks, the device guard, and how host numbers become arguments.

The Triton files allow untyped functions, because a kernel's arguments are pointers and blocks, which have no Python
type. Numbers are passed to a kernel as float64, so that float64 buffers receive them unrounded, and are cast to the
buffer's dtype before any arithmetic with a block.
"""

import contextlib
from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from .prior import Segment
from .reference import Counter

# Elements per program and warps of the update kernels: 8 elements per thread, two 16-byte loads per float32
# buffer. Unmeasured: to be swept by benchmarks/bench_kernels.py.
BLOCK, NUM_WARPS = 1024, 4
# With noise, 4 elements per thread: 8 take 80 to 104 registers where rows are not aligned, 4 take 48.
NOISE_WARPS = 8
# Products and sums are rounded one by one, as in the twins: which of them the compiler would fuse depends on the
# block size.
UNFUSED = {"enable_fp_fusion": False}

_MAX_CHAINS = 65535  # the grid's second axis
_MAX_PARAMS = 2**31 - 2**16  # offsets within a chain are int32, those between chains int64


def guard(tensor: Tensor) -> contextlib.AbstractContextManager[object]:
    """Makes the tensor's device current, because Triton launches on the current device and stream, whatever the
    device of the arguments. Does nothing for a CPU tensor.
    """
    return torch.cuda.device_of(tensor)


def blocks(num_elements: int, block: int) -> int:
    return int(triton.cdiv(num_elements, block))


def check_rows(first: Tensor, **others: Tensor) -> None:
    """Checks for contiguous `(C, D)` tensors of the same shape, dtype and device, small enough for a grid."""
    if first.ndim != 2 or not first.is_contiguous():
        raise ValueError(f"expected a contiguous (C, D) tensor, got shape {tuple(first.shape)}")
    if not (0 < first.shape[0] <= _MAX_CHAINS and 0 < first.shape[1] <= _MAX_PARAMS):
        raise ValueError(f"shape {tuple(first.shape)} is outside 1..{_MAX_CHAINS} x 1..{_MAX_PARAMS}")
    for name, other in others.items():
        if other.shape != first.shape or not other.is_contiguous():
            raise ValueError(f"{name} must be contiguous, {tuple(first.shape)}, got {tuple(other.shape)}")
        if other.dtype != first.dtype:
            raise ValueError(f"{name} has dtype {other.dtype}, not {first.dtype}")
        check_device(name, other, first)


def check_buffers(first: Tensor, **others: Tensor) -> None:
    """`check_rows`, for float32 or float64."""
    if first.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"buffers must be float32 or float64, got {first.dtype}")
    check_rows(first, **others)


def check_device(name: str, tensor: Tensor, first: Tensor) -> None:
    if tensor.device != first.device:
        raise ValueError(f"{name} is on {tensor.device}, not {first.device}")


def check_coefficients(coefficients: Tensor, first: Tensor, columns: int = 4) -> None:
    expected = coefficients.shape == (len(first), columns) and coefficients.is_contiguous()
    if not (expected and coefficients.is_floating_point()):
        shape = tuple(coefficients.shape)
        raise ValueError(
            f"coefficients must be contiguous float ({len(first)}, {columns}), got {shape} {coefficients.dtype}"
        )
    check_device("coefficients", coefficients, first)


def own_mass(inverse_mass: Tensor | None, first: Tensor) -> int:
    """1 if every chain has its own inverse mass, 0 if all share one. A number, not two kernels."""
    if inverse_mass is None:
        return 0
    if inverse_mass.shape not in (first.shape, first.shape[1:]) or not inverse_mass.is_contiguous():
        shape = tuple(inverse_mass.shape)
        raise ValueError(f"inverse_mass must be contiguous (D,) or (C, D), got {shape}")
    if not inverse_mass.is_floating_point():
        raise ValueError(f"inverse_mass must be floating-point, got {inverse_mass.dtype}")
    check_device("inverse_mass", inverse_mass, first)
    return int(inverse_mass.ndim == 2)


def check_prior(prior: Sequence[Segment], first: Tensor) -> None:
    """Checks that the segments tile 0..D, so that one launch per segment updates every element exactly once."""
    position = 0
    for segment in sorted(prior, key=lambda s: s.start):
        if segment.start != position or segment.stop <= segment.start:
            break
        position = segment.stop
        for name, values in (("scale", segment.scale), ("mean", segment.mean)):
            if isinstance(values, Tensor):
                if values.shape != first.shape[1:] or not values.is_contiguous():
                    shape = tuple(values.shape)
                    raise ValueError(f"a prior's {name} must be contiguous ({first.shape[1]},), got {shape}")
                check_device(f"a prior's {name}", values, first)
    else:
        if position == first.shape[1]:
            return
    spans = [(s.start, s.stop) for s in prior]
    raise ValueError(f"prior segments must cover 0..{first.shape[1]} exactly once, got {spans}")


def check_step(step: Tensor, first: Tensor) -> None:
    if step.shape != (1,) or step.dtype != torch.int64:
        raise ValueError(f"the step counter must be int64 (1,), got {step.dtype} {tuple(step.shape)}")
    check_device("the step counter", step, first)


def counter_arguments(counter: Counter | None, first: Tensor) -> tuple[Tensor | None, int, int, int]:
    """The step tensor, the low and high halves of the seed, and the stream; None and zeros without a counter.

    The words are signed 32-bit integers, so that a kernel's signature does not depend on the seed; the kernel
    reinterprets the bits as unsigned.
    """
    if counter is None:
        return None, 0, 0, 0
    check_step(counter.step, first)
    if counter.joins_two:
        raise ValueError("the kernels do not join the normals of two steps: use the twins")
    if not (0 <= counter.seed < 2**64 and 0 <= counter.stream < 2**32):
        raise ValueError(f"seed {counter.seed} or stream {counter.stream} is out of range")
    words = counter.seed & 0xFFFFFFFF, counter.seed >> 32, counter.stream
    return counter.step, _signed(words[0]), _signed(words[1]), _signed(words[2])


def _signed(word: int) -> int:
    return word - 2**32 if word >= 2**31 else word
