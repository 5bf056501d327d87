"""Stochastic-gradient Hamiltonian Monte Carlo (Chen, Fox & Guestrin 2014, arXiv:1402.4102, algorithm 2).

    for t = 1, 2, ...
        every refresh_interval iterations:  m ~ N(0, M)
        for i = 1 .. steps_per_iteration
            g     = gradient of log density over T, estimated on a minibatch (likelihood times N/B)
            m     = (1 - eps gamma) m + eps g + sqrt(2 eps (gamma - B) M) xi,   xi ~ N(0, I)
            theta = theta + eps M^-1 m

    symbol   argument              symbol   argument
    eps      step_size             gamma    friction (C M^-1 in the paper), 1 / time
    B        noise_estimate        M^-1     inverse_mass

In optimiser terms, the learning rate is eps^2 (on the *sum* over the data) and the momentum 1 - eps gamma. There is
no Metropolis test: the stationary distribution is biased at order eps, and by any gradient noise B does not cover.
"""

import torch
from torch import Tensor

from ..dynamics.coefficients import Coefficients
from ..dynamics.gradient_step import Graph
from ..dynamics.schedules import Schedule
from ..errors import UserError
from ..kernels import ops
from ..targets.base import Target
from .minibatch_chain import MinibatchChain, MinibatchSampler, check_friction
from .protocol import Batch, Info

__all__ = ["SGHMC"]


class SGHMC(MinibatchSampler):
    """Stochastic-gradient HMC with friction.

    Args:
        step_size: eps, in units of theta.
        friction: gamma; each step multiplies the momentum by 1 - eps * gamma.
        batch_size: B; 0 or None for the full data (underdamped Langevin dynamics).
        steps_per_iteration: steps per iteration; None: one epoch, ceil(N / B).
        noise_estimate: B of the paper, the part of the friction already balanced by gradient noise.
        refresh_interval: iterations between fresh momenta; 0 never refreshes after the start.
        schedule: None keeps eps constant; `CosineCyclical` anneals it in cycles (cSGHMC), `PolynomialDecay`
            once.
        inverse_mass: `(D,)` or `(C, D)`, None for identity.

    Raises:
        UserError: a step size or friction that is not positive, a product of the two of 1 or more, a noise
            estimate outside [0, friction], or a negative batch size or interval.
    """

    name = "sghmc"

    def __init__(
        self,
        step_size: float,
        *,
        friction: float,
        batch_size: int | None = None,
        steps_per_iteration: int | None = None,
        noise_estimate: float = 0.0,
        refresh_interval: int = 0,
        schedule: Schedule | None = None,
        inverse_mass: Tensor | None = None,
    ) -> None:
        check_friction(step_size, friction)
        if not 0 <= noise_estimate <= friction:
            raise UserError(f"noise estimate {noise_estimate} must lie between 0 and the friction {friction}")
        super().__init__(step_size, batch_size, steps_per_iteration, schedule)
        if refresh_interval < 0:
            raise UserError(f"refresh interval {refresh_interval} must be 0 (never) or positive")
        self.friction, self.noise_estimate = friction, noise_estimate
        self.refresh_interval, self.inverse_mass = refresh_interval, inverse_mass

    def init(
        self, target: Target, theta: Tensor, *, seed: int = 0, graph: Graph = False, warm_up_iterations: int = 0
    ) -> MinibatchChain:
        """Starts at `theta (C, D)`."""
        return MinibatchChain(self, target, theta, seed, graph)

    def step(
        self, state: MinibatchChain, batch: Batch | None = None, *, warming_up: bool = False
    ) -> tuple[MinibatchChain, Info]:
        """`steps_per_iteration` steps, each on a new minibatch (or all on `batch`)."""
        iteration = state.steps.count // self.gradients_per_iteration(state.target)
        if iteration == 0 or (self.refresh_interval and iteration % self.refresh_interval == 0):
            state.refresh_momentum()
        return state, state.advance(batch)

    def coefficients(self, chain: MinibatchChain, eps: Tensor, explores: Tensor) -> Coefficients:
        variance = torch.where(explores, 0.0, 2 * eps * (self.friction - self.noise_estimate))
        return Coefficients(kick=eps, drift=eps, decay=1 - eps * self.friction, noise=variance.sqrt())

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
