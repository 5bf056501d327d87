"""Leapfrog over the flat buffer: half kick, L times (drift, kick), the last kick halved.

One gradient per step: the gradient at the start is the one kept from the last accepted state, and the one
at the end is kept for the next trajectory. A kick and the drift after it are one launch.
"""

from torch import Tensor

from .kernels import ops
from .target import Target
from .unit import Graph, Unit

__all__ = ["Leapfrog", "leapfrog"]


class Leapfrog:
    """Trajectories of `theta, momentum (C, D)`, in place, in buffers that stay where they are.

    Args:
        grad: `(C, D)`, the log likelihood's gradient at theta; holds it at the new theta afterwards.
        log_lik: `(C, N)`, receives the log likelihood of each example at the new theta.
        hyper: `(C, 4)`, step size and inverse temperature of each chain.
        graph: see `unit.Unit`; what is captured is one leapfrog step.
    """

    def __init__(
        self,
        target: Target,
        theta: Tensor,
        momentum: Tensor,
        grad: Tensor,
        log_lik: Tensor,
        hyper: Tensor,
        *,
        inverse_mass: Tensor | None = None,
        graph: Graph = False,
    ) -> None:
        def half_kick_drift() -> None:
            ops.kick_drift(theta, momentum, grad, target.prior, hyper, fraction=0.5, inverse_mass=inverse_mass)

        def gradient() -> None:
            target.log_likelihood_and_grad(theta, grad, log_lik)

        def kick_drift() -> None:
            ops.kick_drift(theta, momentum, grad, target.prior, hyper, inverse_mass=inverse_mass)

        def half_kick() -> None:
            ops.kick(momentum, grad, theta, target.prior, hyper, fraction=0.5, inverse_mass=inverse_mass)

        buffers = (theta, momentum, grad, log_lik)
        self._begin = half_kick_drift
        self._step = Unit(target, gradient, kick_drift, buffers, count=target.num_data, graph=graph)
        self._last = Unit(target, gradient, half_kick, buffers, count=target.num_data, graph=graph)

    def run(self, num_leapfrog: int) -> None:
        """One trajectory of `num_leapfrog` steps."""
        self._begin()
        for _ in range(num_leapfrog - 1):
            self._step()
        self._last()


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
    """One trajectory in buffers of the caller's; see `Leapfrog`."""
    Leapfrog(target, theta, momentum, grad, log_lik, hyper, inverse_mass=inverse_mass).run(num_leapfrog)
