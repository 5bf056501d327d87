"""Triton: writes a draw to its half-precision slot, clamped, and counts the values the format cannot represent.

    slot <- clamp(theta, -max, max) in slot's dtype
    counts += (number of finite |theta| > max, number of 0 < |theta| < smallest normal)

Bytes per parameter, float32 to float16: read 4, write 2. Line by line: clamp 8, copy 6, and about 40 for the masks
and their two sums: 54, so 9x, not measured. The counts are integers, so their atomic sum does not depend on order.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import launch


@triton.jit
def _store_kernel(
    # pointers
    slot_ptr,  # (C, D), written
    theta_ptr,  # (C, D)
    counts_ptr,  # (2,) int64, added to
    # sizes
    num_params,
    # scalars
    largest: tl.float64,
    smallest_normal: tl.float64,
    # constexpr
    BLOCK: tl.constexpr,
):
    chain = tl.program_id(1).to(tl.int64)
    element = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = element < num_params
    at = chain * num_params + element
    theta = tl.load(theta_ptr + at, mask=mask, other=0.0)
    top = tl.full((), largest, theta.dtype)
    tiny = tl.full((), smallest_normal, theta.dtype)

    magnitude = tl.abs(theta)
    over = (magnitude > top) & (magnitude < float("inf"))
    under = (magnitude < tiny) & (magnitude > 0.0)
    # nearly every block has a count of 0: masking the atomic avoids traffic on the shared counter
    num_over = tl.sum(over.to(tl.int32), axis=0).to(tl.int64)
    num_under = tl.sum(under.to(tl.int32), axis=0).to(tl.int64)
    tl.atomic_add(counts_ptr, num_over, mask=num_over > 0, sem="relaxed")
    tl.atomic_add(counts_ptr + 1, num_under, mask=num_under > 0, sem="relaxed")

    # comparisons with NaN are false, so NaN passes through
    clamped = tl.where(theta > top, top, tl.where(theta < -top, -top, theta))
    slot_dtype = slot_ptr.dtype.element_ty
    if slot_dtype.primitive_bitwidth == 16:
        clamped = clamped.to(tl.float32)  # as in torch, which rounds float64 to half types via float32
    tl.store(slot_ptr + at, clamped.to(slot_dtype), mask=mask)


def store(slot: Tensor, theta: Tensor, counts: Tensor) -> None:
    launch.check_buffers(theta)
    if slot.shape != theta.shape or not slot.is_contiguous():
        raise ValueError(f"slot must be contiguous {tuple(theta.shape)}, got {tuple(slot.shape)}")
    if slot.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise ValueError(f"slot dtype {slot.dtype} is not supported")
    if slot.dtype.itemsize > theta.dtype.itemsize:
        raise ValueError(f"slot dtype {slot.dtype} is wider than {theta.dtype}")
    if counts.shape != (2,) or counts.dtype != torch.int64 or not counts.is_contiguous():
        raise ValueError(f"counts must be int64 (2,), got {counts.dtype} {tuple(counts.shape)}")
    launch.check_device("slot", slot, theta)
    launch.check_device("counts", counts, theta)
    info = torch.finfo(slot.dtype)
    chains, params = theta.shape
    with launch.guard(theta):
        _store_kernel[(launch.blocks(params, launch.BLOCK), chains)](
            slot, theta, counts, params, info.max, info.tiny,
            BLOCK=launch.BLOCK, num_warps=launch.NUM_WARPS,
        )  # fmt: skip
