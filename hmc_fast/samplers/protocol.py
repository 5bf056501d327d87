"""What every sampler is: `init(target, theta, seed) -> state`, `step(state) -> (state, info)`.

A state owns its buffers; `step` mutates them in place and returns the same state, so that their addresses
never change. Info is for reading and is never fed back.
"""

import dataclasses
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from ..dynamics.gradient_step import Graph
from ..targets.base import Target

__all__ = ["Info", "Sampler", "State", "state_tensors"]


class Info(NamedTuple):
    """Diagnostics of one iteration, a `(C,)` device tensor each."""

    log_likelihood: Tensor  # sum over the data at the new state; SG samplers: the iteration's estimate
    log_prior: Tensor
    energy_error: Tensor  # dH of the proposal; NaN where there is no Metropolis test
    accept_prob: Tensor  # min(1, exp(-dH)); NaN where there is no Metropolis test
    accepted: Tensor
    divergent: Tensor
    step_size: Tensor
    kinetic_energy: Tensor  # of the new state and its momentum; NaN where there is no momentum
    num_leapfrog: int  # of this iteration, the same for all chains


class State(Protocol):
    """What the engine needs of a state, whatever the sampler."""

    target: Target
    theta: Tensor  # (C, D)


class Sampler(Protocol):
    """A sampler is settings plus two functions."""

    name: str
    has_metropolis_test: bool
    batch_size: int | None  # examples per gradient; None is the full data

    def init(
        self, target: Target, theta: Tensor, *, seed: int = 0, graph: Graph = False, warm_up_iterations: int = 0
    ) -> Any:
        """State at `theta (C, D)`, which is copied.

        graph: how its steps run, see `gradient_step.Unit`. warm_up_iterations: how many iterations with
        `warming_up=True` will come first, for samplers that adapt in them.
        """

    def step(self, state: Any, batch: Tensor | None = None, *, warming_up: bool = False) -> tuple[Any, Info]:
        """One iteration. batch: int64 `(C, B)` rows of the data; None: the sampler's own choice."""

    def gradients_per_iteration(self, target: Target) -> int:
        """Gradients of each chain in one iteration, jitter aside."""

    def keeps(self, iteration: int) -> bool:
        """Whether the draw after this iteration may count (cyclical schedules say no at times)."""


def state_tensors(state: Any) -> dict[str, Tensor]:
    """The tensors that a checkpoint must hold: fields whose name does not begin with "work_"."""
    return {
        field.name: getattr(state, field.name)
        for field in dataclasses.fields(state)
        if isinstance(getattr(state, field.name), Tensor) and not field.name.startswith("work_")
    }
