"""Underdamped Langevin dynamics by splitting (Leimkuhler & Matthews 2013, arXiv:1203.5428): BAOAB and OBABO.

    A(h)   theta = theta + h M^-1 m
    B(h)   m     = m + h g,   g = gradient of log density over T, on the full data or a minibatch
    O(h)   m     = c m + sqrt((1 - c^2) M) xi,   c = exp(-gamma h),   xi ~ N(0, I)

    baoab:  B(eps/2) A(eps/2) O(eps) A(eps/2) B(eps/2)      obabo:  O(eps/2) B(eps/2) A(eps) B(eps/2) O(eps/2)

    symbol   argument              symbol   argument
    eps      step_size             gamma    friction
    M^-1     inverse_mass

A step needs one gradient, because the gradient at its end is also the one at the start of the next step. We
therefore cut the sequence at the gradients. Between two of them it reads B(eps) A(eps/2) O(eps) A(eps/2) for BAOAB
and, with two half O steps merged, B(eps/2) O(eps) B(eps/2) A(eps) for OBABO; theta takes exactly the same values.
The reported momentum is the one at the cut.

For a Gaussian target and full-data gradients, BAOAB samples theta with exactly the target's covariance at any
stable step size; OBABO is biased at order eps^2. There is no Metropolis test: GHMC (Horowitz 1991) with L = 1 is
OBABO with one.
"""

from typing import Literal

import torch
from torch import Tensor

from ..arguments import positive
from ..dynamics.coefficients import Coefficients
from ..dynamics.gradient_step import Graph
from ..dynamics.schedules import Schedule
from ..errors import UserError
from ..kernels import ops
from ..targets.base import Target
from .minibatch_chain import MinibatchChain, MinibatchSampler
from .protocol import Batch, Info

__all__ = ["UnderdampedLangevin"]


class UnderdampedLangevin(MinibatchSampler):
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
            fewer than one step.
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

    @property
    def bias_order(self) -> int:
        return 1 if self.batch_size else 2

    def init(
        self, target: Target, theta: Tensor, *, seed: int = 0, graph: Graph = False, warm_up_iterations: int = 0
    ) -> MinibatchChain:
        """Starts at `theta (C, D)`."""
        return MinibatchChain(self, target, theta, seed, graph)

    def step(
        self, state: MinibatchChain, batch: Batch | None = None, *, warming_up: bool = False
    ) -> tuple[MinibatchChain, Info]:
        """`steps_per_iteration` steps, each on a new minibatch (or all on `batch`)."""
        if state.steps.count == 0:
            state.refresh_momentum()
        return state, state.advance(batch)

    def coefficients(self, chain: MinibatchChain, eps: Tensor, explores: Tensor) -> Coefficients:
        decay = torch.exp(-self.friction * eps)
        noise = torch.where(explores, 0.0, -torch.expm1(-2 * self.friction * eps)).sqrt()  # sqrt(1 - c^2)
        return Coefficients(kick=eps, drift=eps / 2 if self.scheme == "baoab" else eps, decay=decay, noise=noise)

    def update(self, chain: MinibatchChain) -> None:
        theta, momentum, grad, inverse_mass = chain.theta, chain.momentum, chain.grad, self.inverse_mass
        prior, c, noise = chain.target.prior, chain.coefficients, chain.noise()
        if self.scheme == "baoab":
            ops.kick_drift(theta, momentum, grad, prior, c, inverse_mass=inverse_mass)  # B A
            ops.kick_drift(  # O A
                theta, momentum, grad, prior, c, fraction=0.0, inverse_mass=inverse_mass, noise=noise
            )
        else:
            ops.kick(momentum, grad, theta, prior, c, fraction=0.5)  # B
            ops.kick_drift(  # O B A
                theta, momentum, grad, prior, c, fraction=0.5, inverse_mass=inverse_mass, noise=noise
            )
