"""Symplectic, reversible trajectories over the flat buffer: kick, L times (drift, kick).

One gradient per step: the gradient at the start is the one kept from the last accepted state, and the one
at the end is kept for the next trajectory. A kick and the drift after it are one launch. Every drift is of
length eps, and the kicks' shares of eps are the integrator's `Coefficients`: an integrator of k stages per
step is k steps of eps here, so that integrators of one step size cost the same and are compared as they are.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from ..kernels import ops
from ..targets.base import Target
from .gradient_step import Graph, Unit

__all__ = ["INTEGRATORS", "Coefficients", "Leapfrog", "leapfrog", "steps_of"]


@dataclass(frozen=True)
class Coefficients:
    """The kicks of a palindromic kick-drift integrator, in units of the step size.

    `end` begins and ends a trajectory; `inner` repeats between the drifts. The last inner kick is two end
    kicks in one, and an inner cycle adds up to its length.
    """

    end: float
    inner: tuple[float, ...]


# McLachlan 1995 (SIAM J. Sci. Comput. 16, 151), the two-stage scheme of least leading error:
# kicks a, 1 - 2a, a with half drifts between, over a step of 2 eps.
_A = 0.1931833275037836
INTEGRATORS = {
    "leapfrog": Coefficients(0.5, (1.0,)),
    "two_stage": Coefficients(2 * _A, (2 * (1 - 2 * _A), 4 * _A)),
}


class Leapfrog:
    """Trajectories of `theta, momentum (C, D)`, in place, in buffers that stay where they are.

    Args:
        grad: `(C, D)`, the log likelihood's gradient at theta; holds it at the new theta afterwards.
        log_lik: `(C, N)`, receives the log likelihood of each example at the new theta.
        hyper: `(C, 4)`, step size and inverse temperature of each chain.
        coefficients: of `INTEGRATORS`.
        graph: see `gradient_step.Unit`; what is captured is one leapfrog step.
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
        coefficients: Coefficients = INTEGRATORS["leapfrog"],
        graph: Graph = False,
    ) -> None:
        end = coefficients.end

        def first_kick_drift() -> None:
            ops.kick_drift(theta, momentum, grad, target.prior, hyper, fraction=end, inverse_mass=inverse_mass)

        def gradient() -> None:
            target.log_likelihood_and_grad(theta, grad, log_lik)

        def kick_drift(fraction: float) -> None:
            ops.kick_drift(theta, momentum, grad, target.prior, hyper, fraction=fraction, inverse_mass=inverse_mass)

        def last_kick() -> None:
            ops.kick(momentum, grad, theta, target.prior, hyper, fraction=end, inverse_mass=inverse_mass)

        buffers = (theta, momentum, grad, log_lik)

        def unit(update: Callable[[], None]) -> Unit:
            return Unit(target, gradient, update, buffers, count=target.num_data, graph=graph)

        self._begin = first_kick_drift
        self._steps = [unit(partial(kick_drift, fraction)) for fraction in coefficients.inner]
        self._last = unit(last_kick)

    def run(self, num_leapfrog: int) -> None:
        """One trajectory of `num_leapfrog` steps, a multiple of the integrator's stages."""
        assert num_leapfrog % len(self._steps) == 0
        self._begin()
        for index in range(num_leapfrog - 1):
            self._steps[index % len(self._steps)]()
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


def steps_of(num_leapfrog: float, stages: int = 1) -> int:
    """The next whole number of steps that is a multiple of the integrator's stages, up to rounding: the margin
    keeps a quotient such as .3 / .1 = 2.9999999999999996 or 3.0000000000000004 at 3."""
    return max(1, math.ceil(num_leapfrog / stages * (1 - 1e-9))) * stages
