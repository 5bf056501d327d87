"""Isokinetic dynamics: a force only rotates the momentum, a unit vector (Robnik et al. 2023, arXiv:2212.08549).

    d theta/dt = u,    du/dt = (1 - u u^T) g / (D - 1),    g: gradient of log density over T

For a constant force the solution is closed-form, a rotation of u towards g:

    e = g/|g|,   delta = eps |g| / (D - 1)
    u <- (u + e (sinh delta + (e.u) (cosh delta - 1))) / (cosh delta + (e.u) sinh delta)

It changes volume, and the logarithm of that change takes the role of the kinetic energy:

    dK = (D - 1) log(cosh delta + (e.u) sinh delta)

The exact flow conserves U + K; these kicks and drifts conserve it up to terms in eps.
"""

import math

import torch
from torch import Tensor

from ..errors import UserError
from ..kernels import ops
from ..kernels.ops import Counter
from ..targets.base import Target

__all__ = ["check_dimension", "isokinetic_kick", "normalise", "random_direction", "scaled_force"]

_TINY = 1e-30


def check_dimension(target: Target) -> None:
    if target.num_params < 2:
        raise UserError(
            "microcanonical dynamics needs 2 parameters or more: one dimension has no direction to turn"
        )


def isokinetic_kick(u: Tensor, force: Tensor, step_size: Tensor) -> Tensor:
    """Rotates the unit vectors `u (C, D)` in place; returns dK, float64 `(C,)`.

    force: g `(C, D)`. step_size: `(C,)`. dK is infinite if the rotation is too strong to be reversible in the
    dtype.
    """
    degrees = u.shape[1] - 1
    norm = _length(force)
    direction = force / norm.clamp_min(_TINY).to(force.dtype)[:, None]
    cosine = (direction * u).double().sum(1)
    delta = step_size.double() * norm / degrees
    decay = torch.exp(-delta)
    along = (1 - decay) * (1 + cosine + decay * (1 - cosine))
    turned = u * (2 * decay).to(u.dtype)[:, None] + direction * along.to(u.dtype)[:, None]
    length = _length(turned).to(u.dtype)[:, None]
    u.copy_(torch.where(length > _TINY, turned / length, u))
    total = torch.log((1 + cosine).clamp_min(0) + (1 - cosine) * decay**2)
    return torch.where(delta < _strongest(u.dtype), degrees * (delta - math.log(2) + total), torch.inf)


def _strongest(dtype: torch.dtype) -> float:
    """The delta past which the rotation cannot be reversed: the remainder of u, exp(-2 delta), is rounded away in
    1 + e.u.

    Without this limit, so long a step would appear to conserve energy and be accepted at any distance.
    """
    return -0.5 * math.log(torch.finfo(dtype).eps)


def normalise(u: Tensor) -> None:
    u.div_(_length(u).clamp_min(_TINY).to(u.dtype)[:, None])


def random_direction(out: Tensor, counter: Counter) -> None:
    """Uniform on the sphere."""
    ops.refresh_momentum(out, counter)
    normalise(out)


def scaled_force(target: Target, theta: Tensor, grad: Tensor, inverse_mass: Tensor | None, out: Tensor) -> None:
    """Writes the gradient of log density over T in the coordinates M^(1/2) theta, where the metric is the identity.

    grad: `(C, D)`, gradient of the log likelihood at `theta (C, D)`. inverse_mass: `(D,)`, `(1, D)` or `(C, D)`.
    """
    target.force(theta, grad, out)
    if inverse_mass is not None:
        out.mul_(inverse_mass.sqrt())


def _length(vector: Tensor) -> Tensor:
    return vector.double().square().sum(1).sqrt()
