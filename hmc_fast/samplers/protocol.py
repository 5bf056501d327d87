"""The interface of every sampler: `init(target, theta, seed) -> state`, `step(state) -> (state, info)`.

A state owns its buffers. `step` mutates them in place and returns the same state, so their addresses never change.
A checkpoint stores the state's own tensors and every attribute that has a `state_dict`; scratch buffers live one
level deeper, in dataclasses, and are not stored. Info is output only and never feeds back into the chain.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol
from weakref import proxy

import torch
from torch import Tensor

from ..dynamics.gradient_step import Graph
from ..targets.base import Target

Batch = Tensor | tuple[Any, Any]

__all__ = ["Batch", "Clock", "Info", "Sampler", "State", "buffers", "held", "restore", "state_tensors"]


class Info(NamedTuple):
    """Diagnostics of one iteration, a `(C,)` device tensor each; of several, `(number, C)`."""

    log_likelihood: Tensor  # sum over the data at the new state; minibatch chains: the iteration's estimate
    log_prior: Tensor
    energy_error: Tensor  # dH of the proposal; NaN where there is no Metropolis test
    accept_prob: Tensor  # min(1, exp(-dH)); NaN where there is no Metropolis test
    accepted: Tensor
    divergent: Tensor
    step_size: Tensor
    kinetic_energy: Tensor  # of the new state and its momentum; NaN where there is no momentum
    num_leapfrog: int | Tensor  # gradients in this iteration, the same for all chains; of several, `(number, 1)`

    @classmethod
    def untested(cls, state: "State", log_likelihood: Tensor, step_size: Tensor, num_leapfrog: int) -> "Info":
        """For samplers without a Metropolis test: a chain is divergent if its theta is not finite, or if its log
        likelihood is NaN.

        log_likelihood: `(C,)`. step_size: `(C,)` or `(1,)`.
        """
        finite = torch.isfinite(state.theta.sum(1)) & ~torch.isnan(log_likelihood)
        nan = torch.full_like(state.theta[:, 0], torch.nan, dtype=torch.float64)
        return cls(
            log_likelihood=log_likelihood,
            log_prior=state.target.log_prior(state.theta),
            energy_error=nan,
            accept_prob=nan,
            accepted=torch.ones_like(finite),
            divergent=~finite,
            step_size=step_size.expand(len(finite)).clone(),
            kinetic_energy=nan,
            num_leapfrog=num_leapfrog,
        )


class State(Protocol):
    """What the engine needs from the state of any sampler."""

    @property
    def target(self) -> Target: ...

    @property
    def theta(self) -> Tensor:
        """`(C, D)`."""


class Sampler(Protocol):
    """A sampler is its settings plus two functions. Inherit from this class, or simply match it.

    A third is optional, for samplers that make several iterations in one call:
    `steps(state, number, *, warming_up=False) -> (state, theta (number, C, D), info)`, which is `number` calls of
    `step`. It is not used while a sampler with the attribute `adapt=True` warms up.

    So is a fourth, for samplers that learn how much work an iteration takes: `forecast(warm_up_iterations,
    iterations) -> (expected, at most)` gradients of a chain. Their states have `learned_gradients`, per iteration,
    None unless just learned.

    The attribute `partial_refreshment=True` says that the momentum persists from one iteration to the next, and
    `remark` in a sentence how the law differs from the posterior that was given.
    """

    name: str
    has_metropolis_test: bool
    batch_size: int | None  # examples per gradient; None is the full data

    def init(
        self, target: Target, theta: Tensor, *, seed: int = 0, graph: Graph = False, warm_up_iterations: int = 0
    ) -> Any:
        """The state at `theta (C, D)`, which is copied.

        graph: how steps run, see `GradientStep`. warm_up_iterations: how many iterations with `warming_up=True`
        come first, for samplers that adapt during them.
        """

    def step(self, state: Any, batch: Batch | None = None, *, warming_up: bool = False) -> tuple[Any, Info]:
        """One iteration. batch: int64 `(C, B)` rows of the data, or a pair (x, y) of examples for all chains;
        None lets the sampler choose."""

    def gradients_per_iteration(self, target: Target) -> int:
        """Gradient evaluations per chain in one iteration, ignoring jitter."""

    def keeps(self, iteration: int) -> bool:
        """Whether the draw after this iteration may be kept (cyclical schedules discard some)."""
        return True


class Clock:
    """A counter kept twice: on the device, where kernels read it, and on the host, where Python branches on it.

    `on_device.add_(1)` is part of a step, which may be captured or compiled; the host increments `count` itself.
    """

    def __init__(self, device: torch.device) -> None:
        self.on_device = torch.zeros(1, dtype=torch.int64, device=device)  # (1,)
        self.count = 0

    def state_dict(self) -> dict[str, Tensor]:
        return {"count": self.on_device}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        self.on_device.copy_(tensors["count"])
        self.count = int(tensors["count"])


def state_tensors(state: Any) -> dict[str, Tensor]:
    """The tensors that a checkpoint must store, by name."""
    tensors = {name: value for name, value in vars(state).items() if isinstance(value, Tensor)}
    for name, part in _parts(state):
        tensors |= {f"{name}.{key}": value for key, value in part.state_dict().items()}
    return tensors


def restore(state: Any, tensors: Mapping[str, Tensor]) -> None:
    """Copies the tensors from `state_tensors` into a fresh state of the same sampler and target, in place."""
    for name, value in vars(state).items():
        if isinstance(value, Tensor):
            value.copy_(tensors[name])
    for name, part in _parts(state):
        prefix = f"{name}."
        part.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})


def buffers(state: Any) -> list[Tensor]:
    """Every tensor of the state, scratch included: its footprint in device memory."""
    found = list(state_tensors(state).values())
    for value in vars(state).values():
        if dataclasses.is_dataclass(value):
            found += [tensor for tensor in vars(value).values() if isinstance(tensor, Tensor)]
    return found


def held(state: Any, device: torch.device) -> Any:
    """`state`, for its own steps to refer to: on a GPU weakly, so that its graphs and their memory are freed with
    it, not by the cyclic collector. On a CPU steps may be compiled, and no weak reference can be traced."""
    return state if device.type == "cpu" else proxy(state)


def _parts(state: Any) -> Iterator[tuple[str, Any]]:
    return ((name, value) for name, value in vars(state).items() if hasattr(value, "state_dict"))
