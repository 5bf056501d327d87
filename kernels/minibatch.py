"""Triton: what a minibatch step does beside its gradient and its update, in one launch for three or four each.

read_window   out[c] = window[c, k L mod P : + L], k the step counter: a minibatch's indices, and a schedule's
              coefficients, which are the same for all chains
end_step      total += scale * sum(log_lik), k += 1
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import launch, reduce


@triton.jit(do_not_specialize=["window_stride", "length", "period"])
def _read_window_kernel(
    # pointers
    window_ptr,  # (C, W) or (1, W)
    step_ptr,  # (1,) int64 step counter
    out_ptr,  # (C, L), written
    # sizes
    window_stride,  # 0: all chains read the same row
    length,
    period,
    # constexpr
    BLOCK: tl.constexpr,
):
    chain = tl.program_id(1).to(tl.int64)
    element = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = element < length
    row = window_ptr + chain * window_stride + tl.load(step_ptr) * length % period
    tl.store(out_ptr + chain * length + element, tl.load(row + element, mask=mask), mask=mask)


@triton.jit(do_not_specialize=["width", "log_lik_stride"])
def _end_step_kernel(
    # pointers
    log_lik_ptr,  # (C, B), rows apart
    total_ptr,  # (C,) float64, updated
    step_ptr,  # (1,) int64 step counter, updated
    # sizes
    width,
    log_lik_stride,
    # scalars
    scale: tl.float64,
    # constexpr
    BLOCK: tl.constexpr,
):
    chain = tl.program_id(0).to(tl.int64)
    added = tl.full((), scale, tl.float64) * reduce.row_sum(log_lik_ptr + chain * log_lik_stride, width, BLOCK)
    tl.store(total_ptr + chain, tl.load(total_ptr + chain) + added)
    if chain == 0:  # no other program reads it
        tl.store(step_ptr, tl.load(step_ptr) + 1)


def read_window(window: Tensor, step: Tensor, period: int, out: Tensor) -> None:
    launch.check_rows(out)
    launch.check_step(step, out)
    chains, length = out.shape
    if not (window.ndim == 2 and len(window) in (1, chains) and window.is_contiguous()):
        raise ValueError(f"the window must be contiguous ({chains} or 1, W), got {tuple(window.shape)}")
    last = period - math.gcd(length, period)  # the largest k L mod P
    if window.dtype != out.dtype or last + length > window.shape[1]:
        raise ValueError(
            f"a window of {window.shape[1]} {window.dtype} cannot serve {length} {out.dtype} with period {period}"
        )
    launch.check_device("the window", window, out)
    stride = 0 if len(window) == 1 else window.shape[1]
    with launch.guard(out):
        _read_window_kernel[(launch.blocks(length, launch.BLOCK), chains)](
            window, step, out, stride, length, period, BLOCK=launch.BLOCK, num_warps=launch.NUM_WARPS
        )


def end_step(log_lik: Tensor, total: Tensor, step: Tensor, scale: float) -> None:
    chains, width = log_lik.shape
    if log_lik.stride(1) != 1:
        raise ValueError(f"the rows of log_lik must be contiguous, got strides {log_lik.stride()}")
    launch.check_step(step, log_lik)
    if total.shape != (chains,) or total.dtype != torch.float64:
        raise ValueError(f"total must be float64 ({chains},), got {total.dtype} {tuple(total.shape)}")
    launch.check_device("total", total, log_lik)
    with launch.guard(log_lik):
        _end_step_kernel[(chains,)](
            log_lik,
            total,
            step,
            width,
            log_lik.stride(0),
            float(scale),
            BLOCK=reduce.BLOCK,
            num_warps=reduce.NUM_WARPS,
        )
