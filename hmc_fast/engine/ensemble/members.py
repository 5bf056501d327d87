"""C members in training: one gradient on a minibatch of each and one update of all, repeated for an epoch.

A step is a `GradientStep`, so on a CPU it is traced, or compiled with its loop, and on a GPU captured: minibatch
rows and learning rates are read from buffers by a counter on the device, and nothing is read back before the epoch
ends.
(No GPU has run it yet; see benchmarks/README.md.)
"""

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ...compute.random_streams import TRAINING
from ...compute.recording import Repeats, repeat
from ...dynamics.gradient_step import GradientStep, Graph, whole
from ...dynamics.minibatches import Minibatches, StreamedMinibatches, permutation
from ...kernels import ops
from ...samplers.protocol import Clock
from ...targets.base import Target
from .optimisers import Optimiser

__all__ = ["Members"]

_STEPS_PER_CALL = 100  # of machine code, for whose end Ctrl-C waits


class _TrainingMinibatches(Minibatches):
    """Minibatches of some `rows` of the data, of a random stream that no sampler reads."""

    def __init__(self, rows: Tensor, batch_size: int, num_chains: int, seed: int, device: torch.device) -> None:
        super().__init__(len(rows), batch_size, num_chains, seed, device)
        self._rows = rows.to(device)

    def _permutation(self, epoch: int) -> Tensor:
        positions = permutation(self.seed, epoch, self.num_chains, self.num_data, self.device, stream=TRAINING)
        return self._rows[positions]


@dataclass
class _Scratch:
    """Buffers whose contents matter only within a step or an epoch."""

    grad: Tensor  # (C, D)
    force: Tensor  # (C, D), of likelihood and prior
    log_lik: Tensor  # (C, B)
    log_lik_sum: Tensor  # (C,) float64, of the epoch's means
    rows: Tensor  # (C, B) int64 minibatch of the step
    table: Tensor  # (S, columns), numbers of an epoch's steps
    numbers: Tensor  # (C, columns), of the step


class Members:
    """Members that start at `theta (C, D)`. Steps mutate all tensors in place.

    Args:
        rows: of the data, int64, that they are trained on.
        total: number of steps after which the learning rate has fallen from `learning_rate` to 0 along a cosine.
        uses_prior: whether the target's prior is part of the objective.

    Attributes:
        theta: `(C, D)`. steps: so far.
    """

    def __init__(
        self,
        target: Target,
        theta: Tensor,
        optimiser: Optimiser,
        rows: Tensor,
        *,
        batch_size: int,
        learning_rate: float,
        total: int,
        uses_prior: bool,
        seed: int,
        graph: Graph,
    ) -> None:
        chains, device = len(theta), theta.device
        self.theta, self.steps = theta.clone(), Clock(device)
        self.moments = [torch.zeros_like(theta) for _ in range(optimiser.moments)]
        self.steps_per_epoch = math.ceil(len(rows) / batch_size)
        self._optimiser, self._uses_prior = optimiser, uses_prior
        self._learning_rate, self._total = learning_rate, total
        if target.stream is None:
            self._minibatches: Minibatches | StreamedMinibatches = _TrainingMinibatches(
                rows, batch_size, chains, seed, device
            )
            self._minibatches.target = target
        else:
            known = _TrainingMinibatches(rows, batch_size, chains, seed, torch.device("cpu"))
            self._minibatches = StreamedMinibatches(target, batch_size, chains, seed, known)
        self._scratch = _Scratch(
            grad=torch.empty_like(theta),
            force=torch.empty_like(theta),
            log_lik=theta.new_empty(chains, batch_size),
            log_lik_sum=torch.zeros(chains, dtype=torch.float64, device=device),
            rows=torch.zeros(chains, batch_size, dtype=torch.int64, device=device),
            table=theta.new_zeros(self.steps_per_epoch, optimiser.columns),
            numbers=theta.new_zeros(chains, optimiser.columns),
        )
        self._repeats = Repeats()
        step = self._gradient_step(graph)
        self._steps = whole(self._minibatches.target, partial(repeat, step, self._repeats), chains, batch_size)

    def epoch(self) -> Tensor:
        """One epoch of steps. Returns the mean negative log likelihood of its minibatches, float64 `(C,)`."""
        scratch, first = self._scratch, self.steps.count
        steps = torch.arange(first, first + self.steps_per_epoch, dtype=torch.float64)
        rates = self._learning_rate / 2 * (1 + torch.cos(math.pi * steps / self._total))
        scratch.table.copy_(self._optimiser.numbers(rates, first))
        scratch.log_lik_sum.zero_()
        end = first + self.steps_per_epoch
        while self.steps.count < end:
            number = min(end - self.steps.count, self._minibatches.advance(self.steps.count), _STEPS_PER_CALL)
            self._repeats.set(number)
            self._steps()
            self.steps.count += number
        return -scratch.log_lik_sum / self.steps_per_epoch

    def _gradient_step(self, graph: Graph) -> GradientStep:
        scratch, own = self._scratch, self._minibatches
        target, optimiser, uses_prior = own.target, self._optimiser, self._uses_prior
        theta, moments, clock = self.theta, self.moments, self.steps.on_device
        examples = scratch.log_lik.shape[1]

        def prepare() -> None:
            table = scratch.table.view(1, -1)
            ops.read_window(table, clock, table.shape[1], scratch.numbers)
            own.read(clock, scratch.rows)

        def gradient() -> None:
            target.log_likelihood_and_grad(theta, scratch.grad, scratch.log_lik, scratch.rows)

        def update() -> None:
            ascent = scratch.grad
            if uses_prior:
                ops.force(scratch.force, scratch.grad, theta, target.prior, 1.0)
                ascent = scratch.force
            optimiser.update(theta, ascent * (-1 / target.num_data), moments, scratch.numbers)
            ops.end_step(scratch.log_lik, scratch.log_lik_sum, clock, 1 / examples)

        written = [
            theta, *moments, scratch.grad, scratch.force, scratch.log_lik, scratch.log_lik_sum, scratch.rows,
            scratch.numbers, clock,
        ]  # fmt: skip
        return GradientStep(target, gradient, update, written, count=examples, prepare=prepare, graph=graph)
