"""What samplers with a Metropolis test have in common: a chain, its proposal, and the moves of both.

Functions and buffers to call; the algorithm is the sampler's own file. A rejected proposal repeats the old state,
and the repeat counts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..compute.random_streams import ACCEPT, MOMENTUM, check_seed
from ..dynamics.coefficients import Coefficients
from ..dynamics.gradient_step import accelerated
from ..dynamics.integrators import PhasePoint
from ..dynamics.metropolis import MetropolisTest, likelihood_difference
from ..errors import UserError
from ..kernels import ops
from ..kernels.ops import Counter
from ..targets.base import Target
from .protocol import Clock

__all__ = ["Chain", "GradientChain", "refuse_batch"]


@dataclass
class Origin:
    """Where a trajectory begins."""

    momentum: Tensor  # (C, D)
    kinetic_energy: Tensor  # (C,) float64


class Chain:
    """C chains, and the proposal that each is about to test. Steps mutate every tensor here, in place.

    Attributes:
        theta: `(C, D)`. log_lik: `(C, N)` of each example at theta.
        coefficients: `(C, 4)`, see `Coefficients`.
        iteration: iterations so far.
        proposal: scratch; where a trajectory begins and, after it, where it ended.
        origin: scratch; momentum and kinetic energy where it began.
    """

    def __init__(self, target: Target, theta: Tensor, seed: int) -> None:
        self.target, self.seed = target, check_seed(seed)
        self.theta = theta.clone()
        self.log_lik = theta.new_empty(len(theta), target.num_data)
        self.coefficients = Coefficients.buffer(theta)
        self.iteration = Clock(target.device)
        self.proposal = PhasePoint.like(theta, target.num_data)
        kinetic_energy = torch.full_like(theta[:, 0], torch.nan, dtype=torch.float64)
        self.origin = Origin(torch.empty_like(theta), kinetic_energy)
        self._calls: dict[Callable[[Any], Any], Callable[[], Any]] = {}
        self._evaluate()

    def _evaluate(self) -> None:
        self.target.log_likelihood(self.theta, self.log_lik)

    def call(self, function: Callable[[Any], Any]) -> Any:
        """`function(self)`: as it is, or compiled along with the gradient. For what happens once per iteration."""
        if function not in self._calls:
            self._calls[function] = accelerated(self.target, partial(function, self))
        return self._calls[function]()

    def set_step_size(self, step_size: float | Tensor) -> None:
        """Of kicks and drifts alike: a number, or `(C,)`."""
        Coefficients(kick=step_size, drift=step_size).write(self.coefficients, self.target.temperature)

    @property
    def step_size(self) -> Tensor:
        """Of drifts, `(C,)`."""
        return self.coefficients[:, ops.DRIFT]

    def fresh_momentum(self, inverse_mass: Tensor | None) -> Tensor:
        """m ~ N(0, M), written to `origin`; returns it."""
        counter = Counter(self.seed, MOMENTUM, self.iteration.on_device)
        kinetic = ops.refresh_momentum(self.origin.momentum, counter, inverse_mass=inverse_mass)
        self.origin.kinetic_energy.copy_(kinetic)
        return self.origin.momentum

    def propose(self, momentum: Tensor) -> None:
        """The proposal begins where the chain is, with `momentum (C, D)`."""
        self.proposal.theta.copy_(self.theta)
        self.proposal.momentum.copy_(momentum)

    def potential_error(self) -> Tensor:
        """U(theta') - U(theta), float64 `(C,)`, from element-wise differences alone."""
        new = self.proposal
        prior = ops.prior_difference(self.theta, new.theta, self.target.prior)
        return -(prior + likelihood_difference(self.log_lik, new.log_lik)) / self.target.temperature

    def energy_error(self, inverse_mass: Tensor | None) -> Tensor:
        """dH = H(theta', m') - H(theta, m), float64 `(C,)`, from element-wise differences alone."""
        new, inverse_temperature = self.proposal, 1 / self.target.temperature
        difference = ops.energy_difference(
            self.theta,
            self.origin.momentum,
            new.theta,
            new.momentum,
            self.target.prior,
            inverse_temperature,
            inverse_mass=inverse_mass,
        )
        return difference - inverse_temperature * likelihood_difference(self.log_lik, new.log_lik)

    def uniform(self) -> Tensor:
        """One number in (0, 1) for each chain's test, `(C,)`."""
        return ops.uniforms(Counter(self.seed, ACCEPT, self.iteration.on_device), len(self.theta), 1)[:, 0]

    def take(self, accepted: Tensor) -> None:
        """The chain goes where the proposal is, in the chains that `accepted (C,)`."""
        ops.select(self.theta, self.proposal.theta, accepted)
        ops.select(self.log_lik, self.proposal.log_lik, accepted)

    def outcome(self, energy_error: Tensor, test: MetropolisTest, kinetic_energy: Tensor) -> tuple[Tensor, ...]:
        """The figures of `Info` but for the number of steps, read after `take`; the iteration is over.

        kinetic_energy: at the proposal, `(C,)`.
        """
        self.iteration.on_device.add_(1)
        return (
            self.log_lik.double().sum(1),
            self.target.log_prior(self.theta),
            energy_error,
            test.accept_prob,
            test.accepted,
            test.divergent,
            self.step_size.clone(),
            torch.where(test.accepted, kinetic_energy, self.origin.kinetic_energy),
        )


class GradientChain(Chain):
    """Chains whose trajectories begin with the gradient that an earlier one ended with.

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
        """Exact log likelihoods at the trajectory's end, where the gradient's pass did not leave them."""
        if not self.target.exact_gradient_pass:
            self.target.log_likelihood(self.proposal.theta, self.proposal.log_lik)

    def take(self, accepted: Tensor) -> None:
        super().take(accepted)
        ops.select(self.grad, self.proposal.grad, accepted)


def refuse_batch(name: str, batch: Tensor | None) -> None:
    """Raises UserError where a batch was given to a sampler whose test needs all data."""
    if batch is not None:
        raise UserError(f"the test of {name} needs the full data: leave batch out, or use SGHMC")
