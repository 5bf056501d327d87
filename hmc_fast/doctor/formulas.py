"""The operations of `hmc_fast.kernels.reference` once more, from their definitions: in float64, by numpy and scipy,
slowly. They share no line with the twins, which they check.

Densities of priors come from scipy, their gradients from central differences.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special, stats
from torch import Tensor

from ..kernels import ops
from ..kernels.ops import DECAY, DRIFT, KICK, NOISE, POSITION_NOISE, SHARED_NOISE, Counter, Segment

_Array = NDArray[np.float64]
_Mass = Tensor | None


def _float64(tensor: Tensor) -> _Array:
    return tensor.double().cpu().numpy()


def _like(values: NDArray[Any], tensor: Tensor) -> Tensor:
    return torch.as_tensor(values).to(tensor.device, tensor.dtype)


# --- random numbers ---


def philox(counter: Counter, num_chains: int, num_blocks: int) -> tuple[Tensor, ...]:
    """Salmon et al. 2011, figure 2 and section 3.1: unsigned products of 32-bit words, high and low half."""
    word, mask = np.uint64, np.uint64(0xFFFFFFFF)
    half = np.uint64(32)
    shape = (num_chains, num_blocks)
    c0 = np.broadcast_to(np.arange(num_blocks, dtype=word), shape)
    c1 = np.full(shape, int(counter.step) % 2**32, dtype=word)
    c2 = np.broadcast_to(np.arange(num_chains, dtype=word)[:, None], shape)
    c3 = np.full(shape, counter.stream, dtype=word)
    for turn in range(10):
        key0 = word((counter.seed + turn * 0x9E3779B9) % 2**32)
        key1 = word(((counter.seed >> 32) + turn * 0xBB67AE85) % 2**32)
        a, b = c0 * word(0xD2511F53), c2 * word(0xCD9E8D57)
        c0, c1, c2, c3 = (b >> half) ^ c1 ^ key0, b & mask, (a >> half) ^ c3 ^ key1, a & mask
    return tuple(torch.as_tensor(w.astype(np.int64), device=counter.step.device) for w in (c0, c1, c2, c3))


def _units(counter: Counter, num_chains: int, num_elements: int) -> _Array:
    """The top 23 of each word's 32 bits, in the middle of their interval."""
    words = philox(counter, num_chains, -(-num_elements // 4))
    bits = np.stack([w.cpu().numpy() for w in words], axis=-1).reshape(num_chains, -1)
    return (np.asarray(bits // 512, dtype=np.float64) + 0.5) / 2**23


def uniforms(counter: Counter, num_chains: int, num_elements: int) -> Tensor:
    units = _units(counter, num_chains, num_elements)[:, :num_elements]
    return torch.as_tensor(units, device=counter.step.device).float()


def _normals(counter: Counter, num_chains: int, num_elements: int) -> _Array:
    """Box and Muller 1958: of each pair of uniforms, a complex number."""
    pairs = _units(counter, num_chains, num_elements).reshape(num_chains, -1, 2)
    numbers = np.sqrt(-2 * np.log(pairs[..., 0])) * np.exp(2j * np.pi * pairs[..., 1])
    return np.stack([numbers.real, numbers.imag], axis=-1).reshape(num_chains, -1)[:, :num_elements]


def normals(counter: Counter, num_chains: int, num_elements: int) -> Tensor:
    values = _normals(counter, num_chains, num_elements)
    return torch.as_tensor(values, device=counter.step.device).float()


# --- priors ---


def _log_density(x: _Array, segment: Segment) -> _Array:
    """`x (C, stop - start)`, relative to the mean."""
    s = segment.scale
    scale = _float64(s[segment.start : segment.stop]) if isinstance(s, Tensor) else float(s)
    a, b = segment.shape
    if segment.family == ops.FLAT:
        return np.zeros_like(x)
    if segment.family == ops.MIXTURE:
        parts = [stats.norm.logpdf(x, scale=scale), stats.norm.logpdf(x, scale=b * np.asarray(scale))]
        return np.asarray(special.logsumexp(parts, axis=0, b=np.reshape([a, 1 - a], (2, 1, 1))))
    families: dict[int, Any] = {ops.NORMAL: stats.norm, ops.LAPLACE: stats.laplace, ops.LOGISTIC: stats.logistic}
    family = stats.t(a) if segment.family == ops.STUDENT_T else families[segment.family]
    return np.asarray(family.logpdf(x / scale) - np.log(scale))


def _centred(theta: Tensor, prior: Sequence[Segment]) -> Tensor:
    """`theta` minus the means, float64."""
    x = theta.double().clone()
    for segment in prior:
        if segment.mean is not None:
            part = slice(segment.start, segment.stop)
            x[:, part] -= segment.mean[part].double()
    return x


def _prior_terms(centred: Tensor, prior: Sequence[Segment]) -> _Array:
    x = _float64(centred)
    terms = np.empty_like(x)
    for segment in prior:
        part = slice(segment.start, segment.stop)
        terms[:, part] = _log_density(x[:, part], segment)
    return terms


def _prior_gradient(theta: Tensor, prior: Sequence[Segment]) -> _Array:
    """By the central difference of fourth order. Its steps do not reach the mean, where Laplace's has its kink."""
    x = _centred(theta, prior)
    h = (x.abs() / 4).clamp(max=1e-3).where(x != 0, torch.tensor(1e-3, dtype=x.dtype))
    near = _prior_terms(x + h, prior) - _prior_terms(x - h, prior)
    far = _prior_terms(x + 2 * h, prior) - _prior_terms(x - 2 * h, prior)
    return np.asarray((8 * near - far) / (12 * _float64(h)))


# --- updates ---


def kick(
    momentum: Tensor,
    grad: Tensor,
    theta: Tensor,
    prior: Sequence[Segment],
    coefficients: Tensor,
    *,
    fraction: float = 1.0,
    inverse_mass: _Mass = None,
    noise: Counter | None = None,
) -> None:
    factors = _float64(coefficients)[:, :, None]
    m = _float64(momentum)
    if noise is not None:
        mass = 1.0 if inverse_mass is None else 1 / _float64(inverse_mass)
        m = factors[:, DECAY] * m + factors[:, NOISE] * np.sqrt(mass) * _normals(noise, *momentum.shape)
    m = m + fraction * factors[:, KICK] * (_float64(grad) + _prior_gradient(theta, prior))
    momentum.copy_(_like(m, momentum))


def kick_drift(
    theta: Tensor,
    momentum: Tensor,
    grad: Tensor,
    prior: Sequence[Segment],
    coefficients: Tensor,
    *,
    fraction: float = 1.0,
    inverse_mass: _Mass = None,
    noise: Counter | None = None,
) -> None:
    kick(momentum, grad, theta, prior, coefficients, fraction=fraction, inverse_mass=inverse_mass, noise=noise)
    velocity = _float64(momentum) * (1.0 if inverse_mass is None else _float64(inverse_mass))
    theta.copy_(_like(_float64(theta) + _float64(coefficients)[:, DRIFT, None] * velocity, theta))


def kick_flow(
    theta: Tensor,
    momentum: Tensor,
    grad: Tensor | None,
    prior: Sequence[Segment],
    coefficients: Tensor,
    *,
    inverse_mass: _Mass = None,
    noise: Counter,
) -> None:
    factors, mass = _float64(coefficients)[:, :, None], 1.0 if inverse_mass is None else 1 / _float64(inverse_mass)
    m = _float64(momentum)
    if grad is not None:
        m = m + factors[:, KICK] * (_float64(grad) + _prior_gradient(theta, prior))
    first, second = (
        _normals(Counter(noise.seed, stream, noise.step), *momentum.shape)
        for stream in (noise.stream, noise.stream + 1)
    )
    moved = factors[:, DRIFT] * m / mass + factors[:, POSITION_NOISE] * first / np.sqrt(mass)
    pushed = np.sqrt(mass) * (factors[:, SHARED_NOISE] * first + factors[:, NOISE] * second)
    theta.copy_(_like(_float64(theta) + moved, theta))
    momentum.copy_(_like(factors[:, DECAY] * m + pushed, momentum))


def force(out: Tensor, grad: Tensor, theta: Tensor, prior: Sequence[Segment], inverse_temperature: float) -> None:
    out.copy_(_like(inverse_temperature * (_float64(grad) + _prior_gradient(theta, prior)), out))


def refresh_momentum(momentum: Tensor, counter: Counter, *, inverse_mass: _Mass = None) -> Tensor:
    mass = 1.0 if inverse_mass is None else 1 / _float64(inverse_mass)
    momentum.copy_(_like(np.sqrt(mass) * _normals(counter, *momentum.shape), momentum))
    return kinetic_energy(momentum, inverse_mass=inverse_mass)


def select(target: Tensor, source: Tensor, mask: Tensor) -> None:
    for chain, chosen in enumerate(mask.tolist()):
        if chosen:
            target[chain] = source[chain]


def metropolis_test(
    energy_error: Tensor,
    uniform: Tensor,
    divergence_threshold: float,
    *,
    density_ratio: bool = False,
    untested: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Chain by chain. Both forms of the test accept the same proposals."""
    accepted, accept_prob, divergent = [], [], []
    for error, u in zip(energy_error.tolist(), uniform.tolist(), strict=True):
        finite = math.isfinite(error)
        accept_prob.append(min(1.0, math.exp(min(-error, 0.0))) if finite else 0.0)
        accepted.append(finite and ((untested is not None and bool(untested)) or u < accept_prob[-1]))
        divergent.append(not finite or error > divergence_threshold)
    bools = [torch.tensor(values, device=uniform.device) for values in (accepted, divergent)]
    return bools[0], torch.tensor(accept_prob, dtype=torch.float64, device=uniform.device), bools[1]


def read_window(window: Tensor, step: Tensor, period: int, out: Tensor) -> None:
    length = out.shape[1]
    start = int(step) * length % period
    for chain in range(len(out)):
        out[chain] = window[chain % len(window), start : start + length]


def end_step(log_lik: Tensor, total: Tensor, step: Tensor, scale: float) -> None:
    total += scale * _sum(_float64(log_lik), log_lik)
    step += 1


def store(slot: Tensor, theta: Tensor, counts: Tensor) -> None:
    info = torch.finfo(slot.dtype)
    values = _float64(theta)
    counts += torch.tensor(
        [(abs(values) > info.max).sum(), ((abs(values) < info.tiny) & (values != 0)).sum()], device=counts.device
    )
    slot.copy_(_like(np.clip(values, -info.max, info.max), slot))


def accumulate_softmax(logits: Tensor, sums: Tensor, entropies: Tensor, probabilities: Tensor) -> None:
    p = special.softmax(_float64(logits), axis=-1)
    sums += _like(p, sums)
    entropies += _like(stats.entropy(p, axis=-1), entropies)
    probabilities.copy_(_like(p, probabilities))


# --- sums ---


def _sum(terms: _Array, like: Tensor) -> Tensor:
    return torch.as_tensor(terms.sum(axis=1), device=like.device)


def kinetic_energy(momentum: Tensor, *, inverse_mass: _Mass = None) -> Tensor:
    inverse = 1.0 if inverse_mass is None else _float64(inverse_mass)
    return _sum(_float64(momentum) ** 2 * inverse / 2, momentum)


def likelihood_difference(log_lik: Tensor, new_log_lik: Tensor) -> Tensor:
    return _sum(_float64(new_log_lik) - _float64(log_lik), log_lik)


def log_prior(theta: Tensor, prior: Sequence[Segment]) -> Tensor:
    return _sum(_prior_terms(_centred(theta, prior), prior), theta)


def prior_difference(theta: Tensor, new_theta: Tensor, prior: Sequence[Segment]) -> Tensor:
    new, old = (_prior_terms(_centred(at, prior), prior) for at in (new_theta, theta))
    return _sum(new - old, theta)


def energy_difference(
    theta: Tensor,
    momentum: Tensor,
    new_theta: Tensor,
    new_momentum: Tensor,
    prior: Sequence[Segment],
    inverse_temperature: float,
    *,
    inverse_mass: _Mass = None,
) -> Tensor:
    kinetic = [kinetic_energy(m, inverse_mass=inverse_mass) for m in (momentum, new_momentum)]
    return kinetic[1] - kinetic[0] - inverse_temperature * prior_difference(theta, new_theta, prior)
