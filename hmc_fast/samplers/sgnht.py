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

SGHMC with a friction that learns how much noise the minibatches add: while the momentum is hotter than it should be
xi grows, so the mean of m^T M^-1 m / D is 1 whatever the variance of the gradient, as long as that is alike in all
coordinates. There is no Metropolis test: the law is biased at order eps.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..compute.random_streams import NOISE
from ..kernels import ops
from ..kernels.ops import Counter
from .stochastic import StochasticGradient, StochasticState, check_friction

__all__ = ["SGNHT", "SGNHTState"]


@dataclass(kw_only=True)
class SGNHTState(StochasticState):
    """C chains, each with its own thermostat."""

    thermostat: Tensor  # (C,) float64 xi


class SGNHT(StochasticGradient[SGNHTState]):
    """Stochastic-gradient Nose-Hoover thermostat.

    Args:
        step_size: eps, in units of theta.
        friction: A, 1 / time: the noise that is injected, and where the thermostat begins.
        batch_size: B; 0 or None for the full data.
        steps_per_iteration: steps per iteration; None: one epoch, ceil(N / B).
        inverse_mass: `(D,)` or `(C, D)`, None for identity.

    Raises:
        UserError: a step size or friction that is not positive, a product of the two of 1 or more, a negative
            batch size, or no step.
    """

    name = "sgnht"
    State = SGNHTState

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

    def _own_tensors(self, theta: Tensor) -> dict[str, Tensor]:
        return {"thermostat": torch.full_like(theta[:, 0], self.friction, dtype=torch.float64)}

    def _begin_iteration(self, state: SGNHTState, iteration: int, *, warming_up: bool) -> None:
        if iteration == 0:
            self._refresh_momentum(state, self.inverse_mass)

    def _columns(self, state: SGNHTState, step_size: Tensor, explores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # the kernel's noise is that of friction less noise estimate: A, whatever the thermostat says
        return step_size, state.thermostat, state.thermostat - self.friction

    def _update(self, state: SGNHTState) -> None:
        ops.kick_drift(
            state.theta,
            state.momentum,
            state.work_grad,
            state.target.prior,
            state.hyper,
            inverse_mass=self.inverse_mass,
            noise=Counter(state.seed, NOISE, state.counter),
        )
        heat = 2 * self._kinetic_energy(state) / state.target.num_params - 1
        state.thermostat.addcmul_(state.hyper[:, ops.STEP_SIZE].double(), heat)
        self._set_hyper(state)

    def _kinetic_energy(self, state: SGNHTState) -> Tensor:
        return ops.kinetic_energy(state.momentum, inverse_mass=self.inverse_mass)
