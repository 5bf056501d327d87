"""Triton: fresh momentum and its kinetic energy in one pass.

    m <- M^(1/2) xi,   K = m^T M^-1 m / 2 (float64)

Bytes per float32 parameter: one pass writes m (4; with an inverse mass it reads 4 more). Line by line, the torch
twin moves about 600 for the normals, mostly int64, 8 to copy and 36 for the float64 sum: 160x if both ran at the
device's bandwidth. The kernel is therefore bound by arithmetic: ten Philox rounds and two Box-Muller transforms per
four elements. On an H100 at D = 1e8 it writes 1.1 TB/s, where a copy moves 2.4.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

import triton
import triton.language as tl
from torch import Tensor

from . import launch, philox, reduce
from .reference import Counter


@triton.jit(do_not_specialize=["own_mass", "key0", "key1", "stream"])
def _refresh_kernel(
    # pointers
    momentum_ptr,  # (C, D), written
    partials_ptr,  # (C, P) float64, written
    inverse_mass_ptr,  # (D,) or (C, D) or None
    step_ptr,  # (1,) int64 step counter
    # sizes
    num_params,
    own_mass,  # 1, or 0: all chains share one
    # scalars
    key0,
    key1,
    stream,
    # constexpr
    BLOCK: tl.constexpr,
):
    chain = tl.program_id(1).to(tl.int64)
    block = tl.program_id(0)
    element = block * BLOCK + tl.arange(0, BLOCK)
    mask = element < num_params
    dtype = momentum_ptr.dtype.element_ty

    quad = block * (BLOCK // 4) + tl.arange(0, BLOCK // 4)
    m = philox.normals(quad, chain, step_ptr, key0, key1, stream, BLOCK).to(dtype)
    if inverse_mass_ptr is not None:
        inverse_mass = tl.load(inverse_mass_ptr + chain * num_params * own_mass + element, mask=mask, other=1.0)
        m = m / tl.sqrt(inverse_mass.to(dtype))
    tl.store(momentum_ptr + chain * num_params + element, m, mask=mask)

    # computed from the stored momentum, so that its rounding is included
    square = m.to(tl.float64) * m.to(tl.float64)
    if inverse_mass_ptr is not None:
        square = square * inverse_mass.to(tl.float64)
    partial = 0.5 * tl.sum(tl.where(mask, square, 0.0), axis=0)
    tl.store(partials_ptr + chain * tl.num_programs(0) + block, partial)


def refresh_momentum(momentum: Tensor, counter: Counter, *, inverse_mass: Tensor | None = None) -> Tensor:
    launch.check_buffers(momentum)
    own = launch.own_mass(inverse_mass, momentum)
    step, *words = launch.counter_arguments(counter, momentum)
    chains, params = momentum.shape
    with launch.guard(momentum):
        partials = reduce.scratch(momentum, launch.blocks(params, launch.BLOCK))
        _refresh_kernel[(partials.shape[1], chains)](
            momentum, partials, inverse_mass, step,
            params, own, *words,
            BLOCK=launch.BLOCK, num_warps=launch.NUM_WARPS, **launch.UNFUSED,
        )  # fmt: skip
        return reduce.finish(partials)
