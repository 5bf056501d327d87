"""What samplers on minibatches share: all but the algorithm.

    for i = 1 .. steps_per_iteration                       one iteration
        set the step size from the schedule         \\
        gradient on minibatch i                      } one Unit: captured, compiled or simply called
        update                                      /  <- the algorithm

There is no Metropolis test, so a chain that leaves the finite numbers is lost; it counts as divergent.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from ..compute.random_streams import MOMENTUM, check_seed
from ..dynamics.gradient_step import Graph, Unit
from ..dynamics.minibatches import Minibatches
from ..dynamics.schedules import Schedule
from ..errors import UserError
from ..kernels import ops
from ..kernels.ops import Counter
from ..targets.base import Target, positive
from .protocol import Info

__all__ = ["StochasticGradient", "StochasticState", "check_friction"]


@dataclass(kw_only=True)
class StochasticState:
    """C chains. `step` mutates every tensor here, in place."""

    target: Target
    seed: int
    minibatches: Minibatches
    theta: Tensor  # (C, D)
    momentum: Tensor  # (C, D)
    hyper: Tensor  # (C, 4) see kernels/reference.py
    counter: Tensor  # (1,) int64 leapfrog steps so far
    host_counter: int  # the same number, for choices of the host
    work_grad: Tensor  # (C, D) of the log likelihood, N/B times the minibatch's
    work_log_lik: Tensor  # (C, B)
    work_log_lik_sum: Tensor  # (C,) float64, over the iteration
    work_indices: Tensor  # (C, B) int64 minibatch of the step under way
    unit: "Unit | None" = None  # one leapfrog step


S = TypeVar("S", bound=StochasticState)


class StochasticGradient(ABC, Generic[S]):
    """A sampler whose step is one gradient, on a minibatch or the full data, and one update.

    Raises:
        UserError: a step size that is not positive, a negative batch size, or no leapfrog step.
    """

    name: str
    has_metropolis_test = False
    has_momentum: ClassVar[bool] = True  # False: momentum is scratch, and there is no kinetic energy
    step_size_power: ClassVar[int] = 1  # 2: the step size is a learning rate, in units of theta squared
    State: ClassVar[type[Any]] = StochasticState

    def __init__(
        self,
        step_size: float,
        batch_size: int | None,
        steps_per_iteration: int | None,
        schedule: Schedule | None = None,
    ) -> None:
        positive("step size", step_size)
        if batch_size is not None and batch_size < 0:
            raise UserError(f"batch size {batch_size} must be positive, or 0 for the full data")
        if steps_per_iteration is not None and steps_per_iteration < 1:
            raise UserError(f"steps per iteration {steps_per_iteration} must be at least 1")
        self.step_size, self.batch_size = step_size, batch_size or None
        self.steps_per_iteration, self.schedule = steps_per_iteration, schedule

    @abstractmethod
    def _columns(self, state: S, step_size: Tensor, explores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Step size, friction and noise estimate as the kernels are to read them, `(1,)` or `(C,)` each, from
        the sampler's step size `(1,)` float64 and whether noise is off `(1,)`. Nothing is read back."""

    @abstractmethod
    def _update(self, state: S) -> None:
        """The algorithm: moves theta with the gradient in `work_grad`. Part of a Unit."""

    def _own_tensors(self, theta: Tensor) -> dict[str, Tensor]:
        """Tensors of the state beyond those of `StochasticState`."""
        return {}

    def _begin_iteration(self, state: S, iteration: int, *, warming_up: bool) -> None:
        """What the host does before an iteration: a fresh momentum at the start."""
        if iteration == 0:
            self._refresh_momentum(state)

    def _refresh_momentum(self, state: S, inverse_mass: Tensor | None = None) -> None:
        counter = Counter(state.seed, MOMENTUM, state.counter)
        ops.refresh_momentum(state.momentum, counter, inverse_mass=inverse_mass)

    def _kinetic_energy(self, state: S) -> Tensor:
        return ops.kinetic_energy(state.momentum)

    def _reported(self, step_size: Tensor) -> Tensor:
        """The sampler's step size, from the one that the kernels read."""
        return step_size.clone()

    def init(
        self, target: Target, theta: Tensor, *, seed: int = 0, graph: Graph = False, warm_up_iterations: int = 0
    ) -> S:
        """Begins at `theta (C, D)`, with a fresh momentum if it has one."""
        check_seed(seed)
        theta = theta.clone()
        num_chains, batch_size, device = len(theta), self.batch_size or target.num_data, target.device
        hyper = torch.tensor([[self.step_size, 1 / target.temperature, 0.0, 0.0]], device=device)
        state: S = self.State(
            target=target,
            seed=seed,
            minibatches=Minibatches(target.num_data, batch_size, num_chains, seed, device),
            theta=theta,
            momentum=torch.zeros_like(theta),
            hyper=hyper.repeat(num_chains, 1),
            counter=torch.zeros(1, dtype=torch.int64, device=device),
            host_counter=0,
            work_grad=torch.empty_like(theta),
            work_log_lik=theta.new_empty(num_chains, batch_size),
            work_log_lik_sum=torch.zeros(num_chains, dtype=torch.float64, device=device),
            work_indices=torch.zeros(num_chains, batch_size, dtype=torch.int64, device=device),
            **self._own_tensors(theta),
        )
        self._set_hyper(state)
        state.unit = self._unit(state, None if self.batch_size is None else state.work_indices, graph)
        return state

    def step(self, state: S, batch: Tensor | None = None, *, warming_up: bool = False) -> tuple[S, Info]:
        """One iteration: `steps_per_iteration` updates, each on its own minibatch (or all on `batch (C, B)`)."""
        steps_per_iteration = self.gradients_per_iteration(state.target)
        self._begin_iteration(state, state.host_counter // steps_per_iteration, warming_up=warming_up)
        state.work_log_lik_sum.zero_()
        leapfrog = self._unit(state, batch, graph=False) if batch is not None else state.unit
        assert leapfrog is not None
        for _ in range(steps_per_iteration):
            if batch is None and self.batch_size is not None:
                state.minibatches.advance(state.host_counter)
            leapfrog()
            state.host_counter += 1
        finite = torch.isfinite(state.theta).all(1)
        nan = torch.full_like(state.work_log_lik_sum, torch.nan)
        return state, Info(
            log_likelihood=state.work_log_lik_sum / steps_per_iteration,
            log_prior=state.target.log_prior(state.theta),
            energy_error=nan,
            accept_prob=nan,
            accepted=torch.ones_like(finite),
            divergent=~finite,
            step_size=self._reported(state.hyper[:, ops.STEP_SIZE]),
            kinetic_energy=self._kinetic_energy(state) if self.has_momentum else nan,
            num_leapfrog=steps_per_iteration,
        )

    def _unit(self, state: S, batch: Tensor | None, graph: Graph) -> Unit:
        """One gradient and one update, over the state's buffers."""
        target = state.target
        log_lik = state.work_log_lik if batch is None else state.work_log_lik[:, : batch.shape[1]]

        def prepare() -> None:
            if self.schedule is not None:
                self._set_hyper(state)
            if batch is state.work_indices:
                state.minibatches.read(state.counter, batch)

        def gradient() -> None:
            target.log_likelihood_and_grad(state.theta, state.work_grad, log_lik, batch)

        def update() -> None:
            self._update(state)
            state.work_log_lik_sum.add_(log_lik.double().mean(1) * target.num_data)
            state.counter.add_(1)

        buffers = [value for value in vars(state).values() if isinstance(value, Tensor)]
        return Unit(target, gradient, update, buffers, count=log_lik.shape[1], prepare=prepare, graph=graph)

    def _set_hyper(self, state: S) -> None:
        """On the device, from the step counter: nothing is read back, so a captured step may do it."""
        # torch.full, not torch.tensor: a copy from the host would wait for the device
        step_size = torch.full_like(state.counter, self.step_size, dtype=torch.float64)
        explores = torch.zeros_like(state.counter, dtype=torch.bool)
        if self.schedule is not None:
            steps = self.gradients_per_iteration(state.target)
            step_size *= self.schedule.multiplier(state.counter, steps) ** self.step_size_power
            explores = self.schedule.explores(state.counter, steps)
        columns = self._columns(state, step_size, explores)
        for column, value in zip((ops.STEP_SIZE, ops.FRICTION, ops.NOISE_ESTIMATE), columns, strict=True):
            state.hyper[:, column] = value.to(state.hyper.dtype)

    def gradients_per_iteration(self, target: Target) -> int:
        """`steps_per_iteration`, or one epoch."""
        return self.steps_per_iteration or math.ceil(target.num_data / (self.batch_size or target.num_data))

    def keeps(self, iteration: int) -> bool:
        return self.schedule is None or self.schedule.keeps(iteration)


def check_friction(step_size: float, friction: float) -> None:
    """Refuses what `1 - step_size * friction` cannot be a share of momentum for."""
    positive("step size", step_size)
    positive("friction", friction)
    if step_size * friction >= 1:
        raise UserError(
            f"step size {step_size} times friction {friction} is {step_size * friction:.3g}: it must be "
            "under 1, the share of momentum lost per step"
        )
