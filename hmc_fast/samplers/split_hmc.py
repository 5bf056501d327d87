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

Each kick depends on theta alone, so a step preserves volume; it is also palindromic, so the test is exact for any
choice of subsets. A gradient uses N/M examples, which bounds memory. A step takes 2 (M - 1) gradients, about two
passes over the data, but also 2 (M - 1) drifts, so it can be longer than a leapfrog step. Two kicks from the same
subset with no drift between them are merged: U_M in the middle of a step, and U_1 where two steps meet.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..arguments import positive, whole_number
from ..compute.capture import Graph, Pool, graph_pool
from ..dynamics.coefficients import Coefficients
from ..dynamics.gradient_step import GradientStep
from ..dynamics.integrators import whole_steps
from ..dynamics.metropolis import metropolis_test
from ..dynamics.minibatches import permutation
from ..errors import UserError
from ..kernels import ops
from ..targets.base import Target
from .metropolis_chain import Chain, refuse_batch
from .protocol import Batch, Info, Sampler

__all__ = ["SplitHMC", "SplitHMCState"]


class SplitHMCState(Chain):
    """C chains and the subsets that a trajectory visits.

    Attributes:
        subsets: M constant int64 tensors `(C, N/M)`. indices: for each subset size, the buffer that a visit reads.
        visits: one gradient step of each kind.
    """

    def __init__(self, sampler: "SplitHMC", target: Target, theta: Tensor, seed: int, graph: Graph) -> None:
        if sampler.num_splits > target.num_data:
            raise UserError(
                f"number of splits {sampler.num_splits} must not exceed the {target.num_data} data points"
            )
        super().__init__(target, theta, seed, graph)
        order = permutation(seed, 0, 1, target.num_data, target.device).expand(len(theta), -1)
        self.subsets = tuple(part.contiguous() for part in order.tensor_split(sampler.num_splits, dim=1))
        sizes = {part.shape[1] for part in self.subsets}  # two at most
        self.indices = {size: torch.empty_like(order[:, :size]) for size in sizes}
        self.drifts_per_step = sampler.drifts_per_step
        sampler.coefficients().write(self.coefficients, target.temperature)
        kinds = {self.kind(visit) for visit in sampler.visits(2)}
        pool = graph_pool(target.device, graph)
        self.visits = {kind: sampler.visit(self, kind, graph, pool) for kind in kinds}

    def kind(self, visit: "Visit") -> "Kind":
        return Kind(self.subsets[visit.subset].shape[1], visit.kicks, visit.drifts)


class Visit(NamedTuple):
    """One gradient of a trajectory."""

    subset: int
    kicks: int  # 2: the end of one step and the beginning of the next, or the middle of a step
    drifts: bool


class Kind(NamedTuple):
    """What distinguishes one compiled or captured step from another: subsets of one size share it."""

    size: int
    kicks: int
    drifts: bool


class SplitHMC(Sampler):
    """HMC whose trajectories use one subset of the data at a time, with an exact test on the full data.

    Args:
        step_size: eps, in units of theta.
        num_splits: M, at least 2; the seed fixes the subsets, which have nearly equal sizes and which all chains
            share.
        trajectory_length: eps * L, in units of theta. Give this or num_leapfrog.
        num_leapfrog: L, steps of eps; each takes 2 (M - 1) gradients on a subset.
        inverse_mass: `(D,)` or `(C, D)`, None for identity.

    Raises:
        UserError: a step size or trajectory length that is not positive, fewer than 2 splits or, in `init`,
            more than there are data, fewer than one step, or both or neither of trajectory_length and
            num_leapfrog.
    """

    name = "split_hmc"
    has_metropolis_test = True
    batch_size = None  # the test needs the full data

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
            raise UserError(f"number of splits {num_splits} must be at least 2: for a single subset use HMC")
        if trajectory_length is not None and num_leapfrog is None:
            num_leapfrog = whole_steps(positive("trajectory length", trajectory_length) / step_size)
        elif num_leapfrog is None or trajectory_length is not None:
            raise UserError("SplitHMC needs either trajectory_length or num_leapfrog, but not both")
        whole_number("number of leapfrog steps", num_leapfrog)
        self.num_splits, self.trajectory_length, self.num_leapfrog = num_splits, trajectory_length, num_leapfrog

    def init(
        self, target: Target, theta: Tensor, *, seed: int = 0, graph: Graph = False, warm_up_iterations: int = 0
    ) -> SplitHMCState:
        """Evaluates the target once at `theta (C, D)`."""
        return SplitHMCState(self, target, theta, seed, graph)

    def step(
        self, state: SplitHMCState, batch: Batch | None = None, *, warming_up: bool = False
    ) -> tuple[SplitHMCState, Info]:
        """One trajectory over the subsets and its test on the full data, for every chain."""
        refuse_batch(self.name, batch)
        state.call(self.begin)
        self.trajectory(state)
        state.evaluate_proposal()
        info = Info._make((*state.call(self.test), self.gradients_per_iteration(state.target)))
        state.iteration.count += 1
        return state, info

    def begin(self, state: SplitHMCState) -> None:
        """m ~ N(0, M), at theta."""
        state.propose(state.fresh_momentum(self.inverse_mass))

    def trajectory(self, state: SplitHMCState) -> None:
        """Moves the proposal by L steps."""
        for visit in self.visits(self.num_leapfrog):
            kind, subset = state.kind(visit), state.subsets[visit.subset]
            state.indices[kind.size].copy_(subset)
            state.visits[kind]()

    def visits(self, num_leapfrog: int) -> Iterator[Visit]:
        """The subsets in the order in which they kick a trajectory."""
        last = self.num_splits - 1
        for step in range(num_leapfrog):
            for subset in (*range(last + 1), *range(last - 1, 0, -1)):
                twice = subset == last or (subset == 0 and step > 0)
                yield Visit(subset, 2 if twice else 1, drifts=True)
        yield Visit(0, 1, drifts=False)

    def coefficients(self) -> Coefficients:
        """One visit: kick(U_k, eps/2), drift(eps / (2 (M - 1)))."""
        return Coefficients(kick=self.step_size / 2, drift=self.step_size / self.drifts_per_step)

    def visit(self, state: SplitHMCState, kind: Kind, graph: Graph, pool: Pool | None) -> GradientStep:
        """The gradient on a subset, one kick or two merged, and a drift. The subset's indices are in a buffer."""
        target, new, c = state.target, state.proposal, state.coefficients
        theta, momentum, grad, indices = new.theta, new.momentum, new.grad, state.indices[kind.size]
        log_lik = theta.new_empty(len(theta), kind.size)
        fraction = kind.kicks * kind.size / target.num_data  # the target scales a subset up to all data

        def gradient() -> None:
            target.log_likelihood_and_grad(theta, grad, log_lik, indices)

        def update() -> None:
            if kind.drifts:
                ops.kick_drift(
                    theta, momentum, grad, target.prior, c, fraction=fraction, inverse_mass=self.inverse_mass
                )
            else:
                ops.kick(momentum, grad, theta, target.prior, c, fraction=fraction)

        return GradientStep(
            target, gradient, update, (theta, momentum, grad, log_lik), count=kind.size, graph=graph, pool=pool
        )

    def test(self, state: SplitHMCState) -> tuple[Tensor, ...]:
        """theta = theta' with probability min(1, exp(-dH)), with the full-data energy."""
        energy_error = state.energy_error(self.inverse_mass)
        test = metropolis_test(energy_error, state.uniform())
        kinetic_energy = ops.kinetic_energy(state.proposal.momentum, inverse_mass=self.inverse_mass)
        state.take(test.accepted)
        return state.outcome(energy_error, test, kinetic_energy)

    def gradients_per_iteration(self, target: Target) -> int:
        """Each gradient is on one subset."""
        return self.num_leapfrog * self.drifts_per_step + 1

    @property
    def drifts_per_step(self) -> int:
        """Drifts per step, 2 (M - 1)."""
        return 2 * (self.num_splits - 1)
