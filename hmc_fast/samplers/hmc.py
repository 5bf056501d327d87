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

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..adaptation import WarmUp, find_step_size
from ..errors import UserError
from ..integrators import INTEGRATORS, Leapfrog
from ..kernels import ops
from ..kernels.ops import Counter
from ..metropolis import Acceptance, decide, energy_of_examples
from ..streams import ACCEPT, JITTER, MOMENTUM, check_seed, host_uniform
from ..target import Target
from ..unit import Graph, accelerated
from .base import Info

__all__ = ["HMC", "HMCState"]

_MAX_LEAPFROG = 1024  # of one adapted trajectory, as many as Stan's deepest tree
_EARLY_LEAPFROG = 64  # before the first metric is learned, when long trajectories waste gradients
_GUESSED_LEAPFROG = 20


def _unset() -> None:
    raise AssertionError("the state was not made by HMC.init")


@dataclass
class HMCState:
    """C chains. `step` mutates every tensor here, in place."""

    target: Target
    seed: int
    theta: Tensor  # (C, D)
    grad: Tensor  # (C, D) of the log likelihood at theta
    log_lik: Tensor  # (C, N) of each example at theta
    hyper: Tensor  # (C, 4) see kernels/reference.py
    iteration: Tensor  # (1,) int64
    host_iteration: int  # the same number, for choices of the host
    host_num_leapfrog: int  # L before jitter
    inverse_mass: "Tensor | None"  # (D,), (1, D) or (C, D)
    work_momentum: Tensor  # (C, D) at the trajectory's start
    work_new_momentum: Tensor  # (C, D) and at its end
    work_theta: Tensor  # (C, D) the proposal
    work_grad: Tensor
    work_log_lik: Tensor
    work_kinetic: Tensor  # (C,) float64, at the trajectory's start
    leapfrog: Leapfrog  # on the work buffers
    begin: "Callable[[], None]" = _unset
    warm_up: "WarmUp | None" = None
    dual_averaging: "Tensor | None" = None  # the tensors of warm_up, see there
    draw_moments: "Tensor | None" = None
    gradient_moments: "Tensor | None" = None
    principal: "Tensor | None" = None
    trajectory_length: "Tensor | None" = None
    finish: "dict[bool, Callable[[], tuple[Tensor, ...]]]" = field(default_factory=dict)  # by whether it tests


class HMC:
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
    has_metropolis_test = True
    batch_size: int | None = None  # the test needs the full data

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
        if step_size is not None and not (math.isfinite(step_size) and step_size > 0):
            raise UserError(f"step size {step_size} must be a positive number")
        given = (trajectory_length is not None) + (num_leapfrog is not None)
        if given == 2 or (given == 0 and not adapt):
            raise UserError("HMC needs either trajectory_length or num_leapfrog, and not both")
        if trajectory_length is not None and not (math.isfinite(trajectory_length) and trajectory_length > 0):
            raise UserError(f"trajectory length {trajectory_length} must be a positive number")
        if num_leapfrog is not None and num_leapfrog < 1:
            raise UserError(f"number of leapfrog steps {num_leapfrog} must be at least 1")
        if not 0 < target_acceptance < 1:
            raise UserError(f"target acceptance {target_acceptance} must lie between 0 and 1")
        if integrator not in INTEGRATORS:
            raise UserError(f"integrator {integrator!r} is unknown: use one of {', '.join(INTEGRATORS)}")
        jitter = (0.5 if adapt else 0.0) if jitter is None else jitter
        if not 0 <= jitter < 1:
            raise UserError(f"jitter {jitter} must lie in [0, 1)")
        if acceptance not in ("log_ratio", "density_ratio"):
            raise UserError(f"acceptance rule {acceptance!r} is unknown: use 'log_ratio' or 'density_ratio'")
        self.step_size, self.trajectory_length, self.jitter = step_size, trajectory_length, jitter
        self.acceptance, self.test_in_burn_in = acceptance, test_in_burn_in
        self.inverse_mass, self.integrator = inverse_mass, integrator
        self.adapt, self.target_acceptance, self.pool = adapt, target_acceptance, pool
        self._stages = len(INTEGRATORS[integrator].inner)
        self.num_leapfrog = num_leapfrog if num_leapfrog is None else self._whole(num_leapfrog)
        if trajectory_length is not None and step_size is not None:
            self.num_leapfrog = self._whole(trajectory_length / step_size)

    def init(
        self, target: Target, theta: Tensor, *, seed: int = 0, graph: Graph = False, burn_in: int = 0
    ) -> HMCState:
        """Evaluates the target once at `theta (C, D)`; with adapt a few times more, for a first step size."""
        check_seed(seed)
        if self.adapt and burn_in < 1:
            raise UserError("adapt=True learns during burn-in: give burn_in iterations, 600 for example")
        theta = theta.clone()
        num_chains = len(theta)
        first_step = self.step_size or 1.0
        hyper = torch.tensor([[first_step, 1 / target.temperature, 0.0, 0.0]], device=target.device)
        log_lik = theta.new_empty(num_chains, target.num_data)
        grad = torch.empty_like(theta)
        target.log_likelihood_and_grad(theta, grad, log_lik)
        if not target.exact_gradient_pass:
            target.log_likelihood(theta, log_lik)
        hyper = hyper.repeat(num_chains, 1)
        work_theta, work_new_momentum, work_grad = (torch.empty_like(theta) for _ in range(3))
        work_log_lik = torch.empty_like(log_lik)
        inverse_mass, warm_up = self.inverse_mass, None
        if self.adapt:
            metric = theta.new_ones(1 if self.pool else num_chains, target.num_params)
            if inverse_mass is not None:
                metric.copy_(inverse_mass)
            warm_up = WarmUp(metric, burn_in, self.target_acceptance)
            inverse_mass = metric[0] if self.pool else metric
        state = HMCState(
            target=target,
            seed=seed,
            theta=theta,
            grad=grad,
            log_lik=log_lik,
            hyper=hyper,
            iteration=torch.zeros(1, dtype=torch.int64, device=target.device),
            host_iteration=0,
            host_num_leapfrog=self.num_leapfrog or self._stages,
            inverse_mass=inverse_mass,
            work_momentum=torch.empty_like(theta),
            work_new_momentum=work_new_momentum,
            work_theta=work_theta,
            work_grad=work_grad,
            work_log_lik=work_log_lik,
            work_kinetic=torch.empty(num_chains, dtype=torch.float64, device=target.device),
            leapfrog=Leapfrog(
                target,
                work_theta,
                work_new_momentum,
                work_grad,
                work_log_lik,
                hyper,
                inverse_mass=inverse_mass,
                coefficients=INTEGRATORS[self.integrator],
                graph=graph,
            ),
            warm_up=warm_up,
            **({} if warm_up is None else warm_up.tensors),
        )
        state.begin = accelerated(target, lambda: self._begin(state))
        for tested in (True, False):
            state.finish[tested] = accelerated(target, lambda tested=tested: self._finish(state, tested))
        if warm_up is not None:
            if self.inverse_mass is None:
                warm_up.first_metric(theta, self._force(state))
            self._search_step_size(state, warm_up)
        return state

    def step(self, state: HMCState, batch: Tensor | None = None, *, burn_in: bool = False) -> tuple[HMCState, Info]:
        """One trajectory and its test, for every chain."""
        if batch is not None:
            raise UserError("HMC's test needs the full data: leave batch out, or use SGHMC for minibatches")
        num_leapfrog = self._jittered(state)
        state.begin()
        state.leapfrog.run(num_leapfrog)
        if not state.target.exact_gradient_pass:
            state.target.log_likelihood(state.work_theta, state.work_log_lik)
        log_lik, log_prior, energy_error, accept_prob, accepted, divergent, kinetic = state.finish[
            self.test_in_burn_in or not burn_in
        ]()
        if state.warm_up is not None and burn_in:
            self._adapt(state, state.warm_up, accept_prob)
        state.host_iteration += 1
        step_size = state.hyper[:, ops.STEP_SIZE].clone()
        return state, Info(
            log_lik, log_prior, energy_error, accept_prob, accepted, divergent, step_size, kinetic, num_leapfrog
        )

    def _begin(self, state: HMCState) -> None:
        """A fresh momentum, and the trajectory's start."""
        counter = Counter(state.seed, MOMENTUM, state.iteration)
        kinetic = ops.refresh_momentum(state.work_momentum, counter, inverse_mass=state.inverse_mass)
        state.work_kinetic.copy_(kinetic)
        state.work_new_momentum.copy_(state.work_momentum)
        state.work_theta.copy_(state.theta)
        state.work_grad.copy_(state.grad)

    def _finish(self, state: HMCState, tested: bool) -> tuple[Tensor, ...]:
        """The Metropolis test and its outcome: the first figures of `Info`."""
        energy_error = self._energy_error(state)
        uniform = ops.uniforms(Counter(state.seed, ACCEPT, state.iteration), len(state.theta), 1)[:, 0]
        accepted, accept_prob, divergent = decide(energy_error, uniform, self.acceptance)
        if not tested:
            accepted = torch.isfinite(energy_error)
        kinetic = ops.kinetic_energy(state.work_new_momentum, inverse_mass=state.inverse_mass)
        kinetic = torch.where(accepted, kinetic, state.work_kinetic)
        ops.select(state.theta, state.work_theta, accepted)
        ops.select(state.grad, state.work_grad, accepted)
        ops.select(state.log_lik, state.work_log_lik, accepted)
        state.iteration.add_(1)
        log_lik, log_prior = state.log_lik.double().sum(1), state.target.log_prior(state.theta)
        return log_lik, log_prior, energy_error, accept_prob, accepted, divergent, kinetic

    def _energy_error(self, state: HMCState) -> Tensor:
        """H at the trajectory's end minus H at its start, from differences alone."""
        energy_error = ops.energy_difference(
            state.theta,
            state.work_momentum,
            state.work_theta,
            state.work_new_momentum,
            state.target.prior,
            state.hyper,
            inverse_mass=state.inverse_mass,
        )
        return energy_error + energy_of_examples(
            state.log_lik, state.work_log_lik, state.hyper[:, ops.INVERSE_TEMPERATURE]
        )

    # --- adaptation: reads step size and trajectory length back once per burn-in iteration, never after it ---

    def _adapt(self, state: HMCState, warm_up: WarmUp, accept_prob: Tensor) -> None:
        """One lesson of burn-in, and after the last one what was learned is fixed."""
        iteration = state.host_iteration
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
            state.begin()
            state.leapfrog.run(self._stages)
            if not state.target.exact_gradient_pass:
                state.target.log_likelihood(state.work_theta, state.work_log_lik)
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
        num_leapfrog = self._whole(length / float(step_size.mean()))
        early = state.host_iteration < (warm_up.windows.ends or (0,))[0]
        state.host_num_leapfrog = min(num_leapfrog, _EARLY_LEAPFROG if early else _MAX_LEAPFROG)

    def _force(self, state: HMCState) -> Tensor:
        """Gradient of log density over temperature at the present state."""
        force = torch.zeros_like(state.theta)
        unit = state.hyper.clone()
        unit[:, ops.STEP_SIZE] = 1.0
        ops.kick(force, state.grad, state.theta, state.target.prior, unit)
        return force

    def gradients_per_iteration(self, target: Target) -> int:
        """`num_leapfrog`; a guess where it is yet to be learned."""
        return self.num_leapfrog or _GUESSED_LEAPFROG

    def keeps(self, iteration: int) -> bool:
        return True

    def _jittered(self, state: HMCState) -> int:
        if self.jitter == 0:
            return state.host_num_leapfrog
        uniform = host_uniform(state.seed, JITTER, state.host_iteration)
        stages = state.host_num_leapfrog / self._stages * (1 + self.jitter * (2 * uniform - 1))
        return max(1, round(stages)) * self._stages

    def _whole(self, num_leapfrog: float) -> int:
        """The next number of steps that is a multiple of the integrator's stages, up to rounding: the margin
        keeps a quotient such as .3 / .1 = 2.9999999999999996 or 3.0000000000000004 at 3."""
        return max(1, math.ceil(num_leapfrog / self._stages * (1 - 1e-9))) * self._stages


def _spread(step_size: Tensor, hyper: Tensor) -> Tensor:
    """Step sizes of K groups, `(K,)`, to their chains, `(C,)`."""
    return step_size.repeat_interleave(len(hyper) // len(step_size)).to(hyper.dtype)
