"""Underdamped Langevin dynamics by splitting (Leimkuhler & Matthews 2013, arXiv:1203.5428): BAOAB and OBABO.

    A(h)   theta = theta + h M^-1 m
    B(h)   m     = m + h g,   g = gradient of log density over T, on the full data or a minibatch
    O(h)   m     = c m + sqrt((1 - c^2) M) xi,   c = exp(-gamma h),   xi ~ N(0, I)

    baoab:  B(eps/2) A(eps/2) O(eps) A(eps/2) B(eps/2)      obabo:  O(eps/2) B(eps/2) A(eps) B(eps/2) O(eps/2)

    symbol   argument              symbol   argument
    eps      step_size             gamma    friction
    M^-1     inverse_mass

A step needs one gradient, since that at its end is that at the start of the next; so steps are cut where the
gradient is taken. What comes between two gradients is B(eps) A(eps/2) O(eps) A(eps/2), or, as two half O make one,
B(eps/2) O(eps) B(eps/2) A(eps); theta runs through the very same values. The momentum is the one at that cut.

For a Gaussian target and full gradients the theta of BAOAB has exactly the target's covariance, at any stable step
size; OBABO is biased at order eps^2. There is no Metropolis test here: with L = 1 GHMC (Horowitz 1991) is
Metropolised OBABO.
"""

from typing import Literal

import torch
from torch import Tensor

from ..compute.random_streams import NOISE
from ..dynamics.schedules import Schedule
from ..errors import UserError
from ..kernels import ops
from ..kernels.ops import Counter
from ..targets.base import positive
from .stochastic import StochasticGradient, StochasticState

__all__ = ["UnderdampedLangevin"]


class UnderdampedLangevin(StochasticGradient[StochasticState]):
    """Underdamped Langevin dynamics.

    Args:
        step_size: eps, in units of theta.
        friction: gamma, 1 / time; any positive value is stable.
        scheme: "baoab" or "obabo".
        batch_size: B; 0 or None for the full data.
        steps_per_iteration: steps per iteration; None: one epoch, ceil(N / B).
        schedule: None keeps eps constant; the noise is off while a `CosineCyclical` explores.
        inverse_mass: `(D,)` or `(C, D)`, None for identity.

    Raises:
        UserError: a step size or friction that is not positive, an unknown scheme, a negative batch size, or
            no step.
    """

    def __init__(
        self,
        step_size: float,
        *,
        friction: float,
        scheme: Literal["baoab", "obabo"] = "baoab",
        batch_size: int | None = None,
        steps_per_iteration: int | None = None,
        schedule: Schedule | None = None,
        inverse_mass: Tensor | None = None,
    ) -> None:
        if scheme not in ("baoab", "obabo"):
            raise UserError(f"scheme {scheme!r} is unknown: use 'baoab' or 'obabo'")
        super().__init__(step_size, batch_size, steps_per_iteration, schedule)
        self.friction, self.inverse_mass = positive("friction", friction), inverse_mass
        self.scheme = self.name = scheme
        # BAOAB drifts by halves, and a kernel drifts by the step size it reads.
        self._drift = 0.5 if scheme == "baoab" else 1.0

    def _begin_iteration(self, state: StochasticState, iteration: int, *, warming_up: bool) -> None:
        if iteration == 0:
            self._refresh_momentum(state, self.inverse_mass)

    def _columns(
        self, state: StochasticState, step_size: Tensor, explores: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        # O in the kernel's terms: a share 1 - h friction is kept, and the noise has variance 2 h (friction - B)
        h = step_size * self._drift
        friction = -torch.expm1(-self.friction * step_size) / h
        excess = -torch.expm1(-2 * self.friction * step_size) / (2 * h)
        return h, friction, torch.where(explores, friction, friction - excess)

    def _update(self, state: StochasticState) -> None:
        theta, momentum, grad, inverse_mass = state.theta, state.momentum, state.work_grad, self.inverse_mass
        prior, hyper = state.target.prior, state.hyper
        noise = Counter(state.seed, NOISE, state.counter)
        if self.scheme == "baoab":
            ops.kick_drift(theta, momentum, grad, prior, hyper, fraction=2.0, inverse_mass=inverse_mass)  # B A
            ops.kick_drift(
                theta, momentum, grad, prior, hyper, fraction=0.0, inverse_mass=inverse_mass, noise=noise
            )  # O A
        else:
            ops.kick(momentum, grad, theta, prior, hyper, fraction=0.5, inverse_mass=inverse_mass)  # B
            ops.kick_drift(
                theta, momentum, grad, prior, hyper, fraction=0.5, inverse_mass=inverse_mass, noise=noise
            )  # O B A

    def _kinetic_energy(self, state: StochasticState) -> Tensor:
        return ops.kinetic_energy(state.momentum, inverse_mass=self.inverse_mass)

    def _reported(self, step_size: Tensor) -> Tensor:
        return step_size / self._drift
