"""Every operation of `hmc_fast.kernels.ops` in plain torch: the specification, and the implementation on a CPU.

Shapes: C chains, D parameters. All functions act on all chains; updates (`kick`, `kick_drift`, `select`, ...)
write to their first arguments in place. Any floating dtype; sums are float64.

`coefficients (C, 4)` is in device memory, so a captured step reads its current values. Its columns are
`KICK, DRIFT, DECAY, NOISE`:

    m     <- DECAY m + KICK (grad log likelihood + grad log prior) + NOISE M^(1/2) xi
    theta <- theta + DRIFT M^-1 m

KICK includes the temperature: it is the step size over T. DECAY and NOISE apply only with a noise counter.

`kick_flow` has two columns more, `SHARED_NOISE, POSITION_NOISE`: its noise moves theta and momentum together.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from .prior import FLAT, Segment
from .prior import grad as prior_grad
from .prior import log_density as prior_log_density

KICK, DRIFT, DECAY, NOISE, SHARED_NOISE, POSITION_NOISE = range(6)

_Word = TypeVar("_Word", Tensor, int)
_MASK = 0xFFFFFFFF
_ROUND_A, _ROUND_B = 0xD2511F53, 0xCD9E8D57
_KEY_A, _KEY_B = 0x9E3779B9, 0xBB67AE85


@dataclass(frozen=True)
class Counter:
    """Identifies a random array: each element depends only on (seed, stream, chain, step, element).

    seed: in [0, 2**64). stream: one small number per use, in [0, 2**32).
    step: `(1,)` int64 on the device of the result, so that a replayed graph reads its current value.
    joins_two: normals are those of steps 2 step and 2 step + 1, added, over sqrt 2; by the twins alone.
    """

    seed: int
    stream: int
    step: Tensor
    joins_two: bool = False


# --- random numbers --------------------------------------------------------------------------------------


def philox(counter: Counter, num_chains: int, num_blocks: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox 4x32-10 (Salmon et al. 2011): four int64 tensors `(C, num_blocks)` of 32 random bits each.

    Counter words: index of the block of four elements, step, chain, stream. Key: the two halves of the seed.
    """
    device = counter.step.device
    c0 = torch.arange(num_blocks, device=device).view(1, -1)
    c1 = (counter.step & _MASK).view(1, 1)
    c2 = torch.arange(num_chains, device=device).view(-1, 1)
    c3 = torch.full((1, 1), counter.stream, dtype=torch.int64, device=device)
    return philox_rounds(c0, c1, c2, c3, counter.seed)


def philox_rounds(c0: _Word, c1: _Word, c2: _Word, c3: _Word, seed: int) -> tuple[_Word, _Word, _Word, _Word]:
    """Ten rounds on four counter words (int64, broadcastable, or integers): 32-bit arithmetic in 64 bits."""
    k0, k1 = seed & _MASK, (seed >> 32) & _MASK
    for _ in range(10):
        (high_a, low_a), (high_b, low_b) = _product(c0, _ROUND_A), _product(c2, _ROUND_B)
        c0, c1, c2, c3 = high_b ^ c1 ^ k0, low_b, high_a ^ c3 ^ k1, low_a
        k0, k1 = (k0 + _KEY_A) & _MASK, (k1 + _KEY_B) & _MASK
    return c0, c1, c2, c3


def _product(word: _Word, factor: int) -> tuple[_Word, _Word]:
    """High and low 32 bits of a product of 32-bit words, computed from halves of `factor` so that nothing exceeds
    2**63: signed overflow is undefined in the C++ that torch.compile generates, and gave wrong bits there."""
    low = word * (factor & 0xFFFF)
    high = word * (factor >> 16) + (low >> 16)
    return high >> 16, (high & 0xFFFF) << 16 | low & 0xFFFF


def _unit(bits: Tensor) -> Tensor:
    """32 bits -> float32 in (0, 1): the top 23 bits plus one half. Exact; never 0 or 1."""
    return ((bits >> 9).to(torch.float32) + 0.5) * 2.0**-23


def uniforms(counter: Counter, num_chains: int, num_elements: int) -> Tensor:
    """Uniforms in (0, 1), float32 `(C, num_elements)`; element e is lane e % 4 of block e // 4."""
    words = philox(counter, num_chains, -(-num_elements // 4))
    return torch.stack([_unit(w) for w in words], dim=-1).flatten(1)[:, :num_elements]


def normals(counter: Counter, num_chains: int, num_elements: int) -> Tensor:
    """Standard normals, float32 `(C, num_elements)`, by Box-Muller on lanes (0, 1) and (2, 3)."""
    if counter.joins_two:
        both = (replace(counter, step=2 * counter.step + half, joins_two=False) for half in (0, 1))
        first, second = (normals(each, num_chains, num_elements) for each in both)
        return (first + second) * math.sqrt(0.5)
    bits = philox(counter, num_chains, -(-num_elements // 4))
    u0, u1, u2, u3 = (_unit(word) for word in bits)
    radius0, radius1 = u0.log_().mul_(-2).sqrt_(), u2.log_().mul_(-2).sqrt_()
    angle0, angle1 = u1.mul_(2 * math.pi), u3.mul_(2 * math.pi)
    lanes = (
        radius0 * torch.cos(angle0),
        radius0 * torch.sin(angle0),
        radius1 * torch.cos(angle1),
        radius1 * torch.sin(angle1),
    )
    return torch.stack(lanes, dim=-1).flatten(1)[:, :num_elements]


# --- updates ---------------------------------------------------------------------------------------------


def kick(
    momentum: Tensor,  # (C, D), updated
    grad: Tensor,  # (C, D) gradient of the log likelihood
    theta: Tensor,  # (C, D), read for the prior's gradient
    prior: Sequence[Segment],
    coefficients: Tensor,  # (C, 4)
    *,
    fraction: float = 1.0,
    inverse_mass: Tensor | None = None,  # (D,) or (C, D)
    noise: Counter | None = None,
) -> None:
    """m <- DECAY m + fraction KICK (grad + grad log prior) + NOISE M^(1/2) xi; see the top of this file.

    Without `noise` there is neither decay nor noise: Hamiltonian dynamics.
    """
    factors = coefficients.to(momentum.dtype)
    rate = fraction * factors[:, KICK, None]
    if noise is not None:
        std = factors[:, NOISE, None]
        if inverse_mass is not None:
            std = std * torch.rsqrt(inverse_mass.to(momentum.dtype))
        momentum.mul_(factors[:, DECAY, None])
        momentum.addcmul_(normals(noise, *momentum.shape).to(momentum.dtype), std)
    momentum.addcmul_(grad, rate)
    for segment in prior:
        if segment.family != FLAT:
            part = slice(segment.start, segment.stop)
            momentum[:, part].addcmul_(prior_grad(theta[:, part], segment), rate)


def kick_drift(
    theta: Tensor,  # (C, D), updated
    momentum: Tensor,  # (C, D), updated
    grad: Tensor,
    prior: Sequence[Segment],
    coefficients: Tensor,
    *,
    fraction: float = 1.0,
    inverse_mass: Tensor | None = None,
    noise: Counter | None = None,
) -> None:
    """`kick`, then theta <- theta + DRIFT M^-1 m with the new momentum, in one pass."""
    kick(momentum, grad, theta, prior, coefficients, fraction=fraction, inverse_mass=inverse_mass, noise=noise)
    velocity = momentum if inverse_mass is None else momentum * inverse_mass.to(theta.dtype)
    theta.addcmul_(velocity, coefficients[:, DRIFT, None].to(theta.dtype))


def kick_flow(
    theta: Tensor,  # (C, D), updated
    momentum: Tensor,  # (C, D), updated
    grad: Tensor | None,  # None: no kick
    prior: Sequence[Segment],
    coefficients: Tensor,  # (C, 6)
    *,
    inverse_mass: Tensor | None = None,
    noise: Counter,  # xi1 is of its stream, xi2 of the next
) -> None:
    """m <- m + KICK (grad + grad log prior), then the flow without a force, from the m of before:

    theta <- theta + DRIFT M^-1 m + POSITION_NOISE M^(-1/2) xi1
    m     <- DECAY m + M^(1/2) (SHARED_NOISE xi1 + NOISE xi2)
    """
    if grad is not None:
        kick(momentum, grad, theta, prior, coefficients)
    factors = coefficients.to(momentum.dtype)[:, :, None]
    second = replace(noise, stream=noise.stream + 1)
    xi1 = normals(noise, *momentum.shape).to(momentum.dtype)
    xi2 = normals(second, *momentum.shape).to(momentum.dtype)
    velocity, moving, pushing = momentum, xi1, xi1 * factors[:, SHARED_NOISE] + xi2 * factors[:, NOISE]
    if inverse_mass is not None:
        inverse_mass = inverse_mass.to(momentum.dtype)
        velocity, moving = momentum * inverse_mass, xi1 * torch.sqrt(inverse_mass)
        pushing = pushing * torch.rsqrt(inverse_mass)
    theta.addcmul_(velocity, factors[:, DRIFT]).addcmul_(moving, factors[:, POSITION_NOISE])
    momentum.mul_(factors[:, DECAY]).add_(pushing)


def force(
    out: Tensor,  # (C, D), overwritten
    grad: Tensor,  # (C, D) gradient of the log likelihood
    theta: Tensor,  # (C, D)
    prior: Sequence[Segment],
    inverse_temperature: float,
) -> None:
    """out <- (grad + grad log prior) / T, the gradient of the tempered log density."""
    out.copy_(grad)
    for segment in prior:
        if segment.family != FLAT:
            part = slice(segment.start, segment.stop)
            out[:, part].add_(prior_grad(theta[:, part], segment))
    out.mul_(inverse_temperature)


def refresh_momentum(momentum: Tensor, counter: Counter, *, inverse_mass: Tensor | None = None) -> Tensor:
    """m <- M^(1/2) xi, xi ~ N(0, I). Returns the kinetic energy m^T M^-1 m / 2, float64 `(C,)`."""
    momentum.copy_(normals(counter, *momentum.shape))
    if inverse_mass is not None:
        momentum.mul_(torch.rsqrt(inverse_mass.to(momentum.dtype)))
    return kinetic_energy(momentum, inverse_mass=inverse_mass)


def select(target: Tensor, source: Tensor, mask: Tensor) -> None:
    """target[c] <- source[c] where mask[c]. `target, source (C, W)`, `mask (C,)` bool."""
    torch.where(mask[:, None], source, target, out=target)


def metropolis_test(
    energy_error: Tensor,
    uniform: Tensor,
    divergence_threshold: float,
    *,
    density_ratio: bool = False,
    untested: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Accepted (bool), acceptance probability (float64) and divergent (bool), `(C,)` each; the arguments are those
    of `dynamics/metropolis.py`. density_ratio: test u < exp(-dH), else log u < -dH."""
    finite = energy_error.abs() < torch.inf
    safe = torch.where(finite, energy_error, torch.inf)
    accept_prob = torch.exp(-safe.clamp_min(0))
    uniform = uniform.double()
    accepted = uniform < torch.exp(-safe) if density_ratio else torch.log(uniform) < -safe
    if untested is not None:
        accepted = accepted | (untested & finite)
    return accepted, accept_prob, safe > divergence_threshold


def read_window(window: Tensor, step: Tensor, period: int, out: Tensor) -> None:
    """out[c] <- window[c, k L mod P : + L], k in `step (1,)` int64. `window (C, W)`, or `(1, W)` for all chains;
    `out (C, L)`."""
    length = out.shape[1]
    offset = torch.remainder(step * length, period)
    columns = offset + torch.arange(length, device=out.device)
    if len(window) == len(out):
        torch.index_select(window, 1, columns, out=out)
    else:
        out.copy_(window.index_select(1, columns))


def end_step(log_lik: Tensor, total: Tensor, step: Tensor, scale: float) -> None:
    """total += scale sum_b log_lik[:, b]; step += 1. `log_lik (C, B)`, `total (C,)` float64, `step (1,)` int64."""
    total.add_(log_lik.sum(1, dtype=torch.float64), alpha=scale)
    step.add_(1)


def store(slot: Tensor, theta: Tensor, counts: Tensor) -> None:
    """slot <- theta in slot's dtype, both `(C, D)`. Values beyond the largest finite one are clamped to it.

    counts: `(2,)` int64, incremented by the number of finite values that overflowed, and by the number of non-zero
    values below the smallest normal number (stored as subnormals, or rounded to 0).
    """
    info = torch.finfo(slot.dtype)
    magnitude = theta.abs()
    counts[0] += ((magnitude > info.max) & torch.isfinite(theta)).sum()
    counts[1] += ((magnitude < info.tiny) & (theta != 0)).sum()
    slot.copy_(theta.clamp(-info.max, info.max))


def accumulate_softmax(logits: Tensor, sums: Tensor, entropies: Tensor, probabilities: Tensor) -> None:
    """Adds one draw to a Bayesian model average: sums += p, entropies += -sum_k p log p, probabilities <- p.

    p = softmax(logits) over the last axis, in float32 (float64 for float64 logits). `logits (C, T, K)`, `sums
    (C, T, K)` and `entropies (C, T)` float64, `probabilities (C, T, K)` float32 or float64. A p that underflows to
    0 adds no entropy; a row that contains NaN or +inf, or only -inf, becomes NaN.
    """
    p = torch.softmax(logits, dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))
    sums += p
    entropies += torch.special.entr(p).sum(-1)
    probabilities.copy_(p)


# --- sums, float64 ---------------------------------------------------------------------------------------


def kinetic_energy(momentum: Tensor, *, inverse_mass: Tensor | None = None) -> Tensor:
    """m^T M^-1 m / 2, float64 `(C,)`."""
    squares = momentum.double() ** 2
    if inverse_mass is not None:
        squares = squares * inverse_mass.double()
    return 0.5 * squares.sum(1)


def log_prior(theta: Tensor, prior: Sequence[Segment]) -> Tensor:
    """Normalised log prior density, float64 `(C,)`."""
    total = torch.zeros(theta.shape[0], dtype=torch.float64, device=theta.device)
    for segment in prior:
        total += prior_log_density(theta[:, segment.start : segment.stop].double(), segment).sum(1)
    return total


def prior_difference(theta: Tensor, new_theta: Tensor, prior: Sequence[Segment]) -> Tensor:
    """log p(new_theta) - log p(theta) of the prior, float64 `(C,)`, summed from element-wise differences."""
    total = torch.zeros(theta.shape[0], dtype=torch.float64, device=theta.device)
    for segment in prior:
        part = slice(segment.start, segment.stop)
        new, old = new_theta[:, part].double(), theta[:, part].double()
        total += (prior_log_density(new, segment) - prior_log_density(old, segment)).sum(1)
    return total


def energy_difference(
    theta: Tensor,  # (C, D) at the start of the trajectory
    momentum: Tensor,
    new_theta: Tensor,  # (C, D) at its end
    new_momentum: Tensor,
    prior: Sequence[Segment],
    inverse_temperature: float,
    *,
    inverse_mass: Tensor | None = None,
) -> Tensor:
    """Kinetic and prior terms of H(new) - H(old), float64 `(C,)`.

    Summed from element-wise differences: with 272,000 parameters the kinetic energy alone is 136,000, where float32
    has a spacing of 0.016.
    """
    kinetic = (new_momentum.double() - momentum.double()) * (new_momentum.double() + momentum.double()) / 2
    if inverse_mass is not None:
        kinetic = kinetic * inverse_mass.double()
    return kinetic.sum(1) - inverse_temperature * prior_difference(theta, new_theta, prior)


def likelihood_difference(log_lik: Tensor, new_log_lik: Tensor) -> Tensor:
    """log L(new) - log L(old), float64 `(C,)`, summed from per-example differences. `(C, N)` both."""
    return (new_log_lik.double() - log_lik.double()).sum(1)
