"""Triton: the momentum update and the Langevin flow without a force after it, in one pass.

    m     <- m + KICK (grad + grad log prior(theta))                           (unless there is no gradient)
    theta <- theta + DRIFT M^-1 m + POSITION_NOISE M^(-1/2) xi1
    m     <- DECAY m + M^(1/2) (SHARED_NOISE xi1 + NOISE xi2)

Bytes per float32 parameter, as for kick_drift with noise: read m g theta, write m theta: 20. The two normals of an
element come from two streams, so that the first half of the numbers is aligned as in every other kernel.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from . import launch, philox, prior_device
from .prior import FLAT, Segment
from .reference import DECAY, DRIFT, KICK, NOISE, POSITION_NOISE, SHARED_NOISE, Counter

_FLAT = tl.constexpr(FLAT)
_KICK = tl.constexpr(KICK)
_DRIFT = tl.constexpr(DRIFT)
_DECAY = tl.constexpr(DECAY)
_NOISE = tl.constexpr(NOISE)
_SHARED_NOISE = tl.constexpr(SHARED_NOISE)
_POSITION_NOISE = tl.constexpr(POSITION_NOISE)
_COLUMNS = 6


@triton.jit(do_not_specialize=["own_mass", "first_quad", "key0", "key1", "stream"])
def _flow_kernel(
    # pointers
    theta_ptr,  # (C, D), written
    momentum_ptr,  # (C, D), written
    grad_ptr,  # (C, D), or None: no kick
    coefficients_ptr,  # (C, 6)
    inverse_mass_ptr,  # (D,) or (C, D) or None
    scale_ptr,  # (D,) scale of the prior, or None: then `scale`
    mean_ptr,  # (D,) mean of the prior, or None: then 0
    step_ptr,  # (1,) int64 step counter
    # sizes
    num_params,
    own_mass,  # 1, or 0: all chains share one
    first_quad,  # start // 4
    start,
    stop,
    # scalars
    scale: tl.float64,
    p: tl.float64,
    q: tl.float64,
    key0,
    key1,
    stream,
    # constexpr
    FAMILY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    chain = tl.program_id(1).to(tl.int64)
    first = first_quad + tl.program_id(0) * (BLOCK // 4)
    element = first * 4 + tl.arange(0, BLOCK)
    mask = (element >= start) & (element < stop)
    at = chain * num_params + element
    dtype = momentum_ptr.dtype.element_ty
    coefficients = coefficients_ptr + chain * 6

    m = tl.load(momentum_ptr + at, mask=mask, other=0.0)
    theta = tl.load(theta_ptr + at, mask=mask, other=0.0)
    if grad_ptr is not None:
        rate = tl.load(coefficients + _KICK).to(dtype)
        m += tl.load(grad_ptr + at, mask=mask, other=0.0) * rate
        if FAMILY != _FLAT:
            m += prior_device.grad_at(theta, element, mask, scale_ptr, mean_ptr, scale, p, q, FAMILY) * rate

    drift, decay = tl.load(coefficients + _DRIFT).to(dtype), tl.load(coefficients + _DECAY).to(dtype)
    own, shared = tl.load(coefficients + _NOISE).to(dtype), tl.load(coefficients + _SHARED_NOISE).to(dtype)
    spread = tl.load(coefficients + _POSITION_NOISE).to(dtype)
    quad = first + tl.arange(0, BLOCK // 4)
    xi1 = philox.normals(quad, chain, step_ptr, key0, key1, stream, BLOCK).to(dtype)
    xi2 = philox.normals(quad, chain, step_ptr, key0, key1, stream + 1, BLOCK).to(dtype)
    velocity, moving, pushing = m, xi1, xi1 * shared + xi2 * own
    if inverse_mass_ptr is not None:
        at_mass = chain * num_params * own_mass + element
        inverse_mass = tl.load(inverse_mass_ptr + at_mass, mask=mask, other=1.0).to(dtype)
        root = tl.sqrt(inverse_mass)
        velocity, moving, pushing = m * inverse_mass, xi1 * root, pushing / root
    tl.store(theta_ptr + at, theta + velocity * drift + moving * spread, mask=mask)
    tl.store(momentum_ptr + at, m * decay + pushing, mask=mask)


def kick_flow(
    theta: Tensor,
    momentum: Tensor,
    grad: Tensor | None,
    prior: Sequence[Segment],
    coefficients: Tensor,
    inverse_mass: Tensor | None,
    noise: Counter,
) -> None:
    launch.check_buffers(momentum, theta=theta, **({} if grad is None else {"grad": grad}))
    launch.check_prior(prior, momentum)
    launch.check_coefficients(coefficients, momentum, _COLUMNS)
    own = launch.own_mass(inverse_mass, momentum)
    step, *words = launch.counter_arguments(noise, momentum)
    with launch.guard(momentum):
        for segment in prior:
            first_quad = segment.start // 4
            grid = (launch.blocks(segment.stop - 4 * first_quad, launch.BLOCK), len(momentum))
            _flow_kernel[grid](
                theta, momentum, grad, coefficients, inverse_mass,
                segment.scale if isinstance(segment.scale, Tensor) else None, segment.mean, step,
                momentum.shape[1], own, first_quad, segment.start, segment.stop,
                *prior_device.scalars(segment), *words,
                FAMILY=segment.family, BLOCK=launch.BLOCK, num_warps=launch.NOISE_WARPS, **launch.UNFUSED,
            )  # fmt: skip
