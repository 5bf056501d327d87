"""Triton: the momentum update, with or without noise, and the drift after it, in one pass.

    m     <- DECAY m + fraction KICK (grad + grad log prior(theta)) + NOISE M^(1/2) xi
    theta <- theta + DRIFT M^-1 m                                              (kick_drift only)
    out   <- (grad + grad log prior(theta)) / T                                (force)

Decay and noise apply only with a noise counter. Bytes per float32 parameter, Gaussian prior, identity mass, against
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
from .reference import DECAY, DRIFT, KICK, NOISE, Counter

_FLAT = tl.constexpr(FLAT)
_KICK = tl.constexpr(KICK)
_DRIFT = tl.constexpr(DRIFT)
_DECAY = tl.constexpr(DECAY)
_NOISE = tl.constexpr(NOISE)


@triton.jit(do_not_specialize=["own_mass", "first_quad", "key0", "key1", "stream"])
def _kick_kernel(
    # pointers
    theta_ptr,  # (C, D), written if DRIFT
    momentum_ptr,  # (C, D), written
    grad_ptr,  # (C, D)
    coefficients_ptr,  # (C, 4), or None: a force, `fraction` times the gradient
    inverse_mass_ptr,  # (D,) or (C, D) or None
    scale_ptr,  # (D,) scale of the prior, or None: then `scale`
    mean_ptr,  # (D,) mean of the prior, or None: then 0
    step_ptr,  # (1,) int64 step counter, or None: no decay, no noise
    # sizes
    num_params,
    own_mass,  # 1, or 0: all chains share one
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
    # blocks start at a multiple of four, to align with random numbers and 16-byte loads
    chain = tl.program_id(1).to(tl.int64)
    first = first_quad + tl.program_id(0) * (BLOCK // 4)
    element = first * 4 + tl.arange(0, BLOCK)
    mask = (element >= start) & (element < stop)
    at = chain * num_params + element
    dtype = momentum_ptr.dtype.element_ty

    if coefficients_ptr is not None:
        m = tl.load(momentum_ptr + at, mask=mask, other=0.0)
        coefficients = coefficients_ptr + chain * 4
        rate = tl.full((), fraction, dtype) * tl.load(coefficients + _KICK).to(dtype)
    else:
        m = tl.zeros((BLOCK,), dtype)
        rate = tl.full((), fraction, dtype)
    g = tl.load(grad_ptr + at, mask=mask, other=0.0)
    if FAMILY != _FLAT or DRIFT:
        theta = tl.load(theta_ptr + at, mask=mask, other=0.0)
    if inverse_mass_ptr is not None:
        at_mass = chain * num_params * own_mass + element
        inverse_mass = tl.load(inverse_mass_ptr + at_mass, mask=mask, other=1.0).to(dtype)

    # decay and noise
    if step_ptr is not None:
        quad = first + tl.arange(0, BLOCK // 4)
        xi = philox.normals(quad, chain, step_ptr, key0, key1, stream, BLOCK).to(dtype)
        if inverse_mass_ptr is not None:
            xi = xi / tl.sqrt(inverse_mass)
        decay, std = tl.load(coefficients + _DECAY).to(dtype), tl.load(coefficients + _NOISE).to(dtype)
        m = m * decay + xi * std

    # force
    m += g * rate
    if FAMILY != _FLAT:
        m += prior_device.grad_at(theta, element, mask, scale_ptr, mean_ptr, scale, p, q, FAMILY) * rate
    tl.store(momentum_ptr + at, m, mask=mask)

    if DRIFT:
        if inverse_mass_ptr is not None:
            m = m * inverse_mass
        tl.store(theta_ptr + at, theta + m * tl.load(coefficients + _DRIFT).to(dtype), mask=mask)


def kick_drift(
    theta: Tensor,
    momentum: Tensor,
    grad: Tensor,
    prior: Sequence[Segment],
    coefficients: Tensor,
    fraction: float,
    inverse_mass: Tensor | None,
    noise: Counter | None,
) -> None:
    _update(theta, momentum, grad, prior, coefficients, fraction, inverse_mass, noise, drift=True)


def kick(
    momentum: Tensor,
    grad: Tensor,
    theta: Tensor,
    prior: Sequence[Segment],
    coefficients: Tensor,
    fraction: float,
    inverse_mass: Tensor | None,
    noise: Counter | None,
) -> None:
    _update(theta, momentum, grad, prior, coefficients, fraction, inverse_mass, noise, drift=False)


def force(out: Tensor, grad: Tensor, theta: Tensor, prior: Sequence[Segment], inverse_temperature: float) -> None:
    _update(theta, out, grad, prior, None, inverse_temperature, None, None, drift=False)


def _update(
    theta: Tensor,
    momentum: Tensor,
    grad: Tensor,
    prior: Sequence[Segment],
    coefficients: Tensor | None,
    fraction: float,
    inverse_mass: Tensor | None,
    noise: Counter | None,
    *,
    drift: bool,
) -> None:
    launch.check_buffers(momentum, theta=theta, grad=grad)
    launch.check_prior(prior, momentum)
    if coefficients is not None:
        launch.check_coefficients(coefficients, momentum)
    own = launch.own_mass(inverse_mass, momentum)
    step, *words = launch.counter_arguments(noise, momentum)
    with launch.guard(momentum):
        for segment in prior:
            first_quad = segment.start // 4
            grid = (launch.blocks(segment.stop - 4 * first_quad, launch.BLOCK), len(momentum))
            _kick_kernel[grid](
                theta, momentum, grad, coefficients, inverse_mass,
                segment.scale if isinstance(segment.scale, Tensor) else None, segment.mean, step,
                momentum.shape[1], own, first_quad, segment.start, segment.stop,
                float(fraction), *prior_device.scalars(segment), *words,
                FAMILY=segment.family, DRIFT=drift, BLOCK=launch.BLOCK,
                num_warps=launch.NUM_WARPS if step is None else launch.NOISE_WARPS, **launch.UNFUSED,
            )  # fmt: skip
