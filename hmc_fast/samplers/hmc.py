"""Hamiltonian Monte Carlo (Neal 2011, arXiv:1206.1901, fig. 2), full batch, all chains at once.

    repeat
        m ~ N(0, M)
        (theta', m') = leapfrog(theta, m; step size eps, L steps)
        dH = H(theta', m') - H(theta, m),   H = U(theta) + m^T M^-1 m / 2
        with probability min(1, exp(-dH)):  theta = theta'

    symbol   argument                symbol   argument
    eps      step_size               L        num_leapfrog, or ceil(trajectory_length / step_size)
    M^-1     inverse_mass            U        target: minus log density over temperature

A rejected proposal repeats the old state, and the repeat counts. With `adapt=True` burn-in learns eps, L and M
(`adaptation/warm_up.py`); after it they are fixed. There is no NUTS here: its trajectories end where the data
say, alike neither from chain to chain nor from draw to draw, so chains in one batch wait for the longest and
no trajectory is one sequence of captured steps. Jittered lengths break the same resonances.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from ..adaptation import WarmUp, find_step_size
from ..errors import UserError
from ..integrators import INTEGRATORS, Leapfrog, steps_of
from ..kernels import ops
from ..metropolis import Acceptance, check_acceptance
from ..streams import JITTER, host_uniform
from ..target import Target, positive
from ..unit import Graph
from .metropolised import Metropolised, MetropolisedState

__all__ = ["HMC", "HMCState"]

_MAX_LEAPFROG = 1024  # of one adapted trajectory, as many as Stan's deepest tree
_EARLY_LEAPFROG = 64  # before the first metric is learned, when long trajectories waste gradients
_GUESSED_LEAPFROG = 20


@dataclass(kw_only=True)
class HMCState(MetropolisedState):
    """C chains. `step` mutates every tensor here, in place."""

    host_num_leapfrog: int = 0  # L before jitter
    leapfrog: "Leapfrog | None" = None  # on the work buffers
    warm_up: "WarmUp | None" = None
    dual_averaging: "Tensor | None" = None  # the tensors of warm_up, see there
    draw_moments: "Tensor | None" = None
    gradient_moments: "Tensor | None" = None
    principal: "Tensor | None" = None
    trajectory_length: "Tensor | None" = None


class HMC(Metropolised[HMCState]):
    """Full-batch HMC with an exact Metropolis-Hastings test.

    Args:
        step_size: eps, in units of theta. None, with adapt: searched for.
        trajectory_length: eps * L, in units of theta. Izmailov et al. 2021 advise pi * sigma / 2 for a prior
            of standard deviation sigma. Give this or num_leapfrog; with adapt neither is needed.
        num_leapfrog: L.
        adapt: learn during burn-in what is not given; needs burn-in. Once M is learned, eps and the trajectory
            length are in units of each parameter's own scale.
        target_acceptance: what adapt aims the step size at, in (0, 1).
        pool: adapt from all chains together; False gives every chain its own step size and mass.
        integrator: "leapfrog", or "two_stage" (see `integrators.INTEGRATORS`), whose L is even.
        jitter: in [0, 1): L is multiplied by a uniform in [1 - jitter, 1 + jitter], anew every iteration and
            alike for all chains, which breaks resonance with periodic orbits. None: 0, or 0.5 with adapt.
        acceptance: "log_ratio" or "density_ratio", two forms of one test (see `metropolis.decide`).
        test_in_burn_in: False leaves out the Metropolis test during burn-in, as the paper does for its first
            50 iterations: a chain far from the typical set then moves on whatever its energy error. A
            proposal that is not finite is rejected all the same.
        inverse_mass: `(D,)` or `(C, D)`, None for identity. adapt begins there.

    Raises:
        UserError: a step size, trajectory length or number of steps that is not positive, a jitter outside
            [0, 1), an unknown acceptance rule or integrator, both or neither of trajectory_length and
            num_leapfrog, no step size without adapt, or adapt without burn-in.
    """

    name = "hmc"
    State = HMCState

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
            raise UserError("HMC needs a step size, or adapt=True to learn one during burn-in")
        if step_size is not None:
            positive("step size", step_size)
        given = (trajectory_length is not None) + (num_leapfrog is not None)
        if given == 2 or (given == 0 and not adapt):
            raise UserError("HMC needs either trajectory_length or num_leapfrog, and not both")
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

    def _prepare(self, state: HMCState, graph: Graph, burn_in: int) -> None:
        state.host_num_leapfrog = self.num_leapfrog or self._stages
        if self.adapt:
            self._prepare_warm_up(state, burn_in)
        state.leapfrog = Leapfrog(
            state.target,
            state.work_theta,
            state.work_new_momentum,
            state.work_grad,
            state.work_log_lik,
            state.hyper,
            inverse_mass=state.inverse_mass,
            coefficients=INTEGRATORS[self.integrator],
            graph=graph,
        )

    def init(
        self, target: Target, theta: Tensor, *, seed: int = 0, graph: Graph = False, burn_in: int = 0
    ) -> HMCState:
        """Evaluates the target once at `theta (C, D)`; with adapt a few times more, for a first step size."""
        if self.adapt and burn_in < 1:
            raise UserError("adapt=True learns during burn-in: give burn_in iterations, 600 for example")
        state = super().init(target, theta, seed=seed, graph=graph, burn_in=burn_in)
        if state.warm_up is not None:
            if self.inverse_mass is None:
                state.warm_up.first_metric(state.theta, self._force(state))
            self._search_step_size(state, state.warm_up)
        return state

    def _trajectory(self, state: HMCState, num_leapfrog: int) -> None:
        assert state.leapfrog is not None
        state.leapfrog.run(num_leapfrog)

    def _num_leapfrog(self, state: HMCState) -> int:
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

    def _prepare_warm_up(self, state: HMCState, burn_in: int) -> None:
        theta = state.theta
        metric = theta.new_ones(1 if self.pool else len(theta), theta.shape[1])
        if self.inverse_mass is not None:
            metric.copy_(self.inverse_mass)
        state.warm_up = WarmUp(metric, burn_in, self.target_acceptance)
        state.inverse_mass = metric[0] if self.pool else metric
        for name, tensor in state.warm_up.tensors.items():
            setattr(state, name, tensor)

    def _learn(self, state: HMCState, accept_prob: Tensor) -> None:
        """One lesson of burn-in, and after the last one what was learned is fixed."""
        iteration, warm_up = state.host_iteration, state.warm_up
        if warm_up is None:
            return
        if warm_up.learn(iteration, state.theta, self._force(state), accept_prob):
            self._search_step_size(state, warm_up)
            return
        last = iteration + 1 >= warm_up.burn_in
        dual = warm_up.dual_averaging
        self._set_step_size(state, warm_up, dual.averaged if last else dual.step_size)

    def _search_step_size(self, state: HMCState, warm_up: WarmUp) -> None:
        groups = len(warm_up.inverse_mass)

        def accept_prob(step_size: Tensor) -> Tensor:
            state.hyper[:, ops.STEP_SIZE] = _spread(step_size, state.hyper)
            self._propose(state, self._stages)
            probability = torch.exp(-self._energy_error(state).clamp_min(0))
            return torch.nan_to_num(probability, nan=0.0).unflatten(0, (groups, -1)).mean(1)

        step_size = find_step_size(
            accept_prob, state.hyper[:, ops.STEP_SIZE].double().unflatten(0, (groups, -1))[:, 0]
        )
        warm_up.dual_averaging.restart(step_size)
        self._set_step_size(state, warm_up, step_size)

    def _set_step_size(self, state: HMCState, warm_up: WarmUp, step_size: Tensor) -> None:
        """Also the number of steps that goes with it, unless the user gave one."""
        state.hyper[:, ops.STEP_SIZE] = _spread(step_size, state.hyper)
        if self.num_leapfrog is not None and self.trajectory_length is None:
            return
        length = self.trajectory_length or float(warm_up.trajectory_length)
        num_leapfrog = steps_of(length / float(step_size.mean()), self._stages)
        early = state.host_iteration < (warm_up.windows.ends or (0,))[0]
        state.host_num_leapfrog = min(num_leapfrog, _EARLY_LEAPFROG if early else _MAX_LEAPFROG)

    def _force(self, state: HMCState) -> Tensor:
        """Gradient of log density over temperature at the present state."""
        force = torch.zeros_like(state.theta)
        unit = state.hyper.clone()
        unit[:, ops.STEP_SIZE] = 1.0
        ops.kick(force, cast(Tensor, state.grad), state.theta, state.target.prior, unit)
        return force


def _spread(step_size: Tensor, hyper: Tensor) -> Tensor:
    """Step sizes of K groups, `(K,)`, to their chains, `(C,)`."""
    return step_size.repeat_interleave(len(hyper) // len(step_size)).to(hyper.dtype)
