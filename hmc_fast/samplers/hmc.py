"""Hamiltonian Monte Carlo (Neal 2011, arXiv:1206.1901, fig. 2), full batch, all chains at once.

    repeat
        m ~ N(0, M)
        (theta', m') = leapfrog(theta, m; step size eps, L steps)
        dH = H(theta', m') - H(theta, m),   H = U(theta) + m^T M^-1 m / 2
        with probability min(1, exp(-dH)):  theta = theta'

    symbol   argument                symbol   argument
    eps      step_size               L        num_leapfrog, or ceil(trajectory_length / step_size)
    M^-1     inverse_mass            U        target: minus log density over temperature

A rejected proposal repeats the old state, and the repeat counts.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import UserError
from ..integrators import Leapfrog
from ..kernels import ops
from ..kernels.ops import Counter
from ..metropolis import Acceptance, decide, energy_of_examples
from ..streams import ACCEPT, JITTER, MOMENTUM, check_seed, host_uniform
from ..target import Target
from ..unit import Graph, accelerated
from .base import Info

__all__ = ["HMC", "HMCState"]


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
    work_momentum: Tensor  # (C, D) at the trajectory's start
    work_new_momentum: Tensor  # (C, D) and at its end
    work_theta: Tensor  # (C, D) the proposal
    work_grad: Tensor
    work_log_lik: Tensor
    work_kinetic: Tensor  # (C,) float64, at the trajectory's start
    leapfrog: Leapfrog  # on the work buffers
    begin: "Callable[[], None]" = _unset
    finish: "dict[bool, Callable[[], tuple[Tensor, ...]]]" = field(default_factory=dict)  # by whether it tests


class HMC:
    """Full-batch HMC with an exact Metropolis-Hastings test.

    Args:
        step_size: eps, in units of theta.
        trajectory_length: eps * L, in units of theta. Izmailov et al. 2021 advise pi * sigma / 2 for a prior
            of standard deviation sigma. Give this or num_leapfrog.
        num_leapfrog: L.
        jitter: in [0, 1): L is multiplied by a uniform in [1 - jitter, 1 + jitter], anew every iteration and
            alike for all chains, which breaks resonance with periodic orbits.
        acceptance: "log_ratio" or "density_ratio", two forms of one test (see `metropolis.decide`).
        test_in_burn_in: False leaves out the Metropolis test during burn-in, as the paper does for its first
            50 iterations: a chain far from the typical set then moves on whatever its energy error. A
            proposal that is not finite is rejected all the same.
        inverse_mass: `(D,)` or `(C, D)`, None for identity.

    Raises:
        UserError: a step size, trajectory length or number of steps that is not positive, a jitter outside
            [0, 1), an unknown acceptance rule, or both or neither of trajectory_length and num_leapfrog.
    """

    name = "hmc"
    has_metropolis_test = True
    batch_size: int | None = None  # the test needs the full data

    def __init__(
        self,
        step_size: float,
        *,
        trajectory_length: float | None = None,
        num_leapfrog: int | None = None,
        jitter: float = 0.0,
        acceptance: Acceptance = "log_ratio",
        test_in_burn_in: bool = True,
        inverse_mass: Tensor | None = None,
    ) -> None:
        if not (math.isfinite(step_size) and step_size > 0):
            raise UserError(f"step size {step_size} must be a positive number")
        if (trajectory_length is None) == (num_leapfrog is None):
            raise UserError("HMC needs either trajectory_length or num_leapfrog, and not both")
        if trajectory_length is not None:
            if not (math.isfinite(trajectory_length) and trajectory_length > 0):
                raise UserError(f"trajectory length {trajectory_length} must be a positive number")
            # the margin keeps a quotient such as .3 / .1 = 2.9999999999999996 or 3.0000000000000004 at 3
            num_leapfrog = math.ceil(trajectory_length / step_size * (1 - 1e-9))
        assert num_leapfrog is not None
        if num_leapfrog < 1:
            raise UserError(f"number of leapfrog steps {num_leapfrog} must be at least 1")
        if not 0 <= jitter < 1:
            raise UserError(f"jitter {jitter} must lie in [0, 1)")
        if acceptance not in ("log_ratio", "density_ratio"):
            raise UserError(f"acceptance rule {acceptance!r} is unknown: use 'log_ratio' or 'density_ratio'")
        self.step_size, self.num_leapfrog, self.jitter = step_size, num_leapfrog, jitter
        self.acceptance, self.test_in_burn_in = acceptance, test_in_burn_in
        self.inverse_mass = inverse_mass

    def init(
        self, target: Target, theta: Tensor, *, seed: int = 0, graph: Graph = False, burn_in: int = 0
    ) -> HMCState:
        """Evaluates the target once at `theta (C, D)`."""
        check_seed(seed)
        theta = theta.clone()
        num_chains = len(theta)
        hyper = torch.tensor([[self.step_size, 1 / target.temperature, 0.0, 0.0]], device=target.device)
        log_lik = theta.new_empty(num_chains, target.num_data)
        grad = torch.empty_like(theta)
        target.log_likelihood_and_grad(theta, grad, log_lik)
        if not target.exact_gradient_pass:
            target.log_likelihood(theta, log_lik)
        hyper = hyper.repeat(num_chains, 1)
        work_theta, work_new_momentum, work_grad = (torch.empty_like(theta) for _ in range(3))
        work_log_lik = torch.empty_like(log_lik)
        state = HMCState(
            target=target,
            seed=seed,
            theta=theta,
            grad=grad,
            log_lik=log_lik,
            hyper=hyper,
            iteration=torch.zeros(1, dtype=torch.int64, device=target.device),
            host_iteration=0,
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
                inverse_mass=self.inverse_mass,
                graph=graph,
            ),
        )
        state.begin = accelerated(target, lambda: self._begin(state))
        for tested in (True, False):
            state.finish[tested] = accelerated(target, lambda tested=tested: self._finish(state, tested))
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
        state.host_iteration += 1
        step_size = state.hyper[:, ops.STEP_SIZE].clone()
        return state, Info(
            log_lik, log_prior, energy_error, accept_prob, accepted, divergent, step_size, kinetic, num_leapfrog
        )

    def _begin(self, state: HMCState) -> None:
        """A fresh momentum, and the trajectory's start."""
        counter = Counter(state.seed, MOMENTUM, state.iteration)
        state.work_kinetic.copy_(ops.refresh_momentum(state.work_momentum, counter, inverse_mass=self.inverse_mass))
        state.work_new_momentum.copy_(state.work_momentum)
        state.work_theta.copy_(state.theta)
        state.work_grad.copy_(state.grad)

    def _finish(self, state: HMCState, tested: bool) -> tuple[Tensor, ...]:
        """The Metropolis test and its outcome: the first figures of `Info`."""
        energy_error = ops.energy_difference(
            state.theta,
            state.work_momentum,
            state.work_theta,
            state.work_new_momentum,
            state.target.prior,
            state.hyper,
            inverse_mass=self.inverse_mass,
        )
        energy_error += energy_of_examples(
            state.log_lik, state.work_log_lik, state.hyper[:, ops.INVERSE_TEMPERATURE]
        )
        uniform = ops.uniforms(Counter(state.seed, ACCEPT, state.iteration), len(state.theta), 1)[:, 0]
        accepted, accept_prob, divergent = decide(energy_error, uniform, self.acceptance)
        if not tested:
            accepted = torch.isfinite(energy_error)
        kinetic = ops.kinetic_energy(state.work_new_momentum, inverse_mass=self.inverse_mass)
        kinetic = torch.where(accepted, kinetic, state.work_kinetic)
        ops.select(state.theta, state.work_theta, accepted)
        ops.select(state.grad, state.work_grad, accepted)
        ops.select(state.log_lik, state.work_log_lik, accepted)
        state.iteration.add_(1)
        log_lik, log_prior = state.log_lik.double().sum(1), state.target.log_prior(state.theta)
        return log_lik, log_prior, energy_error, accept_prob, accepted, divergent, kinetic

    def gradients_per_iteration(self, target: Target) -> int:
        return self.num_leapfrog

    def keeps(self, iteration: int) -> bool:
        return True

    def _jittered(self, state: HMCState) -> int:
        if self.jitter == 0:
            return self.num_leapfrog
        uniform = host_uniform(state.seed, JITTER, state.host_iteration)
        return max(1, round(self.num_leapfrog * (1 + self.jitter * (2 * uniform - 1))))
