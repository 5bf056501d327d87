"""Triton: kinetic energy, log prior and the energy difference of a trajectory, summed in float64.

    kinetic_energy          m^T M^-1 m / 2
    log_prior               sum_i log p(theta_i), constants included
    prior_difference        sum_i [log p(theta1_i) - log p(theta0_i)]
    energy_difference       sum_i (m1 - m0)(m1 + m0) / 2M  -  prior_difference / T
    likelihood_difference   sum_n [log L_n(new) - log L_n(old)]

Differences are taken element by element after conversion to float64. Bytes per float32 parameter, Gaussian prior:
kinetic 4, log prior 4, difference 16, plus 4 for an inverse mass or a tensor of scales. Line by line in torch,
which writes every float64 intermediate: kinetic 12 + 16 + 8 = 36 (9x), log prior about 60 (15x), difference about
250 (15x). These are ratios of bytes, not measurements. Sums have two stages, see `reduce.py`.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from . import launch, prior_device, reduce
from .prior import FLAT, Segment

_FLAT = tl.constexpr(FLAT)


@triton.jit(do_not_specialize=["own_mass", "first_quad", "first_partial", "num_partials"])
def _energy_kernel(
    # pointers; a term of the sum is skipped if its pointer is None
    theta_ptr,  # (C, D): log p(theta), unless new_theta_ptr asks for the difference
    new_theta_ptr,
    momentum_ptr,  # (C, D): kinetic energy, or the difference to new_momentum_ptr
    new_momentum_ptr,
    inverse_mass_ptr,  # (D,) or (C, D) or None
    scale_ptr,  # (D,) scale of the prior, or None: then `scale`
    mean_ptr,  # (D,) mean of the prior, or None: then 0
    partials_ptr,  # (C, P) float64, written
    # sizes
    num_params,
    own_mass,  # 1, or 0: all chains share one
    first_quad,  # start // 4
    start,
    stop,
    first_partial,  # where this launch's partials begin
    num_partials,  # P
    # scalars
    scale: tl.float64,
    p: tl.float64,
    q: tl.float64,
    log_normaliser: tl.float64,
    prior_factor: tl.float64,  # of the difference of log priors
    # constexpr
    FAMILY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    chain = tl.program_id(1).to(tl.int64)
    element = first_quad * 4 + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = (element >= start) & (element < stop)
    at = chain * num_params + element
    partial = tl.zeros((), dtype=tl.float64)

    if momentum_ptr is not None:
        m = tl.load(momentum_ptr + at, mask=mask, other=0.0).to(tl.float64)
        if new_momentum_ptr is not None:
            new = tl.load(new_momentum_ptr + at, mask=mask, other=0.0).to(tl.float64)
            kinetic = (new - m) * (new + m)
        else:
            kinetic = m * m
        if inverse_mass_ptr is not None:
            at_mass = chain * num_params * own_mass + element
            kinetic *= tl.load(inverse_mass_ptr + at_mass, mask=mask, other=0.0).to(tl.float64)
        partial += 0.5 * tl.sum(kinetic, axis=0)

    if theta_ptr is not None and FAMILY != _FLAT:
        if scale_ptr is not None:
            s = tl.load(scale_ptr + element, mask=mask, other=1.0).to(tl.float64)
        else:
            s = tl.full((), scale, tl.float64)
        r, p64, q64 = 1.0 / s, tl.full((), p, tl.float64), tl.full((), q, tl.float64)
        theta = tl.load(theta_ptr + at, mask=mask, other=0.0).to(tl.float64)
        if mean_ptr is not None:
            mean = tl.load(mean_ptr + element, mask=mask, other=0.0).to(tl.float64)
            theta -= mean
        log_p = prior_device.log_kernel(theta, r, p64, q64, FAMILY)
        if new_theta_ptr is not None:  # the constants cancel
            new = tl.load(new_theta_ptr + at, mask=mask, other=0.0).to(tl.float64)
            if mean_ptr is not None:
                new -= mean
            change = prior_device.log_kernel(new, r, p64, q64, FAMILY) - log_p
            partial += prior_factor * tl.sum(tl.where(mask, change, 0.0), axis=0)
        else:
            log_p = log_p - tl.log(s) + tl.full((), log_normaliser, tl.float64)
            partial += tl.sum(tl.where(mask, log_p, 0.0), axis=0)

    tl.store(partials_ptr + chain * num_partials + first_partial + tl.program_id(0), partial)


@triton.jit
def _likelihood_kernel(
    # pointers
    log_lik_ptr,  # (C, N)
    new_log_lik_ptr,  # (C, N)
    partials_ptr,  # (C, P) float64, written
    # sizes
    num_data,
    # constexpr
    BLOCK: tl.constexpr,
):
    chain = tl.program_id(1).to(tl.int64)
    example = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    at, mask = chain * num_data + example, example < num_data
    old = tl.load(log_lik_ptr + at, mask=mask, other=0.0).to(tl.float64)
    new = tl.load(new_log_lik_ptr + at, mask=mask, other=0.0).to(tl.float64)
    tl.store(partials_ptr + chain * tl.num_programs(0) + tl.program_id(0), tl.sum(new - old, axis=0))


def likelihood_difference(log_lik: Tensor, new_log_lik: Tensor) -> Tensor:
    launch.check_buffers(log_lik, new_log_lik=new_log_lik)
    chains, num_data = log_lik.shape
    with launch.guard(log_lik):
        partials = reduce.scratch(log_lik, launch.blocks(num_data, reduce.BLOCK))
        _likelihood_kernel[(partials.shape[1], chains)](
            log_lik, new_log_lik, partials, num_data, BLOCK=reduce.BLOCK, num_warps=reduce.NUM_WARPS
        )
        return reduce.finish(partials)


def _sum(
    first: Tensor,  # all tensors share its shape and device
    prior: Sequence[Segment],
    *,
    theta: Tensor | None = None,
    new_theta: Tensor | None = None,
    momentum: Tensor | None = None,
    new_momentum: Tensor | None = None,
    inverse_mass: Tensor | None = None,
    prior_factor: float = 0.0,
) -> Tensor:
    launch.check_prior(prior, first)
    own = launch.own_mass(inverse_mass, first)
    chains, params = first.shape
    counts = [launch.blocks(s.stop - s.start // 4 * 4, reduce.BLOCK) for s in prior]
    with launch.guard(first):
        partials, done = reduce.scratch(first, sum(counts)), 0
        for segment, count in zip(prior, counts, strict=True):
            _energy_kernel[(count, chains)](
                theta, new_theta, momentum, new_momentum, inverse_mass,
                segment.scale if isinstance(segment.scale, Tensor) else None, segment.mean, partials,
                params, own, segment.start // 4, segment.start, segment.stop, done, sum(counts),
                *prior_device.scalars(segment), prior_device.log_normaliser(segment), float(prior_factor),
                FAMILY=segment.family, BLOCK=reduce.BLOCK, num_warps=reduce.NUM_WARPS,
            )  # fmt: skip
            done += count
        return reduce.finish(partials)


def kinetic_energy(momentum: Tensor, *, inverse_mass: Tensor | None = None) -> Tensor:
    launch.check_buffers(momentum)
    whole = (Segment(0, momentum.shape[1], FLAT),)
    return _sum(momentum, whole, momentum=momentum, inverse_mass=inverse_mass)


def log_prior(theta: Tensor, prior: Sequence[Segment]) -> Tensor:
    launch.check_buffers(theta)
    return _sum(theta, prior, theta=theta)


def prior_difference(theta: Tensor, new_theta: Tensor, prior: Sequence[Segment]) -> Tensor:
    launch.check_buffers(theta, new_theta=new_theta)
    return _sum(theta, prior, theta=theta, new_theta=new_theta, prior_factor=1.0)


def energy_difference(
    theta: Tensor,
    momentum: Tensor,
    new_theta: Tensor,
    new_momentum: Tensor,
    prior: Sequence[Segment],
    inverse_temperature: float,
    *,
    inverse_mass: Tensor | None = None,
) -> Tensor:
    launch.check_buffers(theta, momentum=momentum, new_theta=new_theta, new_momentum=new_momentum)
    return _sum(
        theta,
        prior,
        theta=theta,
        new_theta=new_theta,
        momentum=momentum,
        new_momentum=new_momentum,
        inverse_mass=inverse_mass,
        prior_factor=-inverse_temperature,
    )
