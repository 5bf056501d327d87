"""What samplers on minibatches have in common: chains that take one gradient and one update at a time.

    for i = 1 .. steps_per_iteration                one iteration
        coefficients from the schedule              \
        gradient on minibatch i                      } one GradientStep: captured, compiled or simply called
        update                                      /  <- the sampler's own

There is no Metropolis test, so a chain that diverges to NaN or infinity is lost; it counts as divergent.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..compute.random_streams import MOMENTUM, NOISE, check_seed
from ..dynamics.coefficients import Coefficients
from ..dynamics.gradient_step import GradientStep, Graph
from ..dynamics.minibatches import Minibatches
from ..dynamics.schedules import Schedule
from ..errors import UserError
from ..kernels import ops
from ..kernels.ops import Counter
from ..targets.base import Target, positive
from .protocol import Clock, Info, buffers

__all__ = ["MinibatchChain", "MinibatchSampler", "check_friction"]


class MinibatchSampler(ABC):
    """Settings of a sampler whose step is one gradient, on a minibatch or the full data, and one update.

    Raises:
        UserError: a step size that is not positive, a negative batch size, or no step.
    """

    name: str
    has_metropolis_test = False
    has_momentum: ClassVar[bool] = True  # False: momentum is scratch, and there is no kinetic energy
    step_size_power: ClassVar[int] = 1  # 2: the step size is a learning rate, in units of theta squared
    inverse_mass: Tensor | None = None

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
    def coefficients(self, chain: Any, eps: Tensor, explores: Tensor) -> Coefficients:
        """What an update multiplies by, from the step size `(1,)` float64 and whether noise is off `(1,)`.

        Part of a step: nothing is read back.
        """

    @abstractmethod
    def update(self, chain: Any) -> None:
        """Moves theta with the gradient in `chain.grad`. Part of a step."""

    def gradients_per_iteration(self, target: Target) -> int:
        """`steps_per_iteration`, or one epoch."""
        return self.steps_per_iteration or math.ceil(target.num_data / (self.batch_size or target.num_data))

    def keeps(self, iteration: int) -> bool:
        return self.schedule is None or self.schedule.keeps(iteration)


@dataclass
class _Scratch:
    """What lives within a step or an iteration."""

    grad: Tensor  # (C, D)
    log_lik: Tensor  # (C, B)
    log_lik_sum: Tensor  # (C,) float64, over the iteration
    indices: Tensor  # (C, B) int64 minibatch of the step under way


class MinibatchChain:
    """C chains. Steps mutate every tensor here, in place.

    A subclass makes tensors of its own first and calls this last: the step is built over all of them.

    Attributes:
        theta, momentum: `(C, D)`. coefficients: `(C, 4)`, see `Coefficients`.
        step_size: `(1,)` float64, of the step under way.
        steps: steps so far.
    """

    def __init__(self, sampler: MinibatchSampler, target: Target, theta: Tensor, seed: int, graph: Graph) -> None:
        self.target, self.seed = target, check_seed(seed)
        num_chains, device = len(theta), target.device
        batch_size = sampler.batch_size or target.num_data
        self.theta, self.momentum = theta.clone(), torch.zeros_like(theta)
        self.coefficients = Coefficients.buffer(theta)
        self.step_size = torch.zeros(1, dtype=torch.float64, device=device)
        self.steps = Clock(device)
        self._sampler, self._minibatched = sampler, sampler.batch_size is not None
        self._minibatches = Minibatches(target.num_data, batch_size, num_chains, seed, device)
        self._scratch = _Scratch(
            grad=torch.empty_like(theta),
            log_lik=theta.new_empty(num_chains, batch_size),
            log_lik_sum=torch.zeros(num_chains, dtype=torch.float64, device=device),
            indices=torch.zeros(num_chains, batch_size, dtype=torch.int64, device=device),
        )
        self.set_coefficients()
        self._step = self._gradient_step(self._scratch.indices if self._minibatched else None, graph)

    @property
    def grad(self) -> Tensor:
        """Of the log likelihood, estimated on the step's minibatch (N/B times its sum), `(C, D)`."""
        return self._scratch.grad

    @property
    def log_likelihood(self) -> Tensor:
        """Estimated on the step's minibatch, float64 `(C,)`."""
        return self._scratch.log_lik.double().mean(1) * self.target.num_data

    def evaluate(self) -> None:
        """The gradient where the chains are, on all data: for a sampler that learns from it at the start."""
        self.target.log_likelihood_and_grad(self.theta, self._scratch.grad, self._scratch.log_lik)

    def noise(self) -> Counter:
        """Of the step under way."""
        return Counter(self.seed, NOISE, self.steps.on_device)

    def refresh_momentum(self) -> None:
        """m ~ N(0, M)."""
        counter = Counter(self.seed, MOMENTUM, self.steps.on_device)
        ops.refresh_momentum(self.momentum, counter, inverse_mass=self._sampler.inverse_mass)

    def set_coefficients(self) -> None:
        """On the device, from the step counter: nothing is read back, so a captured step may do it."""
        sampler, step = self._sampler, self.steps.on_device
        # torch.full, not torch.tensor: a copy from the host would wait for the device
        step_size = torch.full_like(step, sampler.step_size, dtype=torch.float64)
        explores = torch.zeros_like(step, dtype=torch.bool)
        if sampler.schedule is not None:
            steps = sampler.gradients_per_iteration(self.target)
            step_size *= sampler.schedule.multiplier(step, steps) ** sampler.step_size_power
            explores = sampler.schedule.explores(step, steps)
        self.step_size.copy_(step_size)
        sampler.coefficients(self, self.step_size, explores).write(self.coefficients, self.target.temperature)

    def advance(self, batch: Tensor | None = None) -> Info:
        """One iteration of steps, each on its own minibatch, or all on `batch (C, B)`."""
        sampler, steps = self._sampler, self._sampler.gradients_per_iteration(self.target)
        self._scratch.log_lik_sum.zero_()
        step = self._step if batch is None else self._gradient_step(batch, graph=False)
        for _ in range(steps):
            if batch is None and self._minibatched:
                self._minibatches.advance(self.steps.count)
            step()
            self.steps.count += 1
        info = Info.untested(self, self._scratch.log_lik_sum / steps, self.step_size, steps)
        if sampler.has_momentum:
            kinetic_energy = ops.kinetic_energy(self.momentum, inverse_mass=sampler.inverse_mass)
            info = info._replace(kinetic_energy=kinetic_energy)
        return info

    def _gradient_step(self, batch: Tensor | None, graph: Graph) -> GradientStep:
        """One gradient and one update, on all data or on the rows `batch (C, B)`."""
        target, scratch = self.target, self._scratch
        log_lik = scratch.log_lik if batch is None else scratch.log_lik[:, : batch.shape[1]]

        def prepare() -> None:
            if self._sampler.schedule is not None:
                self.set_coefficients()
            if batch is scratch.indices:
                self._minibatches.read(self.steps.on_device, batch)

        def gradient() -> None:
            target.log_likelihood_and_grad(self.theta, scratch.grad, log_lik, batch)

        def update() -> None:
            self._sampler.update(self)
            scratch.log_lik_sum.add_(log_lik.double().mean(1) * target.num_data)
            self.steps.on_device.add_(1)

        written = [self.theta, *buffers(self)]
        return GradientStep(target, gradient, update, written, count=log_lik.shape[1], prepare=prepare, graph=graph)


def check_friction(step_size: float, friction: float) -> float:
    """The friction itself; UserError where `1 - step_size * friction` is no share of the momentum."""
    positive("step size", step_size)
    positive("friction", friction)
    if step_size * friction >= 1:
        raise UserError(
            f"step size {step_size} times friction {friction} is {step_size * friction:.3g}: it must be "
            "under 1, the share of momentum lost per step"
        )
    return friction
