"""What the minibatch samplers share: chains that alternate one gradient and one update.

    coefficients of all steps from the schedule
    for i = 1 .. steps_per_iteration                one iteration
        gradient on minibatch i                     | one GradientStep: captured, compiled or simply called
        update                                      | <- the sampler's own

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
from ..dynamics.coefficients import Coefficients, FlowCoefficients
from ..dynamics.gradient_step import GradientStep, Graph, whole
from ..dynamics.minibatches import minibatches
from ..dynamics.schedules import Schedule
from ..errors import UserError
from ..kernels import ops
from ..kernels.ops import Counter
from ..targets.base import Target
from ..targets.examples import Examples
from .protocol import Batch, Clock, Info, buffers, held

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
    symmetric: ClassVar[bool] = False  # whether minibatches come in symmetric sweeps
    coefficients_kind: ClassVar[type[Coefficients] | type[FlowCoefficients]] = Coefficients
    always_tabulates: ClassVar[bool] = False  # whether steps differ without a schedule
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
    def coefficients(self, chain: Any, eps: Tensor, explores: Tensor) -> Coefficients | FlowCoefficients:
        """The update's coefficients, given the step size, float64, and whether noise is off, bool: `(1,)`, or,
        where steps differ, `(S,)` for all steps of an iteration, and then a function of these two alone.

        It must read nothing back to the host.
        """

    @property
    def tabulates(self) -> bool:
        """Whether the steps of an iteration differ, so that their coefficients are a table."""
        return self.always_tabulates or self.schedule is not None

    def begin(self, chain: Any, eps: Tensor, explores: Tensor) -> None:  # noqa: B027
        """What comes before an iteration's first gradient, if `tabulates`; arguments as for `coefficients`."""

    def gradient(self, chain: Any, target: Target, log_lik: Tensor, batch: Tensor | Examples | None) -> None:
        """Writes `chain.grad` and log_lik `(C, B)`: calls of `target.log_likelihood_and_grad`, nothing else."""
        target.log_likelihood_and_grad(chain.theta, chain.grad, log_lik, batch)

    @abstractmethod
    def update(self, chain: Any) -> None:
        """Moves theta, given the gradient in `chain.grad`. Part of a step."""

    def gradients_per_iteration(self, target: Target) -> int:
        """`steps_per_iteration`, or one epoch."""
        return self.steps_per_iteration or math.ceil(target.num_data / (self.batch_size or target.num_data))

    @property
    def bias_order(self) -> int:
        """The power of the step size with which the bias falls, at least."""
        return 1

    def keeps(self, iteration: int) -> bool:
        return self.schedule is None or self.schedule.keeps(iteration)


@dataclass
class _Scratch:
    """Buffers whose contents matter only within a step or an iteration."""

    grad: Tensor  # (C, D)
    log_lik: Tensor  # (C, B)
    log_lik_sum: Tensor  # (C,) float64, over the iteration
    indices: Tensor  # (C, B) int64 minibatch of the current step
    scheduled: Tensor  # (S, columns) coefficients of step k in row k mod S; S = 0 where all steps have the same


class MinibatchChain:
    """C chains. Steps mutate all of its tensors in place.

    A subclass creates its own tensors before calling this constructor, because the step is built over all of them.

    Attributes:
        theta, momentum: `(C, D)`. coefficients: a row per chain, see the sampler's `coefficients_kind`.
        step_size: `(1,)` float64, of the current step; with a schedule, of the iteration's last.
        steps: steps so far.
        joins_two: whether a step's noise is that of two steps of a chain at half the step size; set before the
            first step (`results/bias_certificate.py`).
    """

    joins_two = False

    def __init__(self, sampler: MinibatchSampler, target: Target, theta: Tensor, seed: int, graph: Graph) -> None:
        self.target, self.seed = target, check_seed(seed)
        num_chains, device = len(theta), target.device
        batch_size = sampler.batch_size or target.num_data
        self.theta, self.momentum = theta.clone(), torch.zeros_like(theta)
        self.coefficients = sampler.coefficients_kind.buffer(theta)
        self.step_size = torch.zeros(1, dtype=torch.float64, device=device)
        self.steps = Clock(device)
        self._sampler, self._minibatched = sampler, sampler.batch_size is not None
        self._minibatches = None
        if self._minibatched:
            self._minibatches = minibatches(target, batch_size, num_chains, seed, symmetric=sampler.symmetric)
        table = sampler.gradients_per_iteration(target) if sampler.tabulates else 0
        self._scratch = _Scratch(
            grad=torch.empty_like(theta),
            log_lik=theta.new_empty(num_chains, batch_size),
            log_lik_sum=torch.zeros(num_chains, dtype=torch.float64, device=device),
            indices=torch.zeros(num_chains, batch_size, dtype=torch.int64, device=device),
            scheduled=theta.new_zeros(table, self.coefficients.shape[1]),
        )
        self.set_coefficients()
        computing = target if self._minibatches is None else self._minibatches.target
        step = self._gradient_step(computing, self._scratch.indices if self._minibatched else None, graph)
        self._schedule = whole(computing, partial(_begin, held(self, device)), num_chains, batch_size, often=False)
        self._repeats = Repeats()
        self._steps = whole(computing, partial(repeat, step, self._repeats), num_chains, batch_size)

    @property
    def grad(self) -> Tensor:
        """Gradient of the log likelihood, estimated from the step's minibatch (N/B times its sum), `(C, D)`."""
        return self._scratch.grad

    @property
    def log_lik(self) -> Tensor:
        """Log likelihood of each example of the step's minibatch, `(C, B)`."""
        return self._scratch.log_lik

    @property
    def log_likelihood(self) -> Tensor:
        """Log likelihood of the full data, estimated from the step's minibatch, float64 `(C,)`."""
        return self._scratch.log_lik.double().mean(1) * self.target.num_data

    def evaluate(self) -> None:
        """The full-data gradient at theta, for samplers that need it before the first step."""
        log_lik = self.theta.new_empty(len(self.theta), self.target.num_data)
        self.target.log_likelihood_and_grad(self.theta, self._scratch.grad, log_lik)

    def noise(self) -> Counter:
        """The noise counter of the current step."""
        return self.counter(NOISE)

    def counter(self, stream: int) -> Counter:
        """That of the current step in any stream."""
        return Counter(self.seed, stream, self.steps.on_device, self.joins_two)

    def first_counter(self, stream: int) -> Counter:
        """That of an iteration's beginning, the same at half the step size."""
        return Counter(self.seed, stream, (2 if self.joins_two else 1) * self.steps.on_device)

    def refresh_momentum(self) -> None:
        """m ~ N(0, M)."""
        counter = self.first_counter(MOMENTUM)
        ops.refresh_momentum(self.momentum, counter, inverse_mass=self._sampler.inverse_mass)

    def set_coefficients(self) -> None:
        """Those of the step size, and of the state of the chains where they depend on it. Nothing is read back, so
        a captured step may do it."""
        self.step_size.fill_(self._sampler.step_size)
        explores = torch.zeros_like(self.step_size, dtype=torch.bool)
        coefficients = self._sampler.coefficients(self, self.step_size, explores)
        coefficients.write(self.coefficients, self.target.temperature)

    def advance(self, batch: Batch | None = None) -> Info:
        """One iteration of steps, each on its own minibatch, or all on `batch`.

        Raises:
            UserError: a batch that is neither rows of the data nor examples like them.
        """
        sampler, steps = self._sampler, self._sampler.gradients_per_iteration(self.target)
        chosen = None if batch is None else _checked(batch, self.target, len(self.theta))
        self._scratch.log_lik_sum.zero_()
        self._schedule()
        if chosen is None:
            self._take(steps)
        else:
            self._take_on(chosen, steps)
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

    def _take_on(self, batch: Tensor | Examples, steps: int) -> None:
        """Steps that are all on one batch. They are made once: recording or compiling them is no use."""
        scratch, own = self._scratch, self._scratch.log_lik
        size = batch.shape[1] if isinstance(batch, Tensor) else len(batch[1])
        scratch.log_lik = own.new_empty(len(own), size)
        try:
            repeat(self._gradient_step(self.target.prepared(path="eager"), batch, graph=False), Repeats(steps))
        finally:
            scratch.log_lik = own
        self.steps.count += steps

    def _gradient_step(self, target: Target, batch: Tensor | Examples | None, graph: Graph) -> GradientStep:
        """One gradient and one update, on all data or on a batch: rows `(C, B)`, or examples."""
        scratch, log_lik = self._scratch, self._scratch.log_lik
        chain, sampler, own = held(self, target.device), self._sampler, self._minibatches

        def prepare() -> None:
            if sampler.tabulates:
                rows = scratch.scheduled.view(1, -1)
                ops.read_window(rows, chain.steps.on_device, rows.shape[1], chain.coefficients)
            if batch is scratch.indices and own is not None:
                own.read(chain.steps.on_device, scratch.indices)

        def gradient() -> None:
            sampler.gradient(chain, target, log_lik, batch)

        def update() -> None:
            sampler.update(chain)
            scale = target.num_data / log_lik.shape[1]
            ops.end_step(log_lik, scratch.log_lik_sum, chain.steps.on_device, scale)

        written = [self.theta, *buffers(self)]
        return GradientStep(target, gradient, update, written, count=log_lik.shape[1], prepare=prepare, graph=graph)


def _begin(chain: MinibatchChain) -> None:
    """The coefficients of an iteration's steps, all at once: in a graph every operation is a launch, and it takes
    20 of them whether for one step or for all."""
    sampler, schedule, scheduled = chain._sampler, chain._sampler.schedule, chain._scratch.scheduled
    if not sampler.tabulates:
        return
    number = len(scheduled)  # steps of an iteration: its first is a multiple
    steps = chain.steps.on_device + torch.arange(number, device=scheduled.device)
    multiplier, explores = torch.ones_like(steps, dtype=torch.float64), torch.zeros_like(steps, dtype=torch.bool)
    if schedule is not None:
        multiplier, explores = schedule.multiplier(steps, number), schedule.explores(steps, number)
    if sampler.step_size_power != 1:
        multiplier = multiplier**sampler.step_size_power
    eps = sampler.step_size * multiplier
    sampler.coefficients(chain, eps, explores).write(scheduled, chain.target.temperature)
    chain.step_size.copy_(eps[-1:])
    sampler.begin(chain, eps, explores)


def _checked(batch: Any, target: Target, num_chains: int) -> Tensor | Examples:
    """Rows, or the examples of a pair."""
    if isinstance(batch, tuple | list) and len(batch) == 2:
        return target.examples(*batch)
    if not isinstance(batch, Tensor) or batch.is_floating_point() or batch.ndim != 2 or len(batch) != num_chains:
        found = f"{batch.dtype} {tuple(batch.shape)}" if isinstance(batch, Tensor) else f"a {type(batch).__name__}"
        raise UserError(
            f"batch is {found}: give a pair (x, y) of examples, or rows of the data, int64 ({num_chains}, B)"
        )
    low, high = int(batch.min()), int(batch.max())
    if low < 0 or high >= target.num_data:
        raise UserError(f"batch has rows {low}..{high}: they must lie in 0..{target.num_data - 1}")
    return batch.to(target.device, torch.int64)


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
