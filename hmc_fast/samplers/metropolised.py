"""What samplers with a Metropolis test share: all but the proposal.

    begin        a momentum, and the proposal begins where the chain is
    trajectory   moves the proposal                                       <- the algorithm
    finish       dH from differences alone; with probability min(1, exp(-dH)) the chain goes where the proposal is

A rejected proposal repeats the old state, and the repeat counts.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from ..compute.random_streams import ACCEPT, MOMENTUM, check_seed
from ..dynamics.gradient_step import Graph, accelerated
from ..dynamics.metropolis import Acceptance, energy_of_examples, metropolis_test
from ..errors import UserError
from ..kernels import ops
from ..kernels.ops import Counter
from ..targets.base import Target
from .protocol import Info

__all__ = ["Metropolised", "MetropolisedState"]


def _unset() -> None:
    raise AssertionError("the state was not made by the sampler's init")


@dataclass(kw_only=True)
class MetropolisedState:
    """C chains. `step` mutates every tensor here, in place."""

    target: Target
    seed: int
    theta: Tensor  # (C, D)
    log_lik: Tensor  # (C, N) of each example at theta
    grad: "Tensor | None"  # (C, D) of the log likelihood at theta, for samplers that keep it
    hyper: Tensor  # (C, 4) see kernels/reference.py
    iteration: Tensor  # (1,) int64
    host_iteration: int  # the same number, for choices of the host
    inverse_mass: "Tensor | None"  # (D,), (1, D) or (C, D)
    work_momentum: Tensor  # (C, D) at the trajectory's start
    work_new_momentum: Tensor  # (C, D) and at its end
    work_theta: Tensor  # (C, D) the proposal
    work_grad: Tensor
    work_log_lik: Tensor
    work_kinetic: Tensor  # (C,) float64, at the trajectory's start
    begin: "Callable[[], None]" = _unset
    finish: "dict[bool, Callable[[], tuple[Tensor, ...]]]" = field(default_factory=dict)  # by whether it tests


S = TypeVar("S", bound=MetropolisedState)


class Metropolised(ABC, Generic[S]):
    """A sampler whose iteration is one proposal and one test."""

    name: str
    has_metropolis_test = True
    batch_size: int | None = None  # the test needs the full data
    keeps_gradient: ClassVar[bool] = (
        True  # whether a trajectory begins with the gradient that an earlier one ended with
    )
    State: ClassVar[type[Any]] = MetropolisedState

    inverse_mass: Tensor | None = None
    acceptance: Acceptance = "log_ratio"
    test_in_burn_in = True

    @abstractmethod
    def _prepare(self, state: S, graph: Graph, warm_up_iterations: int) -> None:
        """Makes what the trajectory needs, once the buffers are there."""

    @abstractmethod
    def _trajectory(self, state: S, num_leapfrog: int) -> None:
        """Moves `work_theta` and `work_new_momentum`; leaves the likelihood of each example in `work_log_lik`, and
        the gradient in `work_grad` if it is kept."""

    @abstractmethod
    def gradients_per_iteration(self, target: Target) -> int:
        """Gradients of each chain in one iteration, jitter aside."""

    def _first_step_size(self) -> float:
        """Where the step size that the kernels read begins."""
        raise NotImplementedError

    def init(
        self, target: Target, theta: Tensor, *, seed: int = 0, graph: Graph = False, warm_up_iterations: int = 0
    ) -> S:
        """Evaluates the target once at `theta (C, D)`."""
        check_seed(seed)
        theta = theta.clone()
        num_chains, device = len(theta), target.device
        hyper = torch.tensor([[self._first_step_size(), 1 / target.temperature, 0.0, 0.0]], device=device)
        log_lik = theta.new_empty(num_chains, target.num_data)
        grad = torch.empty_like(theta) if self.keeps_gradient else None
        if grad is not None:
            target.log_likelihood_and_grad(theta, grad, log_lik)
        if grad is None or not target.exact_gradient_pass:
            target.log_likelihood(theta, log_lik)
        state: S = self.State(
            target=target,
            seed=seed,
            theta=theta,
            log_lik=log_lik,
            grad=grad,
            hyper=hyper.repeat(num_chains, 1),
            iteration=torch.zeros(1, dtype=torch.int64, device=device),
            host_iteration=0,
            inverse_mass=self.inverse_mass,
            work_momentum=torch.empty_like(theta),
            work_new_momentum=torch.empty_like(theta),
            work_theta=torch.empty_like(theta),
            work_grad=torch.empty_like(theta),
            work_log_lik=torch.empty_like(log_lik),
            work_kinetic=torch.empty(num_chains, dtype=torch.float64, device=device),
        )
        self._prepare(state, graph, warm_up_iterations)
        state.begin = accelerated(target, lambda: self._begin(state))
        for tested in (True, False):
            state.finish[tested] = accelerated(target, lambda tested=tested: self._finish(state, tested))
        return state

    def step(self, state: S, batch: Tensor | None = None, *, warming_up: bool = False) -> tuple[S, Info]:
        """One trajectory and its test, for every chain."""
        if batch is not None:
            raise UserError(f"the test of {self.name} needs the full data: leave batch out, or use SGHMC")
        num_leapfrog = self._num_leapfrog(state)
        self._propose(state, num_leapfrog)
        log_lik, log_prior, energy_error, accept_prob, accepted, divergent, kinetic = state.finish[
            self.test_in_burn_in or not warming_up
        ]()
        if warming_up:
            self._learn(state, accept_prob)
        state.host_iteration += 1
        step_size = self._reported(state.hyper[:, ops.STEP_SIZE])
        return state, Info(
            log_lik, log_prior, energy_error, accept_prob, accepted, divergent, step_size, kinetic, num_leapfrog
        )

    def keeps(self, iteration: int) -> bool:
        return True

    def _num_leapfrog(self, state: S) -> int:
        """Of the next iteration."""
        return self.gradients_per_iteration(state.target)

    def _reported(self, step_size: Tensor) -> Tensor:
        """The sampler's step size, from the one that the kernels read."""
        return step_size.clone()

    def _learn(self, state: S, accept_prob: Tensor) -> None:
        """What an iteration of burn-in teaches."""

    def _propose(self, state: S, num_leapfrog: int) -> None:
        state.begin()
        self._trajectory(state, num_leapfrog)
        if not (self.keeps_gradient and state.target.exact_gradient_pass):
            state.target.log_likelihood(state.work_theta, state.work_log_lik)

    def _begin(self, state: S) -> None:
        """A fresh momentum, and the trajectory's start."""
        counter = Counter(state.seed, MOMENTUM, state.iteration)
        kinetic = ops.refresh_momentum(state.work_momentum, counter, inverse_mass=state.inverse_mass)
        state.work_kinetic.copy_(kinetic)
        self._start(state)

    def _start(self, state: S) -> None:
        """The proposal begins where the chain is."""
        state.work_new_momentum.copy_(state.work_momentum)
        state.work_theta.copy_(state.theta)
        if state.grad is not None:
            state.work_grad.copy_(state.grad)

    def _finish(self, state: S, tested: bool) -> tuple[Tensor, ...]:
        """The Metropolis test and its outcome: the first figures of `Info`."""
        energy_error = self._energy_error(state)
        accepted, accept_prob, divergent = self._decide(state, energy_error)
        if not tested:
            accepted = torch.isfinite(energy_error)
        kinetic = torch.where(accepted, self._kinetic_energy(state), state.work_kinetic)
        self._accept(state, accepted)
        state.iteration.add_(1)
        log_lik, log_prior = state.log_lik.double().sum(1), state.target.log_prior(state.theta)
        return log_lik, log_prior, energy_error, accept_prob, accepted, divergent, kinetic

    def _kinetic_energy(self, state: S) -> Tensor:
        """At the trajectory's end."""
        return ops.kinetic_energy(state.work_new_momentum, inverse_mass=state.inverse_mass)

    def _decide(self, state: S, energy_error: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        uniform = ops.uniforms(Counter(state.seed, ACCEPT, state.iteration), len(state.theta), 1)[:, 0]
        return metropolis_test(energy_error, uniform, self.acceptance)

    def _accept(self, state: S, accepted: Tensor) -> None:
        """The proposal where it was accepted, the old state elsewhere."""
        ops.select(state.theta, state.work_theta, accepted)
        ops.select(state.log_lik, state.work_log_lik, accepted)
        if state.grad is not None:
            ops.select(state.grad, state.work_grad, accepted)

    def _energy_error(self, state: S) -> Tensor:
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
