"""What samplers with a test and trajectories of many steps share: lengths, jitter, and learning in burn-in.

`adaptation/warm_up.py` says what is learned; here step size and trajectory length are read back, once per iteration
of burn-in and never after it.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar, cast

import torch
from torch import Tensor

from ..adaptation import WarmUp, find_step_size, mean_over_groups
from ..compute.random_streams import JITTER, host_uniform
from ..dynamics.gradient_step import Graph
from ..dynamics.integrators import INTEGRATORS, steps_of
from ..dynamics.metropolis import Acceptance, check_acceptance
from ..errors import UserError
from ..kernels import ops
from ..targets.base import Target, positive
from .metropolised import Metropolised, MetropolisedState

__all__ = ["Adapting", "AdaptingState"]

_MAX_LEAPFROG = 1024  # of one adapted trajectory, as many as Stan's deepest tree
# Before the first metric is learned, and four times as many per window from there on: lengths that follow from a
# poor metric waste gradients (a regression on a raw predictor took 700 steps in its second window).
_EARLY_LEAPFROG = 64
_GUESSED_LEAPFROG = 20


@dataclass(kw_only=True)
class AdaptingState(MetropolisedState):
    """C chains. `step` mutates every tensor here, in place."""

    host_num_leapfrog: int = 0  # L before jitter
    warm_up: "WarmUp | None" = None
    dual_averaging: "Tensor | None" = None  # the tensors of warm_up, see there
    draw_moments: "Tensor | None" = None
    gradient_moments: "Tensor | None" = None
    principal: "Tensor | None" = None
    trajectory_length: "Tensor | None" = None


S = TypeVar("S", bound=AdaptingState)


class Adapting(Metropolised[S], Generic[S]):
    """A sampler of trajectories whose step size, metric and length are given or learned; arguments as for `HMC`."""

    def __init__(
        self,
        step_size: float | None = None,
        *,
        trajectory_length: float | None = None,
        num_leapfrog: int | None = None,
        adapt: bool = False,
        target_acceptance: float = 0.8,
        pool: bool = True,
        integrator: str = "leapfrog",
        jitter: float | None = None,
        acceptance: Acceptance = "log_ratio",
        test_in_burn_in: bool = True,
        inverse_mass: Tensor | None = None,
    ) -> None:
        if step_size is None and not adapt:
            raise UserError(f"{type(self).__name__} needs a step size, or adapt=True to learn one during burn-in")
        if step_size is not None:
            positive("step size", step_size)
        given = (trajectory_length is not None) + (num_leapfrog is not None)
        if given == 2 or (given == 0 and not adapt):
            raise UserError(f"{type(self).__name__} needs either trajectory_length or num_leapfrog, and not both")
        if trajectory_length is not None:
            positive("trajectory length", trajectory_length)
        if num_leapfrog is not None and num_leapfrog < 1:
            raise UserError(f"number of leapfrog steps {num_leapfrog} must be at least 1")
        if not 0 < target_acceptance < 1:
            raise UserError(f"target acceptance {target_acceptance} must lie between 0 and 1")
        if integrator not in INTEGRATORS:
            raise UserError(f"integrator {integrator!r} is unknown: use one of {', '.join(INTEGRATORS)}")
        jitter = (0.5 if adapt else 0.0) if jitter is None else jitter
        if not 0 <= jitter < 1:
            raise UserError(f"jitter {jitter} must lie in [0, 1)")
        self.step_size, self.trajectory_length, self.jitter = step_size, trajectory_length, jitter
        self.acceptance, self.test_in_burn_in = check_acceptance(acceptance), test_in_burn_in
        self.inverse_mass, self.integrator = inverse_mass, integrator
        self.adapt, self.target_acceptance, self.pool = adapt, target_acceptance, pool
        self._stages = len(INTEGRATORS[integrator].inner)
        self.num_leapfrog = num_leapfrog if num_leapfrog is None else steps_of(num_leapfrog, self._stages)
        if trajectory_length is not None and step_size is not None:
            self.num_leapfrog = steps_of(trajectory_length / step_size, self._stages)

    def _first_step_size(self) -> float:
        return self.step_size or 1.0

    def _prepare(self, state: S, graph: Graph, warm_up_iterations: int) -> None:
        state.host_num_leapfrog = self.num_leapfrog or self._stages
        if self.adapt:
            self._prepare_warm_up(state, warm_up_iterations)

    def init(
        self, target: Target, theta: Tensor, *, seed: int = 0, graph: Graph = False, warm_up_iterations: int = 0
    ) -> S:
        """Evaluates the target once at `theta (C, D)`; with adapt a few times more, for a first step size."""
        if self.adapt and warm_up_iterations < 1:
            raise UserError("adapt=True learns during burn-in: give burn_in iterations, 600 for example")
        state = super().init(target, theta, seed=seed, graph=graph, warm_up_iterations=warm_up_iterations)
        if state.warm_up is not None:
            if self.inverse_mass is None:
                state.warm_up.first_metric(state.theta, self._force(state))
            self._search_step_size(state, state.warm_up, 0)
        return state

    def _unit_of_length(self, state: S) -> float:
        """What the dynamics travels while HMC, at unit mass and scale, travels 1."""
        return 1.0

    def _num_leapfrog(self, state: S) -> int:
        """With jitter."""
        if self.jitter == 0:
            return state.host_num_leapfrog
        uniform = host_uniform(state.seed, JITTER, state.host_iteration)
        stages = state.host_num_leapfrog / self._stages * (1 + self.jitter * (2 * uniform - 1))
        return max(1, round(stages)) * self._stages

    def gradients_per_iteration(self, target: Target) -> int:
        """`num_leapfrog`; a guess where it is yet to be learned."""
        return self.num_leapfrog or _GUESSED_LEAPFROG

    # --- adaptation: reads step size and trajectory length back once per burn-in iteration, never after it ---

    def _prepare_warm_up(self, state: S, warm_up_iterations: int) -> None:
        theta = state.theta
        metric = theta.new_ones(1 if self.pool else len(theta), theta.shape[1])
        if self.inverse_mass is not None:
            metric.copy_(self.inverse_mass)
        state.warm_up = WarmUp(metric, len(theta), warm_up_iterations, self.target_acceptance)
        state.inverse_mass = metric[0] if self.pool else metric
        for name, tensor in state.warm_up.tensors.items():
            setattr(state, name, tensor)

    def _learn(self, state: S, accept_prob: Tensor) -> None:
        """One lesson of burn-in, and after the last one what was learned is fixed."""
        iteration, warm_up = state.host_iteration, state.warm_up
        if warm_up is None:
            return
        if warm_up.learn(iteration, state.theta, self._force(state), accept_prob):
            self._search_step_size(state, warm_up, iteration + 1)
            return
        last = iteration + 1 >= warm_up.warm_up_iterations
        dual = warm_up.dual_averaging
        self._set_step_size(state, warm_up, dual.averaged if last else dual.step_size)

    def _search_step_size(self, state: S, warm_up: WarmUp, iteration: int) -> None:
        groups = warm_up.step_size_groups(iteration)

        def accept_prob(step_size: Tensor) -> Tensor:
            state.hyper[:, ops.STEP_SIZE] = step_size
            self._propose(state, self._stages)
            probability = torch.exp(-self._energy_error(state).clamp_min(0))
            return mean_over_groups(torch.nan_to_num(probability, nan=0.0), groups)

        begin = mean_over_groups(state.hyper[:, ops.STEP_SIZE].double().log(), groups).exp()
        step_size = find_step_size(accept_prob, begin)
        warm_up.dual_averaging.restart(step_size)
        self._set_step_size(state, warm_up, step_size)

    def _set_step_size(self, state: S, warm_up: WarmUp, step_size: Tensor) -> None:
        """Of every chain, `(C,)`; also the number of steps that goes with it, unless the user gave one."""
        state.hyper[:, ops.STEP_SIZE] = step_size.to(state.hyper.dtype)
        if self.num_leapfrog is not None and self.trajectory_length is None:
            return
        length = self.trajectory_length or self._unit_of_length(state) * float(warm_up.trajectory_length)
        closed = sum(end <= state.host_iteration for end in warm_up.windows.ends)
        # Early on the slowest chain decides: it may have the longest way to go
        typical = float(step_size.min() if closed == 0 else step_size.log().mean().exp())
        num_leapfrog = steps_of(length / typical, self._stages)
        learned = closed == len(warm_up.windows.ends)
        most = _MAX_LEAPFROG if learned else _EARLY_LEAPFROG * 4**closed
        state.host_num_leapfrog = min(num_leapfrog, most, _MAX_LEAPFROG)

    def _force(self, state: S) -> Tensor:
        """Gradient of log density over temperature at the present state."""
        force = torch.zeros_like(state.theta)
        unit = state.hyper.clone()
        unit[:, ops.STEP_SIZE] = 1.0
        ops.kick(force, cast(Tensor, state.grad), state.theta, state.target.prior, unit)
        return force
