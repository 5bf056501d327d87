"""Stochastic-gradient Nose-Hoover thermostat (Ding et al. 2014, "Bayesian sampling using stochastic gradient
thermostats", algorithm 2).

    m ~ N(0, M),  xi = A
    for t = 1, 2, ...
        g     = gradient of log density over T, estimated on a minibatch (likelihood times N/B)
        m     = (1 - eps xi) m + eps g + sqrt(2 eps A M) z,   z ~ N(0, I)
        theta = theta + eps M^-1 m
        xi    = xi + eps (m^T M^-1 m / D - 1)

    symbol   argument              symbol   argument
    eps      step_size (h)         xi       the thermostat, one per chain, in the state
    A        friction              M^-1     inverse_mass

This is SGHMC with a friction that adapts to the gradient noise: while the kinetic energy is too high, xi grows. The
mean of m^T M^-1 m / D is thus 1 whatever the variance of the gradient noise, provided that it is the same in all
coordinates. There is no Metropolis test: the stationary distribution is biased at order eps.
"""

import torch
from torch import Tensor

from ..dynamics.coefficients import Coefficients
from ..dynamics.gradient_step import Graph
from ..kernels import ops
from ..targets.base import Target
from .minibatch_chain import MinibatchChain, MinibatchSampler, check_friction
from .protocol import Batch, Info

__all__ = ["SGNHT", "SGNHTState"]


class SGNHTState(MinibatchChain):
    """C chains, each with its own `thermostat (C,)` float64, xi."""

    def __init__(self, sampler: "SGNHT", target: Target, theta: Tensor, seed: int, graph: Graph) -> None:
        self.thermostat = torch.full_like(theta[:, 0], sampler.friction, dtype=torch.float64)
        super().__init__(sampler, target, theta, seed, graph)


class SGNHT(MinibatchSampler):
    """Stochastic-gradient Nose-Hoover thermostat.

    Args:
        step_size: eps, in units of theta.
        friction: A, 1 / time; sets the injected noise and the thermostat's initial value.
        batch_size: B; 0 or None for the full data.
        steps_per_iteration: steps per iteration; None: one epoch, ceil(N / B).
        inverse_mass: `(D,)` or `(C, D)`, None for identity.

    Raises:
        UserError: a step size or friction that is not positive, a product of the two of 1 or more, a negative
            batch size, or fewer than one step.
    """

    name = "sgnht"

    def __init__(
        self,
        step_size: float,
        *,
        friction: float,
        batch_size: int | None = None,
        steps_per_iteration: int | None = None,
        inverse_mass: Tensor | None = None,
    ) -> None:
        check_friction(step_size, friction)
        super().__init__(step_size, batch_size, steps_per_iteration)
        self.friction, self.inverse_mass = friction, inverse_mass

    def init(
        self, target: Target, theta: Tensor, *, seed: int = 0, graph: Graph = False, warm_up_iterations: int = 0
    ) -> SGNHTState:
        """Starts at `theta (C, D)`."""
        return SGNHTState(self, target, theta, seed, graph)

    def step(
        self, state: SGNHTState, batch: Batch | None = None, *, warming_up: bool = False
    ) -> tuple[SGNHTState, Info]:
        """`steps_per_iteration` steps, each on a new minibatch (or all on `batch`)."""
        if state.steps.count == 0:
            state.refresh_momentum()
        return state, state.advance(batch)

    def coefficients(self, chain: SGNHTState, eps: Tensor, explores: Tensor) -> Coefficients:
        noise = (2 * eps * self.friction).sqrt()
        return Coefficients(kick=eps, drift=eps, decay=1 - eps * chain.thermostat, noise=noise)

    def update(self, chain: SGNHTState) -> None:
        ops.kick_drift(
            chain.theta,
            chain.momentum,
            chain.grad,
            chain.target.prior,
            chain.coefficients,
            inverse_mass=self.inverse_mass,
            noise=chain.noise(),
        )
        kinetic_energy = ops.kinetic_energy(chain.momentum, inverse_mass=self.inverse_mass)
        heat = 2 * kinetic_energy / chain.target.num_params - 1
        chain.thermostat.addcmul_(chain.step_size, heat)
        chain.set_coefficients()
