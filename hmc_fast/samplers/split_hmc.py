"""Symmetric split HMC over subsets of the data (Cobb & Jalaian 2021, arXiv:2010.06772, section 4).

    U = U_1 + ... + U_M, one part per subset of the data, each with its share of the prior

    repeat
        m ~ N(0, M)
        L times:                                                           one step eps
            for k = 1 .. M-1:   kick(U_k, eps/2)  drift(h)                 h = eps / (2 (M - 1))
            kick(U_M, eps)
            for k = M-1 .. 1:   drift(h)  kick(U_k, eps/2)
        accept or reject with the energy on all data

    symbol   argument                symbol   argument
    eps      step_size               L        num_leapfrog, or ceil(trajectory_length / step_size)
    M        num_splits              M^-1     inverse_mass

Each kick depends on theta alone, so a step keeps volume, and it reads alike backwards: the test is exact whatever
the subsets. A gradient sees N/M examples, which bounds memory, and a step costs 2 (M - 1) of them, about two passes
over the data, but drifts 2 (M - 1) times, so that a step may be longer than leapfrog's. Two kicks by one subset
without a drift between are one kick: of U_M inside a step, and of U_1 where two steps meet.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..dynamics.gradient_step import Graph, Unit
from ..dynamics.integrators import steps_of
from ..dynamics.minibatches import permutation
from ..errors import UserError
from ..kernels import ops
from ..targets.base import Target, positive
from .metropolised import Metropolised, MetropolisedState

__all__ = ["SplitHMC", "SplitHMCState"]


@dataclass(kw_only=True)
class SplitHMCState(MetropolisedState):
    """C chains. `step` mutates every tensor here, in place."""

    subsets: tuple[Tensor, ...] = ()  # M times int64 (C, N/M), constant
    indices: "dict[int, Tensor]" = field(default_factory=dict)  # by size: the subset that a visit reads
    units: "dict[tuple[int, int, bool], Unit]" = field(default_factory=dict)


class Visit(NamedTuple):
    """One gradient of a trajectory."""

    subset: int
    kicks: int  # 2: the end of one step and the beginning of the next, or the middle of a step
    drifts: bool


class SplitHMC(Metropolised[SplitHMCState]):
    """HMC whose trajectories see one subset of the data at a time, with an exact test on all data.

    Args:
        step_size: eps, in units of theta.
        num_splits: M, at least 2; subsets are fixed by the seed, equal but for the last, and shared by all chains.
        trajectory_length: eps * L, in units of theta. Give this or num_leapfrog.
        num_leapfrog: L, steps of eps; each takes 2 (M - 1) gradients on a subset.
        inverse_mass: `(D,)` or `(C, D)`, None for identity.

    Raises:
        UserError: a step size or trajectory length that is not positive, fewer than 2 splits or, in `init`,
            more than there are data, no step, or both or neither of trajectory_length and num_leapfrog.
    """

    name = "split_hmc"
    keeps_gradient = False
    State = SplitHMCState

    def __init__(
        self,
        step_size: float,
        *,
        num_splits: int,
        trajectory_length: float | None = None,
        num_leapfrog: int | None = None,
        inverse_mass: Tensor | None = None,
    ) -> None:
        self.step_size, self.inverse_mass = positive("step size", step_size), inverse_mass
        if num_splits < 2:
            raise UserError(f"number of splits {num_splits} must be at least 2: HMC is what 1 would be")
        if (trajectory_length is None) == (num_leapfrog is None):
            raise UserError("SplitHMC needs either trajectory_length or num_leapfrog, and not both")
        if num_leapfrog is not None and num_leapfrog < 1:
            raise UserError(f"number of leapfrog steps {num_leapfrog} must be at least 1")
        if trajectory_length is not None:
            num_leapfrog = steps_of(positive("trajectory length", trajectory_length) / step_size)
        assert num_leapfrog is not None
        self.num_splits, self.num_leapfrog, self.trajectory_length = num_splits, num_leapfrog, trajectory_length
        self._drifts = 2 * (num_splits - 1)  # per step

    def gradients_per_iteration(self, target: Target) -> int:
        """On a subset each."""
        return self.num_leapfrog * self._drifts + 1

    def _first_step_size(self) -> float:
        return self.step_size / self._drifts  # kernels drift by what they read

    def _reported(self, step_size: Tensor) -> Tensor:
        return step_size * self._drifts

    def _prepare(self, state: SplitHMCState, graph: Graph, warm_up_iterations: int) -> None:
        target, num_chains = state.target, len(state.theta)
        if self.num_splits > target.num_data:
            raise UserError(f"number of splits {self.num_splits} must not exceed the {target.num_data} data points")
        order = permutation(state.seed, 0, 1, target.num_data, target.device).expand(num_chains, -1)
        state.subsets = tuple(part.contiguous() for part in order.tensor_split(self.num_splits, dim=1))
        sizes = {part.shape[1] for part in state.subsets}  # two at most
        state.indices = {size: torch.empty_like(order[:, :size]) for size in sizes}
        state.units = {
            (size, kicks, drifts): self._unit(state, size, kicks, drifts, graph)
            for size, kicks, drifts in {self._kind(state, visit) for visit in self._visits(2)}
        }

    def _unit(self, state: SplitHMCState, size: int, kicks: int, drifts: bool, graph: Graph) -> Unit:
        """A visit to a subset of that size: its gradient, one kick or two in one, and a drift. Which subset it is
        lies in a buffer: compiling and capturing cost the same for any number of subsets."""
        target, theta, momentum, grad = state.target, state.work_theta, state.work_new_momentum, state.work_grad
        indices, log_lik = state.indices[size], theta.new_empty(len(theta), size)
        # Half of eps, in units of h = eps / (2 (M - 1)), times the subset's share of the data
        fraction = kicks * self._drifts / 2 * size / target.num_data

        def gradient() -> None:
            target.log_likelihood_and_grad(theta, grad, log_lik, indices)

        def update() -> None:
            keywords: dict[str, Any] = {"fraction": fraction, "inverse_mass": self.inverse_mass}
            if drifts:
                ops.kick_drift(theta, momentum, grad, target.prior, state.hyper, **keywords)
            else:
                ops.kick(momentum, grad, theta, target.prior, state.hyper, **keywords)

        return Unit(target, gradient, update, (theta, momentum, grad, log_lik), count=size, graph=graph)

    def _trajectory(self, state: SplitHMCState, num_leapfrog: int) -> None:
        for visit in self._visits(self.num_leapfrog):
            subset = state.subsets[visit.subset]
            state.indices[subset.shape[1]].copy_(subset)
            state.units[self._kind(state, visit)]()

    def _kind(self, state: SplitHMCState, visit: Visit) -> tuple[int, int, bool]:
        return state.subsets[visit.subset].shape[1], visit.kicks, visit.drifts

    def _visits(self, num_leapfrog: int) -> Iterator[Visit]:
        last = self.num_splits - 1
        for step in range(num_leapfrog):
            for subset in (*range(last + 1), *range(last - 1, 0, -1)):
                twice = subset == last or (subset == 0 and step > 0)
                yield Visit(subset, 2 if twice else 1, drifts=True)
        yield Visit(0, 1, drifts=False)
