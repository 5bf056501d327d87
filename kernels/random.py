"""Triton: the random words of a counter, or uniforms from them: one launch for some 250 of the torch twin.

For one value per chain (the Metropolis test) or for two per example (the keys of a permutation).
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import launch, philox
from .reference import Counter


@triton.jit(do_not_specialize=["num_elements", "key0", "key1", "stream"])
def _random_kernel(
    # pointers
    out_ptr,  # (C, E), written: float32 if UNIFORM, else int64
    step_ptr,  # (1,) int64 step counter
    # sizes
    num_elements,
    # scalars
    key0,
    key1,
    stream,
    # constexpr
    UNIFORM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    chain = tl.program_id(1).to(tl.int64)
    block = tl.program_id(0)
    element = block * BLOCK + tl.arange(0, BLOCK)
    quad = block * (BLOCK // 4) + tl.arange(0, BLOCK // 4)
    if UNIFORM:
        values = philox.uniforms(quad, chain, step_ptr, key0, key1, stream, BLOCK)
    else:
        values = philox.bits(quad, chain, step_ptr, key0, key1, stream, BLOCK)
    tl.store(out_ptr + chain * num_elements + element, values, mask=element < num_elements)


def uniforms(counter: Counter, num_chains: int, num_elements: int) -> Tensor:
    out = torch.empty(num_chains, num_elements, device=counter.step.device)
    _fill(out, counter, uniform=True)
    return out


def philox_words(counter: Counter, num_chains: int, num_blocks: int) -> tuple[Tensor, ...]:
    out = torch.empty(num_chains, num_blocks, 4, dtype=torch.int64, device=counter.step.device)
    _fill(out.view(num_chains, 4 * num_blocks), counter, uniform=False)
    return out.unbind(2)


def _fill(out: Tensor, counter: Counter, *, uniform: bool) -> None:
    launch.check_rows(out)
    step, *words = launch.counter_arguments(counter, out)
    chains, elements = out.shape
    with launch.guard(out):
        _random_kernel[(launch.blocks(elements, launch.BLOCK), chains)](
            out, step, elements, *words,
            UNIFORM=uniform, BLOCK=launch.BLOCK, num_warps=launch.NUM_WARPS,
        )  # fmt: skip
