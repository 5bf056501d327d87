"""Triton: the momentum update, with or without noise, and the drift after it, in one pass.

    m     <- (1 - eps gamma) m + fraction eps/T (grad + grad log prior(theta)) + sqrt(2 eps (gamma - B) M) xi
    theta <- theta + eps M^-1 m                                                (kick_drift only)

Friction and noise only with a noise counter. Bytes per float32 parameter, normal prior, no mass, against
one torch launch per line of `reference.kick_drift`; ratios of bytes, not measurements:

                         one pass                            line by line
    kick                 read m g theta, write m:  16        prior's gradient 16, two addcmul 24: 40  -> 2.5x
    kick_drift           and write theta:          20        and the drift 12: 52                     -> 2.6x
    kick_drift, noise    the same:                 20        and 20 to scale m and add the noise, which
                                                             itself takes about 600, in int64         -> 30x
    inverse mass         4 more                              12 more, to make the velocity
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from . import launch, philox, prior_device
from .prior import FLAT, Segment
from .reference import FRICTION, INVERSE_TEMPERATURE, NOISE_ESTIMATE, STEP_SIZE, Counter

_FLAT = tl.constexpr(FLAT)
_STEP_SIZE = tl.constexpr(STEP_SIZE)
_INVERSE_TEMPERATURE = tl.constexpr(INVERSE_TEMPERATURE)
_FRICTION = tl.constexpr(FRICTION)
_NOISE_ESTIMATE = tl.constexpr(NOISE_ESTIMATE)


@triton.jit(do_not_specialize=["key0", "key1", "stream"])
def _kick_kernel(
    # pointers
    theta_ptr,  # (C, D), written if DRIFT
    momentum_ptr,  # (C, D), written
    grad_ptr,  # (C, D)
    hyper_ptr,  # (C, 4)
    inverse_mass_ptr,  # (D,) or (C, D) or None
    scale_ptr,  # (D,) scale of the prior, or None: then `scale`
    step_ptr,  # (1,) int64 step counter, or None: no friction, no noise
    # sizes
    num_params,
    mass_stride,
    first_quad,  # start // 4
    start,
    stop,
    # scalars
    fraction: tl.float64,
    scale: tl.float64,
    p: tl.float64,
    q: tl.float64,
    key0,
    key1,
    stream,
    # constexpr
    FAMILY: tl.constexpr,
    DRIFT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # blocks begin at a multiple of four, as random numbers and 16-byte loads do
    chain = tl.program_id(1).to(tl.int64)
    first = first_quad + tl.program_id(0) * (BLOCK // 4)
    element = first * 4 + tl.arange(0, BLOCK)
    mask = (element >= start) & (element < stop)
    at = chain * num_params + element
    dtype = momentum_ptr.dtype.element_ty

    m = tl.load(momentum_ptr + at, mask=mask, other=0.0)
    g = tl.load(grad_ptr + at, mask=mask, other=0.0)
    if FAMILY != _FLAT or DRIFT:
        theta = tl.load(theta_ptr + at, mask=mask, other=0.0)
    if inverse_mass_ptr is not None:
        at_mass = chain * mass_stride + element
        inverse_mass = tl.load(inverse_mass_ptr + at_mass, mask=mask, other=1.0).to(dtype)
    hyper = hyper_ptr + chain * 4
    step_size = tl.load(hyper + _STEP_SIZE).to(dtype)
    rate = tl.full((), fraction, dtype) * step_size * tl.load(hyper + _INVERSE_TEMPERATURE).to(dtype)

    # friction and noise
    if step_ptr is not None:
        friction = tl.load(hyper + _FRICTION).to(dtype)
        excess = friction - tl.load(hyper + _NOISE_ESTIMATE).to(dtype)
        variance = 2.0 * step_size * tl.maximum(excess, 0.0)
        quad = first + tl.arange(0, BLOCK // 4)
        xi = philox.normals(quad, chain, step_ptr, key0, key1, stream, BLOCK).to(dtype)
        if inverse_mass_ptr is not None:
            xi = xi / tl.sqrt(inverse_mass)
        m = m * (1.0 - step_size * friction) + xi * tl.sqrt(variance)

    # force
    m += g * rate
    if FAMILY != _FLAT:
        if scale_ptr is not None:
            s = tl.load(scale_ptr + element, mask=mask, other=1.0).to(dtype)
        else:
            s = tl.full((), scale, dtype)
        m += prior_device.grad(theta, s, tl.full((), p, dtype), tl.full((), q, dtype), FAMILY) * rate
    tl.store(momentum_ptr + at, m, mask=mask)

    if DRIFT:
        if inverse_mass_ptr is not None:
            m = m * inverse_mass
        tl.store(theta_ptr + at, theta + m * step_size, mask=mask)


def kick_drift(
    theta: Tensor,
    momentum: Tensor,
    grad: Tensor,
    prior: Sequence[Segment],
    hyper: Tensor,
    fraction: float,
    inverse_mass: Tensor | None,
    noise: Counter | None,
    drift: bool = True,
) -> None:
    launch.check_buffers(momentum, theta=theta, grad=grad)
    launch.check_hyper(hyper, momentum)
    launch.check_prior(prior, momentum)
    stride = launch.mass_stride(inverse_mass, momentum)
    step, *words = launch.counter_arguments(noise, momentum)
    with launch.guard(momentum):
        for segment in prior:
            first_quad = segment.start // 4
            grid = (launch.blocks(segment.stop - 4 * first_quad, launch.BLOCK), len(momentum))
            _kick_kernel[grid](
                theta, momentum, grad, hyper, inverse_mass,
                segment.scale if isinstance(segment.scale, Tensor) else None, step,
                momentum.shape[1], stride, first_quad, segment.start, segment.stop,
                float(fraction), *prior_device.scalars(segment), *words,
                FAMILY=segment.family, DRIFT=drift, BLOCK=launch.BLOCK, num_warps=launch.NUM_WARPS,
            )  # fmt: skip


def kick(
    momentum: Tensor,
    grad: Tensor,
    theta: Tensor,
    prior: Sequence[Segment],
    hyper: Tensor,
    fraction: float,
    inverse_mass: Tensor | None,
    noise: Counter | None,
) -> None:
    kick_drift(theta, momentum, grad, prior, hyper, fraction, inverse_mass, noise, drift=False)
