"""Triton: adds one draw's softmax to the streaming Bayesian model average, row by row of the `(C T, K)` logits.

    p = softmax(logits);   sums += p,   entropies += -sum_k p log p,   probabilities <- p

Bytes per float32 logit: read it (4), read and write its float64 sum (16), write p (4): 24, plus 16 / K for the
row's entropy. Line by line: softmax 8, to float64 12, add to the sum 24, p log p 16 and its sum 8: 68. The ratio is
2.8x, not measured. K = 10 fills 10 of 16 lanes; the idle ones cost instructions but no bytes.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import launch


@triton.jit(do_not_specialize=["num_rows"])
def _average_kernel(
    # pointers
    logits_ptr,  # (R, K)
    sums_ptr,  # (R, K) float64, added to
    entropies_ptr,  # (R,) float64, added to
    probabilities_ptr,  # (R, K), written
    # sizes
    num_rows,
    num_classes,
    # constexpr
    ROWS: tl.constexpr,  # per program
    COLUMNS: tl.constexpr,  # K, padded to a power of two
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)[None, :]
    mask = (row < num_rows)[:, None] & (column < num_classes)
    at = row[:, None] * num_classes + column
    dtype: tl.constexpr = tl.float64 if logits_ptr.dtype.element_ty == tl.float64 else tl.float32
    logits = tl.load(logits_ptr + at, mask=mask, other=0.0).to(dtype)
    # padding within a row counts as log 0; rows past the last stay 0, which avoids NaN
    logits = tl.where(column < num_classes, logits, float("-inf"))

    # the maximum may ignore a NaN, but the sum does not: one NaN makes its whole row NaN
    shifted = logits - tl.max(logits, axis=1)[:, None]
    weight = tl.exp(shifted)
    total = tl.sum(weight, axis=1)[:, None]
    p = weight / total
    # where p is 0, from padding or underflow, p log p must be 0, not 0 * -inf
    log_p = tl.where(p == 0.0, 0.0, shifted - tl.log(total))
    entropy = -tl.sum(p * log_p, axis=1)

    tl.store(sums_ptr + at, tl.load(sums_ptr + at, mask=mask) + p.to(tl.float64), mask=mask)
    tl.store(probabilities_ptr + at, p.to(probabilities_ptr.dtype.element_ty), mask=mask)
    within = row < num_rows
    before = tl.load(entropies_ptr + row, mask=within)
    tl.store(entropies_ptr + row, before + entropy.to(tl.float64), mask=within)


def accumulate_softmax(logits: Tensor, sums: Tensor, entropies: Tensor, probabilities: Tensor) -> None:
    if logits.ndim != 3 or not logits.is_contiguous() or not logits.numel():
        raise ValueError(f"logits must be contiguous (C, T, K) and not empty, got {tuple(logits.shape)}")
    if logits.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise ValueError(f"logits dtype {logits.dtype} is not supported")
    float64 = (torch.float64,)
    for name, other, shape, dtypes in (
        ("sums", sums, logits.shape, float64),
        ("entropies", entropies, logits.shape[:2], float64),
        ("probabilities", probabilities, logits.shape, (torch.float32, torch.float64)),
    ):
        if other.shape != shape or not other.is_contiguous():
            raise ValueError(f"{name} must be contiguous {tuple(shape)}, got {tuple(other.shape)}")
        if other.dtype not in dtypes:
            raise ValueError(f"{name} dtype {other.dtype} is not supported")
        launch.check_device(name, other, logits)
    num_rows, num_classes = entropies.numel(), logits.shape[2]
    columns = triton.next_power_of_2(num_classes)
    rows = max(1, launch.BLOCK // columns)
    # one program keeps a whole row in registers: wide rows get more warps, up to 16 elements per thread
    num_warps = min(32, max(launch.NUM_WARPS, columns // 512))
    with launch.guard(logits):
        _average_kernel[(launch.blocks(num_rows, rows),)](
            logits, sums, entropies, probabilities, num_rows, num_classes,
            ROWS=rows, COLUMNS=columns, num_warps=num_warps,
        )  # fmt: skip
