"""Triton: the second stage of every sum, partial sums `(C, P)` float64 -> `(C,)`.

The first stage is fused into the pass that computes the terms: each program writes the sum of its block to its own
slot. No float is ever added atomically, so the order of the sum depends only on the block size. This stage reads
8 P bytes per chain, where P is about D / BLOCK.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

# Elements per program and warps of the first stage: 8 elements per thread. Unmeasured, as in launch.py.
BLOCK, NUM_WARPS = 2048, 8
# Partials per loop iteration of the second stage, one program per chain. Unmeasured.
_FINISH_BLOCK = 2048


@triton.jit
def row_sum(row, width, BLOCK: tl.constexpr):
    """Of `width` elements from the pointer `row` on, float64."""
    lane = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), dtype=tl.float64)
    begin = 0
    while begin < width:  # `range` to a kernel argument fails in Triton 3.6's interpreter on NumPy 2.4
        total += tl.load(row + begin + lane, mask=begin + lane < width, other=0.0).to(tl.float64)
        begin += BLOCK
    return tl.sum(total, axis=0)


@triton.jit(do_not_specialize=["num_partials"])
def _finish_kernel(
    # pointers
    partials_ptr,  # (C, P) float64
    out_ptr,  # (C,) float64
    # sizes
    num_partials,
    # constexpr
    BLOCK: tl.constexpr,
):
    chain = tl.program_id(0).to(tl.int64)
    tl.store(out_ptr + chain, row_sum(partials_ptr + chain * num_partials, num_partials, BLOCK))


def scratch(rows: Tensor, num_blocks: int) -> Tensor:
    """Buffer for the first stage, `(C, num_blocks)`; uninitialised, because every slot is written."""
    return torch.empty(len(rows), num_blocks, dtype=torch.float64, device=rows.device)


def finish(partials: Tensor) -> Tensor:
    """The sums, float64 `(C,)`; the caller must be inside `launch.guard`."""
    out = torch.empty(len(partials), dtype=torch.float64, device=partials.device)
    _finish_kernel[(len(partials),)](partials, out, partials.shape[1], BLOCK=_FINISH_BLOCK, num_warps=NUM_WARPS)
    return out
