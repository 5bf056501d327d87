"""Leapfrog over the flat buffer: half kick, L times (drift, kick), the last kick halved.

One gradient per step: the gradient at the start is the one kept from the last accepted state, and the one
at the end is kept for the next trajectory. A kick and the drift after it are one launch.
"""

from torch import Tensor

from .kernels import ops
from .target import Target

__all__ = ["leapfrog"]


def leapfrog(
    target: Target,
    theta: Tensor,
    momentum: Tensor,
    grad: Tensor,
    log_lik: Tensor,
    hyper: Tensor,
    num_leapfrog: int,
    *,
    inverse_mass: Tensor | None = None,
) -> None:
    """Moves `theta, momentum (C, D)` along a trajectory of `num_leapfrog` steps, in place.

    Args:
        grad: `(C, D)`, the log likelihood's gradient at theta; holds it at the new theta afterwards.
        log_lik: `(C, N)`, receives the log likelihood of each example at the new theta.
        hyper: `(C, 4)`, step size and inverse temperature of each chain.
    """
    ops.kick_drift(theta, momentum, grad, target.prior, hyper, fraction=0.5, inverse_mass=inverse_mass)
    for _ in range(num_leapfrog - 1):
        target.log_likelihood_and_grad(theta, grad, log_lik)
        ops.kick_drift(theta, momentum, grad, target.prior, hyper, inverse_mass=inverse_mass)
    target.log_likelihood_and_grad(theta, grad, log_lik)
    ops.kick(momentum, grad, theta, target.prior, hyper, fraction=0.5, inverse_mass=inverse_mass)
