"""What samplers with a Metropolis test share: a chain, its proposal, and the operations on them.

These are building blocks; each sampler's own file contains its algorithm. When a proposal is rejected, the chain
stays where it is and that state counts as another draw.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..compute.capture import Captured, Graph, graph_pool
from ..compute.program import several
from ..compute.random_streams import ACCEPT, MOMENTUM, check_seed
from ..compute.recording import Repeats
from ..dynamics.coefficients import Coefficients
from ..dynamics.gradient_step import program, whole
from ..dynamics.integrators import PhasePoint
from ..dynamics.metropolis import MetropolisTest
from ..errors import UserError
from ..kernels import ops
from ..kernels.ops import Counter
from ..targets.base import Target
from .protocol import Batch, Clock, buffers, held

__all__ = ["Chain", "GradientChain", "refuse_batch"]


@dataclass
class Origin:
    """Where a trajectory begins."""

    momentum: Tensor  # (C, D)
    kinetic_energy: Tensor  # (C,) float64


class Chain:
    """C chains and their proposals. Steps mutate all of its tensors in place.

    Attributes:
        theta: `(C, D)`. log_lik: `(C, N)` of each example at theta.
        coefficients: `(C, 4)`, see `Coefficients`.
        iteration: iterations so far.
        proposal: scratch; the start of a trajectory, then its end.
        origin: scratch; momentum and kinetic energy at the start of the trajectory.
    """

    drifts_per_step = 1

    def __init__(self, target: Target, theta: Tensor, seed: int, graph: Graph = False) -> None:
        self.target, self.seed = target, check_seed(seed)
        self.theta = theta.clone()
        self.log_lik = theta.new_empty(len(theta), target.num_data)
        self.coefficients = Coefficients.buffer(theta)
        self.iteration = Clock(target.device)
        self.proposal = PhasePoint.like(theta, target.num_data)
        kinetic_energy = torch.full_like(theta[:, 0], torch.nan, dtype=torch.float64)
        self.origin = Origin(torch.empty_like(theta), kinetic_energy)
        self._graph: Graph = graph if target.device.type == "cuda" else False
        self._pool = graph_pool(target.device, graph)
        self._calls: dict[Callable[[Any], Any], Callable[[], Any]] = {}
        self._evaluate()

    def _evaluate(self) -> None:
        self.target.log_likelihood(self.theta, self.log_lik)

    def call(self, function: Callable[[Any], Any]) -> Any:
        """`function(self)` by the target's path, or captured. For work done once per iteration."""
        if function not in self._calls:
            work = partial(function, held(self, self.target.device))
            if self._graph is False:
                self._calls[function] = program(self.target, work, *self.log_lik.shape)
            else:
                name = f"{function.__name__!r} of an iteration"
                self._calls[function] = Captured(
                    work, name, partial(buffers, held(self, self.target.device)), self._graph, self._pool
                )
        return self._calls[function]()

    def iterate(self, function: Callable[[Any], tuple[Tensor, ...]], *, often: bool = True) -> tuple[Tensor, ...]:
        """`function(self)`, which contains whole trajectories (`gradient_step.whole`) and returns figures `(C,)`.
        often: worth compiling."""
        return self._whole(function, often)()[1:]

    def iterations(
        self, function: Callable[[Any], tuple[Tensor, ...]], number: int, rounds: dict[Repeats, Tensor]
    ) -> tuple[Tensor, ...]:
        """Theta after each of `number` calls, `(number, C, D)`, and their figures `(number, C)`. rounds: see
        `several`."""
        return several(self._whole(function, often=True), number, rounds)

    def _whole(
        self, function: Callable[[Any], tuple[Tensor, ...]], often: bool
    ) -> Callable[[], tuple[Tensor, ...]]:
        """Returns theta, too."""
        if function not in self._calls:
            chain = held(self, self.target.device)

            def work() -> tuple[Tensor, ...]:
                figures = function(chain)
                return (chain.theta.clone(), *figures)

            self._calls[function] = whole(self.target, work, *self.log_lik.shape, often=often)
        return self._calls[function]

    def set_step_size(self, step_size: float | Tensor) -> None:
        """Sets the step size of kicks and drifts: a number, or `(C,)`."""
        Coefficients(kick=step_size, drift=step_size).write(self.coefficients, self.target.temperature)

    @property
    def step_size(self) -> Tensor:
        """The sampler's step size, float64 `(C,)`."""
        drift = self.coefficients[:, ops.DRIFT].to(torch.float64, copy=True)
        return drift if self.drifts_per_step == 1 else self.drifts_per_step * drift

    def fresh_momentum(self, inverse_mass: Tensor | None) -> Tensor:
        """m ~ N(0, M), written to `origin`; returns it."""
        counter = Counter(self.seed, MOMENTUM, self.iteration.on_device)
        kinetic = ops.refresh_momentum(self.origin.momentum, counter, inverse_mass=inverse_mass)
        self.origin.kinetic_energy.copy_(kinetic)
        return self.origin.momentum

    def propose(self, momentum: Tensor) -> None:
        """Starts the proposal at the current theta with `momentum (C, D)`."""
        self.proposal.theta.copy_(self.theta)
        self.proposal.momentum.copy_(momentum)

    def evaluate_proposal(self) -> None:
        """Exact log likelihoods at the proposal."""
        if self._graph is False or self.target.stream is not None:
            _evaluate_proposal(self)
        else:
            self.call(_evaluate_proposal)

    def potential_error(self) -> Tensor:
        """U(theta') - U(theta), float64 `(C,)`, summed from element-wise differences."""
        new = self.proposal
        prior = self.target.prior_difference(self.theta, new.theta)
        return -(prior + ops.likelihood_difference(self.log_lik, new.log_lik)) / self.target.temperature

    def energy_error(self, inverse_mass: Tensor | None) -> Tensor:
        """dH = H(theta', m') - H(theta, m), float64 `(C,)`, summed from element-wise differences."""
        new, inverse_temperature = self.proposal, 1 / self.target.temperature
        start, end = (self.theta, self.origin.momentum), (new.theta, new.momentum)
        difference = self.target.energy_difference(start, end, inverse_mass=inverse_mass)
        likelihood = ops.likelihood_difference(self.log_lik, new.log_lik)
        return torch.sub(difference, likelihood, alpha=inverse_temperature)

    def uniform(self) -> Tensor:
        """One uniform in (0, 1) per chain for the Metropolis test, `(C,)`."""
        return ops.uniforms(Counter(self.seed, ACCEPT, self.iteration.on_device), len(self.theta), 1)[:, 0]

    def take(self, accepted: Tensor) -> None:
        """Moves the chains in which `accepted (C,)` to their proposals."""
        ops.select(self.theta, self.proposal.theta, accepted)
        ops.select(self.log_lik, self.proposal.log_lik, accepted)

    def outcome(self, energy_error: Tensor, test: MetropolisTest, kinetic_energy: Tensor) -> tuple[Tensor, ...]:
        """The fields of `Info` except `num_leapfrog`. Call it after `take`, once per iteration.

        kinetic_energy: at the proposal, `(C,)`.
        """
        self.iteration.on_device.add_(1)
        return (
            self.log_lik.sum(1, dtype=torch.float64),
            self.target.log_prior(self.theta),
            energy_error,
            test.accept_prob,
            test.accepted,
            test.divergent,
            self.step_size,
            torch.where(test.accepted, kinetic_energy, self.origin.kinetic_energy),
        )


class GradientChain(Chain):
    """Chains that reuse the gradient at the end of one trajectory at the start of the next.

    Attributes:
        grad: `(C, D)` of the log likelihood at theta.
    """

    def _evaluate(self) -> None:
        self.grad = torch.empty_like(self.theta)
        self.target.log_likelihood_and_grad(self.theta, self.grad, self.log_lik)
        if not self.target.exact_gradient_pass:
            super()._evaluate()

    def propose(self, momentum: Tensor) -> None:
        super().propose(momentum)
        self.proposal.grad.copy_(self.grad)

    def evaluate_proposal(self) -> None:
        """Exact log likelihoods at the end of the trajectory, unless the gradient pass already computed them."""
        if not self.target.exact_gradient_pass:
            super().evaluate_proposal()

    def take(self, accepted: Tensor) -> None:
        super().take(accepted)
        ops.select(self.grad, self.proposal.grad, accepted)


def _evaluate_proposal(chain: Chain) -> None:
    chain.target.log_likelihood(chain.proposal.theta, chain.proposal.log_lik)


def refuse_batch(name: str, batch: Batch | None) -> None:
    """Raises UserError if a batch is given to a sampler whose Metropolis test needs the full data."""
    if batch is not None:
        raise UserError(f"the Metropolis test of {name} needs the full data: leave batch out, or use SGHMC")
