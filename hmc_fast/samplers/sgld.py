"""Stochastic-gradient Langevin dynamics (Welling & Teh 2011, eq. 4).

    for t = 1, 2, ...
        g     = gradient of log density over T, estimated on a minibatch (likelihood times N/B)
        theta = theta + eps/2 M^-1 g + sqrt(eps M^-1) xi,   xi ~ N(0, I)

    symbol   argument              symbol   argument
    eps      step_size             M^-1     inverse_mass

This is a kick from zero momentum followed by a drift of length 1, so it runs in the same fused kernel as SGHMC.
There is no Metropolis test: the stationary distribution is biased at order eps, and by the gradient noise, whose
variance enters each step scaled by eps^2/4.
"""

import torch
from torch import Tensor

from ..dynamics.coefficients import Coefficients
from ..dynamics.gradient_step import Graph
from ..dynamics.schedules import Schedule
from ..kernels import ops
from ..targets.base import Target
from .minibatch_chain import MinibatchChain, MinibatchSampler
from .protocol import Batch, Info

__all__ = ["SGLD"]


class SGLD(MinibatchSampler):
    """Stochastic-gradient Langevin dynamics.

    Args:
        step_size: eps, in units of theta *squared*: about the square of a leapfrog step size. It multiplies
            the gradient of a *sum* over the data: a learning rate on the mean loss is eps N / 2.
        batch_size: B; 0 or None for the full data (unadjusted Langevin).
        steps_per_iteration: steps per iteration; None: one epoch, ceil(N / B).
        schedule: None keeps eps constant; `PolynomialDecay` decreases it as in the paper, `CosineCyclical` in
            cycles whose exploration stage has no noise (cSGLD, Zhang et al. 2020, arXiv:1902.03932).
        inverse_mass: `(D,)` or `(C, D)`, a constant preconditioner; None for identity.

    Raises:
        UserError: a step size that is not positive, a negative batch size, or fewer than one step.
    """

    name = "sgld"
    has_momentum = False
    step_size_power = 2

    def __init__(
        self,
        step_size: float,
        *,
        batch_size: int | None = None,
        steps_per_iteration: int | None = None,
        schedule: Schedule | None = None,
        inverse_mass: Tensor | None = None,
    ) -> None:
        super().__init__(step_size, batch_size, steps_per_iteration, schedule)
        self.inverse_mass = inverse_mass

    def init(
        self, target: Target, theta: Tensor, *, seed: int = 0, graph: Graph = False, warm_up_iterations: int = 0
    ) -> MinibatchChain:
        """Starts at `theta (C, D)`."""
        return MinibatchChain(self, target, theta, seed, graph)

    def step(
        self, state: MinibatchChain, batch: Batch | None = None, *, warming_up: bool = False
    ) -> tuple[MinibatchChain, Info]:
        """`steps_per_iteration` steps, each on a new minibatch (or all on `batch`)."""
        return state, state.advance(batch)

    def coefficients(self, chain: MinibatchChain, eps: Tensor, explores: Tensor) -> Coefficients:
        return Coefficients(kick=eps / 2, drift=1.0, decay=0.0, noise=torch.where(explores, 0.0, eps).sqrt())

    def update(self, chain: MinibatchChain) -> None:
        ops.kick_drift(
            chain.theta,
            chain.momentum,
            chain.grad,
            chain.target.prior,
            chain.coefficients,
            inverse_mass=self.inverse_mass,
            noise=chain.noise(),
        )
