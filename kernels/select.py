"""Triton: the accept step, target[c] <- source[c] for the chains that accepted.

Chains that rejected are neither read nor written, so a call moves 8 bytes per float32 element of the accepting
chains (read source, write target). `torch.where` reads both and writes one for every chain: 12. Expected speed-up:
1.5x if all accept, more if some reject; not measured.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import launch


@triton.jit
def _select_kernel(
    # pointers
    target_ptr,  # (C, W), written
    source_ptr,  # (C, W)
    mask_ptr,  # (C,) bool
    # sizes
    width,
    # constexpr
    BLOCK: tl.constexpr,
):
    chain = tl.program_id(1).to(tl.int64)
    if tl.load(mask_ptr + chain):
        column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        at, mask = chain * width + column, column < width
        tl.store(target_ptr + at, tl.load(source_ptr + at, mask=mask), mask=mask)


def select(target: Tensor, source: Tensor, mask: Tensor) -> None:
    launch.check_rows(target, source=source)
    if mask.shape != target.shape[:1] or mask.dtype != torch.bool or not mask.is_contiguous():
        raise ValueError(f"mask must be bool ({len(target)},), got {mask.dtype} {tuple(mask.shape)}")
    launch.check_device("mask", mask, target)
    chains, width = target.shape
    with launch.guard(target):
        _select_kernel[(launch.blocks(width, launch.BLOCK), chains)](
            target, source, mask, width, BLOCK=launch.BLOCK, num_warps=launch.NUM_WARPS
        )
