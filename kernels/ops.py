"""The operations that samplers call: each function dispatches to the Triton kernel or to its torch twin.

`impl=None` uses Triton for CUDA tensors, except within `using("torch")`, and torch otherwise. An explicit choice
("torch", "triton") is followed or raises: Triton on CPU tensors needs its interpreter (TRITON_INTERPRET=1, set
before triton is imported). The twin in `reference.py` defines what each operation computes.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import torch
from torch import Tensor

from . import reference
from .prior import FLAT, LAPLACE, LOGISTIC, MIXTURE, NORMAL, STUDENT_T, Segment
from .reference import DECAY, DRIFT, KICK, NOISE, POSITION_NOISE, SHARED_NOISE, Counter

__all__ = [
    "DECAY",
    "DRIFT",
    "FLAT",
    "KICK",
    "LAPLACE",
    "LOGISTIC",
    "MIXTURE",
    "NOISE",
    "NORMAL",
    "POSITION_NOISE",
    "SHARED_NOISE",
    "STUDENT_T",
    "Counter",
    "Kernels",
    "Segment",
    "accumulate_softmax",
    "end_step",
    "energy_difference",
    "force",
    "kick",
    "kick_drift",
    "kick_flow",
    "kinetic_energy",
    "likelihood_difference",
    "log_prior",
    "metropolis_test",
    "normals",
    "philox",
    "prior_difference",
    "read_window",
    "refresh_momentum",
    "select",
    "store",
    "uniforms",
    "using",
]

Kernels = Literal["auto", "torch"]
_kernels: ContextVar[Kernels] = ContextVar("kernels", default="auto")

# The softmax kernel keeps a row in registers, at most 16 numbers per thread; wider rows would spill.
_MAX_CLASSES = 2**14


def _use_triton(tensor: Tensor, impl: str | None) -> bool:
    if impl is None:
        return tensor.is_cuda and _kernels.get() == "auto"
    if impl == "torch":
        return False
    if impl != "triton":
        raise ValueError(f"impl={impl!r} is unknown: use None, 'torch' or 'triton'")
    if not tensor.is_cuda:
        import triton

        if not triton.knobs.runtime.interpret:
            raise ValueError(
                f"impl='triton' was requested for tensors on {tensor.device}: move them to a CUDA device, or set "
                "TRITON_INTERPRET=1 before triton is imported"
            )
    return True


@contextmanager
def using(kernels: Kernels) -> Iterator[None]:
    """Within it, "auto" is what is said above; "torch" uses the twins on a GPU, too."""
    token = _kernels.set(kernels)
    try:
        yield
    finally:
        _kernels.reset(token)


def philox(counter: Counter, num_chains: int, num_blocks: int, *, impl: str | None = None) -> tuple[Tensor, ...]:
    """Four int64 `(C, num_blocks)` of 32 random bits each. See `reference.philox`."""
    if _use_triton(counter.step, impl):
        from . import random as kernel

        return kernel.philox_words(counter, num_chains, num_blocks)
    return reference.philox(counter, num_chains, num_blocks)


def uniforms(counter: Counter, num_chains: int, num_elements: int, *, impl: str | None = None) -> Tensor:
    """Uniforms in (0, 1), float32 `(C, num_elements)`, on the device of `counter.step`."""
    if _use_triton(counter.step, impl):
        from . import random as kernel

        return kernel.uniforms(counter, num_chains, num_elements)
    return reference.uniforms(counter, num_chains, num_elements)


def normals(counter: Counter, num_chains: int, num_elements: int, *, impl: str | None = None) -> Tensor:
    """Standard normals, float32 `(C, num_elements)`, on the device of `counter.step`."""
    if _use_triton(counter.step, impl):
        from . import momentum as kernel

        out = torch.empty(num_chains, num_elements, device=counter.step.device)
        kernel.refresh_momentum(out, counter, inverse_mass=None)
        return out
    return reference.normals(counter, num_chains, num_elements)


def kick(
    momentum: Tensor,
    grad: Tensor,
    theta: Tensor,
    prior: Sequence[Segment],
    coefficients: Tensor,
    *,
    fraction: float = 1.0,
    inverse_mass: Tensor | None = None,
    noise: Counter | None = None,
    impl: str | None = None,
) -> None:
    """m <- DECAY m + fraction KICK (grad + grad log prior) + NOISE M^(1/2) xi. See `reference.kick`."""
    if _use_triton(momentum, impl):
        from . import leapfrog as kernel

        kernel.kick(momentum, grad, theta, prior, coefficients, fraction, inverse_mass, noise)
    else:
        reference.kick(
            momentum, grad, theta, prior, coefficients, fraction=fraction, inverse_mass=inverse_mass, noise=noise
        )


def kick_drift(
    theta: Tensor,
    momentum: Tensor,
    grad: Tensor,
    prior: Sequence[Segment],
    coefficients: Tensor,
    *,
    fraction: float = 1.0,
    inverse_mass: Tensor | None = None,
    noise: Counter | None = None,
    impl: str | None = None,
) -> None:
    """`kick`, then theta <- theta + DRIFT M^-1 m, in one launch. See `reference.kick_drift`."""
    if _use_triton(momentum, impl):
        from . import leapfrog as kernel

        kernel.kick_drift(theta, momentum, grad, prior, coefficients, fraction, inverse_mass, noise)
    else:
        reference.kick_drift(
            theta, momentum, grad, prior, coefficients, fraction=fraction, inverse_mass=inverse_mass, noise=noise
        )


def kick_flow(
    theta: Tensor,
    momentum: Tensor,
    grad: Tensor | None,
    prior: Sequence[Segment],
    coefficients: Tensor,
    *,
    inverse_mass: Tensor | None = None,
    noise: Counter,
    impl: str | None = None,
) -> None:
    """m <- m + KICK (grad + grad log prior), then the Langevin flow without a force, in one launch; its two normals
    per element move theta and m together. See `reference.kick_flow`."""
    if _use_triton(momentum, impl):
        from . import flow as kernel

        kernel.kick_flow(theta, momentum, grad, prior, coefficients, inverse_mass, noise)
    else:
        reference.kick_flow(theta, momentum, grad, prior, coefficients, inverse_mass=inverse_mass, noise=noise)


def force(
    out: Tensor,
    grad: Tensor,
    theta: Tensor,
    prior: Sequence[Segment],
    inverse_temperature: float,
    *,
    impl: str | None = None,
) -> None:
    """out <- (grad + grad log prior) / T, in one launch. See `reference.force`."""
    if _use_triton(out, impl):
        from . import leapfrog as kernel

        kernel.force(out, grad, theta, prior, inverse_temperature)
    else:
        reference.force(out, grad, theta, prior, inverse_temperature)


def refresh_momentum(
    momentum: Tensor, counter: Counter, *, inverse_mass: Tensor | None = None, impl: str | None = None
) -> Tensor:
    """m <- M^(1/2) xi; returns the kinetic energy, float64 `(C,)`, from the same pass."""
    if _use_triton(momentum, impl):
        from . import momentum as kernel

        return kernel.refresh_momentum(momentum, counter, inverse_mass=inverse_mass)
    return reference.refresh_momentum(momentum, counter, inverse_mass=inverse_mass)


def select(target: Tensor, source: Tensor, mask: Tensor, *, impl: str | None = None) -> None:
    """target[c] <- source[c] where mask[c]: the accept step, without reading a value back to the host."""
    if _use_triton(target, impl):
        from . import select as kernel

        kernel.select(target, source, mask)
    else:
        reference.select(target, source, mask)


def metropolis_test(
    energy_error: Tensor,
    uniform: Tensor,
    divergence_threshold: float,
    *,
    density_ratio: bool = False,
    untested: Tensor | None = None,
    impl: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Accepted, acceptance probability and divergent, `(C,)` each. See `reference.metropolis_test`."""
    options: dict[str, Any] = {"density_ratio": density_ratio, "untested": untested}
    if _use_triton(energy_error, impl):
        from . import metropolis as kernel

        return kernel.metropolis_test(energy_error, uniform, divergence_threshold, **options)
    return reference.metropolis_test(energy_error, uniform, divergence_threshold, **options)


def read_window(window: Tensor, step: Tensor, period: int, out: Tensor, *, impl: str | None = None) -> None:
    """out[c] <- window[c, k L mod P : + L], k the step counter. See `reference.read_window`."""
    if _use_triton(out, impl):
        from . import minibatch as kernel

        kernel.read_window(window, step, period, out)
    else:
        reference.read_window(window, step, period, out)


def end_step(log_lik: Tensor, total: Tensor, step: Tensor, scale: float, *, impl: str | None = None) -> None:
    """total += scale sum_b log_lik[:, b], and the step counter advances. See `reference.end_step`."""
    if _use_triton(log_lik, impl):
        from . import minibatch as kernel

        kernel.end_step(log_lik, total, step, scale)
    else:
        reference.end_step(log_lik, total, step, scale)


def store(slot: Tensor, theta: Tensor, counts: Tensor, *, impl: str | None = None) -> None:
    """slot <- theta in slot's dtype, counting overflows and subnormals. See `reference.store`."""
    if _use_triton(theta, impl):
        from . import store as kernel

        kernel.store(slot, theta, counts)
    else:
        reference.store(slot, theta, counts)


def accumulate_softmax(
    logits: Tensor, sums: Tensor, entropies: Tensor, probabilities: Tensor, *, impl: str | None = None
) -> None:
    """probabilities <- softmax(logits), added to the sums with its entropy. See `reference.accumulate_softmax`."""
    if impl is None and logits.shape[-1] > _MAX_CLASSES:
        impl = "torch"
    if _use_triton(logits, impl):
        from . import average as kernel

        kernel.accumulate_softmax(logits, sums, entropies, probabilities)
    else:
        reference.accumulate_softmax(logits, sums, entropies, probabilities)


def kinetic_energy(momentum: Tensor, *, inverse_mass: Tensor | None = None, impl: str | None = None) -> Tensor:
    """m^T M^-1 m / 2, float64 `(C,)`; the order of the sum is fixed."""
    if _use_triton(momentum, impl):
        from . import energy as kernel

        return kernel.kinetic_energy(momentum, inverse_mass=inverse_mass)
    return reference.kinetic_energy(momentum, inverse_mass=inverse_mass)


def log_prior(theta: Tensor, prior: Sequence[Segment], *, impl: str | None = None) -> Tensor:
    """Normalised log prior density, float64 `(C,)`."""
    if _use_triton(theta, impl):
        from . import energy as kernel

        return kernel.log_prior(theta, prior)
    return reference.log_prior(theta, prior)


def prior_difference(
    theta: Tensor, new_theta: Tensor, prior: Sequence[Segment], *, impl: str | None = None
) -> Tensor:
    """log p(new_theta) - log p(theta) of the prior, float64 `(C,)`, from element-wise differences."""
    if _use_triton(theta, impl):
        from . import energy as kernel

        return kernel.prior_difference(theta, new_theta, prior)
    return reference.prior_difference(theta, new_theta, prior)


def energy_difference(
    theta: Tensor,
    momentum: Tensor,
    new_theta: Tensor,
    new_momentum: Tensor,
    prior: Sequence[Segment],
    inverse_temperature: float,
    *,
    inverse_mass: Tensor | None = None,
    impl: str | None = None,
) -> Tensor:
    """Kinetic and prior terms of H(new) - H(old), float64 `(C,)`, from element-wise differences."""
    if _use_triton(theta, impl):
        from . import energy as kernel

        return kernel.energy_difference(
            theta, momentum, new_theta, new_momentum, prior, inverse_temperature, inverse_mass=inverse_mass
        )
    return reference.energy_difference(
        theta, momentum, new_theta, new_momentum, prior, inverse_temperature, inverse_mass=inverse_mass
    )


def likelihood_difference(log_lik: Tensor, new_log_lik: Tensor, *, impl: str | None = None) -> Tensor:
    """log L(new) - log L(old), float64 `(C,)`, from per-example differences. `(C, N)` both."""
    if _use_triton(log_lik, impl):
        from . import energy as kernel

        return kernel.likelihood_difference(log_lik, new_log_lik)
    return reference.likelihood_difference(log_lik, new_log_lik)
