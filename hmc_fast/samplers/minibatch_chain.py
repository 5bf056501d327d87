"""What the minibatch samplers share: chains that alternate one gradient and one update.

    for i = 1 .. steps_per_iteration                one iteration
        coefficients from the schedule              \
        gradient on minibatch i                      } one GradientStep: captured, compiled or simply called
        update                                      /  <- the sampler's own

There is no Metropolis test, so a chain that diverges to NaN or infinity is lost; it is reported as divergent.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..arguments import positive, whole_number
from ..compute.random_streams import MOMENTUM, NOISE, check_seed
from ..compute.recording import Repeats, repeat
from ..dynamics.coefficients import Coefficients
from ..dynamics.gradient_step import GradientStep, Graph, whole
from ..dynamics.minibatches import minibatches
from ..dynamics.schedules import Schedule
from ..errors import UserError
from ..kernels import ops
from ..kernels.ops import Counter
from ..targets.base import Target
from .protocol import Clock, Info, buffers, held

__all__ = ["MinibatchChain", "MinibatchSampler", "check_friction"]


class MinibatchSampler(ABC):
    """Base class of samplers whose step is one gradient, on a minibatch or the full data, and one update.

    Raises:
        UserError: a step size that is not positive, a negative batch size, or fewer than one step.
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
        if batch_size is not None:
            whole_number("batch size", batch_size, least=0)
        if steps_per_iteration is not None:
            whole_number("steps per iteration", steps_per_iteration)
        self.step_size, self.batch_size = step_size, batch_size or None
        self.steps_per_iteration, self.schedule = steps_per_iteration, schedule

    @abstractmethod
    def coefficients(self, chain: Any, eps: Tensor, explores: Tensor) -> Coefficients:
        """The update's coefficients, given the step size `(1,)` float64 and whether noise is off, `(1,)` bool.

        Part of a step, so it must read nothing back to the host.
        """

    @abstractmethod
    def update(self, chain: Any) -> None:
        """Moves theta, given the gradient in `chain.grad`. Part of a step."""

    def gradients_per_iteration(self, target: Target) -> int:
        """`steps_per_iteration`, or one epoch."""
        return self.steps_per_iteration or math.ceil(target.num_data / (self.batch_size or target.num_data))

    def keeps(self, iteration: int) -> bool:
        return self.schedule is None or self.schedule.keeps(iteration)


@dataclass
class _Scratch:
    """Buffers whose contents matter only within a step or an iteration."""

    grad: Tensor  # (C, D)
    log_lik: Tensor  # (C, B)
    log_lik_sum: Tensor  # (C,) float64, over the iteration
    indices: Tensor  # (C, B) int64 minibatch of the current step


class MinibatchChain:
    """C chains. Steps mutate all of its tensors in place.

    A subclass creates its own tensors before calling this constructor, because the step is built over all of them.

    Attributes:
        theta, momentum: `(C, D)`. coefficients: `(C, 4)`, see `Coefficients`.
        step_size: `(1,)` float64, of the current step.
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
        self._minibatches = minibatches(target, batch_size, num_chains, seed) if self._minibatched else None
        self._scratch = _Scratch(
            grad=torch.empty_like(theta),
            log_lik=theta.new_empty(num_chains, batch_size),
            log_lik_sum=torch.zeros(num_chains, dtype=torch.float64, device=device),
            indices=torch.zeros(num_chains, batch_size, dtype=torch.int64, device=device),
        )
        self.set_coefficients()
        step = self._gradient_step(self._scratch.indices if self._minibatched else None, graph)
        self._repeats = Repeats()
        computing = target if self._minibatches is None else self._minibatches.target
        self._steps = whole(computing, partial(repeat, step, self._repeats), num_chains, batch_size)

    @property
    def grad(self) -> Tensor:
        """Gradient of the log likelihood, estimated from the step's minibatch (N/B times its sum), `(C, D)`."""
        return self._scratch.grad

    @property
    def log_likelihood(self) -> Tensor:
        """Log likelihood of the full data, estimated from the step's minibatch, float64 `(C,)`."""
        return self._scratch.log_lik.double().mean(1) * self.target.num_data

    def evaluate(self) -> None:
        """The full-data gradient at theta, for samplers that adapt to it before the first step."""
        self.target.log_likelihood_and_grad(self.theta, self._scratch.grad, self._scratch.log_lik)

    def noise(self) -> Counter:
        """The noise counter of the current step."""
        return Counter(self.seed, NOISE, self.steps.on_device)

    def refresh_momentum(self) -> None:
        """m ~ N(0, M)."""
        counter = Counter(self.seed, MOMENTUM, self.steps.on_device)
        ops.refresh_momentum(self.momentum, counter, inverse_mass=self._sampler.inverse_mass)

    def set_coefficients(self) -> None:
        """Computed on the device from the step counter; nothing is read back, so a captured step may do it."""
        sampler, step = self._sampler, self.steps.on_device
        if sampler.schedule is None:
            self.step_size.fill_(sampler.step_size)
            explores = torch.zeros_like(step, dtype=torch.bool)
        else:
            steps = sampler.gradients_per_iteration(self.target)
            multiplier = sampler.schedule.multiplier(step, steps)
            if sampler.step_size_power != 1:
                multiplier = multiplier**sampler.step_size_power
            self.step_size.copy_(sampler.step_size * multiplier)
            explores = sampler.schedule.explores(step, steps)
        sampler.coefficients(self, self.step_size, explores).write(self.coefficients, self.target.temperature)

    def advance(self, batch: Tensor | None = None) -> Info:
        """One iteration of steps, each on its own minibatch, or all on `batch (C, B)`."""
        sampler, steps = self._sampler, self._sampler.gradients_per_iteration(self.target)
        self._scratch.log_lik_sum.zero_()
        if batch is None:
            self._take(steps)
        else:
            repeat(self._gradient_step(batch, graph=False), Repeats(steps))
            self.steps.count += steps
        info = Info.untested(self, self._scratch.log_lik_sum / steps, self.step_size, steps)
        if sampler.has_momentum:
            kinetic_energy = ops.kinetic_energy(self.momentum, inverse_mass=sampler.inverse_mass)
            info = info._replace(kinetic_energy=kinetic_energy)
        return info

    def _take(self, steps: int) -> None:
        """Steps on minibatches of their own, as many at once as the window of permutations serves."""
        end = self.steps.count + steps
        while self.steps.count < end:
            number = end - self.steps.count
            if self._minibatches is not None:
                number = min(number, self._minibatches.advance(self.steps.count))
            self._repeats.set(number)
            self._steps()
            self.steps.count += number

    def _gradient_step(self, batch: Tensor | None, graph: Graph) -> GradientStep:
        """One gradient and one update, on all data or on the rows `batch (C, B)`."""
        target, scratch, log_lik = self.target, self._scratch, self._scratch.log_lik
        chain, sampler, own = held(self, target.device), self._sampler, self._minibatches
        if batch is scratch.indices and own is not None:
            target = own.target
        elif batch is not None:  # used once: recording or compiling it is no use
            target, log_lik = target.prepared(path="eager"), log_lik[:, : batch.shape[1]]

        def prepare() -> None:
            if sampler.schedule is not None:
                chain.set_coefficients()
            if batch is scratch.indices and own is not None:
                own.read(chain.steps.on_device, batch)

        def gradient() -> None:
            target.log_likelihood_and_grad(chain.theta, scratch.grad, log_lik, batch)

        def update() -> None:
            sampler.update(chain)
            scratch.log_lik_sum.add_(log_lik.mean(1, dtype=torch.float64), alpha=target.num_data)
            chain.steps.on_device.add_(1)

        written = [self.theta, *buffers(self)]
        return GradientStep(target, gradient, update, written, count=log_lik.shape[1], prepare=prepare, graph=graph)


def check_friction(step_size: float, friction: float) -> float:
    """Returns the friction; UserError unless `1 - step_size * friction` is in (0, 1)."""
    positive("step size", step_size)
    positive("friction", friction)
    if step_size * friction >= 1:
        raise UserError(
            f"step size {step_size} times friction {friction} is {step_size * friction:.3g}, the fraction of "
            "momentum lost per step: it must be under 1"
        )
    return friction
