"""Generalised HMC: the momentum is refreshed in part (Horowitz 1991; Neal 2011, arXiv:1206.1901, section 5.5.3).

    repeat
        m = c m + sqrt(1 - c^2) xi,   c = exp(-gamma eps L),   xi ~ N(0, M)
        (theta', m') = leapfrog(theta, m; step size eps, L steps)
        dH = H(theta', m') - H(theta, m)
        with probability min(1, exp(-dH)):  theta = theta',  m = m'
        else:                               m = -m

    symbol   argument                symbol   argument
    eps      step_size               L        num_leapfrog
    gamma    friction                delta    acceptance_drift
    M^-1     inverse_mass

With L = 1 this is underdamped Langevin dynamics (OBABO) with an exact test. A rejection turns the chain round, so
what HMC does by long trajectories needs a high acceptance rate here. `acceptance_drift` helps (Neal 2020,
arXiv:2001.11950): in place of fresh uniforms one variable v in (-1, 1) drifts by delta per iteration, accepts where
|v| < exp(-dH) and is then divided by exp(-dH), so that rejections come in clusters with long runs between.
"""

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from ..compute.random_streams import ACCEPT, MOMENTUM
from ..dynamics.gradient_step import Graph
from ..dynamics.integrators import Leapfrog
from ..dynamics.metropolis import metropolis_test
from ..errors import UserError
from ..kernels import ops
from ..kernels.ops import Counter
from ..targets.base import Target, positive
from .metropolised import Metropolised, MetropolisedState

__all__ = ["GHMC", "GHMCState"]


@dataclass(kw_only=True)
class GHMCState(MetropolisedState):
    """C chains. `step` mutates every tensor here, in place."""

    momentum: "Tensor | None" = None  # (C, D) kept from iteration to iteration
    acceptance_variable: "Tensor | None" = None  # (C,) float64, v
    leapfrog: "Leapfrog | None" = None  # on the work buffers


class GHMC(Metropolised[GHMCState]):
    """Generalised HMC with an exact Metropolis-Hastings test.

    Args:
        step_size: eps, in units of theta.
        friction: gamma, 1 / time: the share exp(-gamma eps L) of the momentum lives on.
        num_leapfrog: L.
        acceptance_drift: delta in (0, 2), the drift of the acceptance variable; None draws it afresh every time.
        inverse_mass: `(D,)` or `(C, D)`, None for identity.

    Raises:
        UserError: a step size or friction that is not positive, no leapfrog step, or a drift outside (0, 2).
    """

    name = "ghmc"
    State = GHMCState

    def __init__(
        self,
        step_size: float,
        *,
        friction: float,
        num_leapfrog: int = 1,
        acceptance_drift: float | None = None,
        inverse_mass: Tensor | None = None,
    ) -> None:
        self.step_size, self.friction = positive("step size", step_size), positive("friction", friction)
        if num_leapfrog < 1:
            raise UserError(f"number of leapfrog steps {num_leapfrog} must be at least 1")
        if acceptance_drift is not None and not 0 < acceptance_drift < 2:
            raise UserError(f"acceptance drift {acceptance_drift} must lie between 0 and 2, or be None")
        self.num_leapfrog, self.acceptance_drift, self.inverse_mass = num_leapfrog, acceptance_drift, inverse_mass

    def _first_step_size(self) -> float:
        return self.step_size

    def gradients_per_iteration(self, target: Target) -> int:
        return self.num_leapfrog

    def _prepare(self, state: GHMCState, graph: Graph, warm_up_iterations: int) -> None:
        momentum, num_chains = torch.empty_like(state.theta), len(state.theta)
        # no iteration has the counter -1
        ops.refresh_momentum(
            momentum, Counter(state.seed, MOMENTUM, state.iteration - 1), inverse_mass=self.inverse_mass
        )
        uniform = ops.uniforms(Counter(state.seed, ACCEPT, state.iteration - 1), num_chains, 1)[:, 0]
        state.momentum, state.acceptance_variable = momentum, 2 * uniform.double() - 1
        state.leapfrog = Leapfrog(
            state.target,
            state.work_theta,
            state.work_new_momentum,
            state.work_grad,
            state.work_log_lik,
            state.hyper,
            inverse_mass=self.inverse_mass,
            graph=graph,
        )

    def _begin(self, state: GHMCState) -> None:
        """Part of the momentum anew, and the trajectory's start."""
        counter, share = Counter(state.seed, MOMENTUM, state.iteration), self._share
        ops.refresh_momentum(state.work_momentum, counter, inverse_mass=self.inverse_mass)
        state.work_momentum.mul_(math.sqrt(1 - share**2)).add_(cast(Tensor, state.momentum), alpha=share)
        state.work_kinetic.copy_(ops.kinetic_energy(state.work_momentum, inverse_mass=self.inverse_mass))
        self._start(state)

    def _trajectory(self, state: GHMCState, num_leapfrog: int) -> None:
        cast(Leapfrog, state.leapfrog).run(num_leapfrog)

    def _decide(self, state: GHMCState, energy_error: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.acceptance_drift is None:
            return super()._decide(state, energy_error)
        variable = cast(Tensor, state.acceptance_variable)
        variable.copy_(torch.remainder(variable + 1 + self.acceptance_drift, 2) - 1)
        accepted, accept_prob, divergent = metropolis_test(energy_error, variable.abs(), "density_ratio")
        # a drop in energy accepts for sure and shrinks the variable: the ratio itself, not its minimum with 1
        ratio = torch.exp(-torch.where(accepted, energy_error, 0.0))
        variable.copy_(torch.where(accepted, variable / ratio, variable))
        return accepted, accept_prob, divergent

    def _accept(self, state: GHMCState, accepted: Tensor) -> None:
        super()._accept(state, accepted)
        cast(Tensor, state.momentum).copy_(
            torch.where(accepted[:, None], state.work_new_momentum, -state.work_momentum)
        )

    @property
    def _share(self) -> float:
        """Of the momentum that lives through an iteration: c."""
        return math.exp(-self.friction * self.step_size * self.num_leapfrog)
