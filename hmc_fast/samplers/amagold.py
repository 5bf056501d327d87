"""AMAGOLD: minibatch dynamics with an exact test per trajectory (Zhang, Cooper & De Sa 2020, arXiv:2003.00193).

    repeat
        m ~ N(0, M),  rho = 0,  theta' = theta
        L times:
            theta' = theta' + eps/2 M^-1 m
            g  = gradient of log density over T at theta', on a minibatch
            m' = ((1 - eps beta) m + eps g + eta) / (1 + eps beta),   eta ~ N(0, 4 eps beta M)
            rho = rho - eps/2 g^T M^-1 (m + m'),   m = m'
            theta' = theta' + eps/2 M^-1 m
        with probability min(1, exp(U(theta) - U(theta') + rho)):  theta = theta'

    symbol   argument                symbol   argument
    eps      step_size               L        num_leapfrog, or one epoch
    beta     friction                M^-1     inverse_mass

rho is the energy removed by the minibatch forces: with the full data and beta = 0 it is the loss of kinetic energy,
and the algorithm is HMC. The test needs the full-data energy once per trajectory, a cost amortised over L
gradients. It is exact if every sequence of minibatches is as likely as its reverse. Minibatches are therefore drawn
independently and with replacement; batches cut from a permutation that ends within a trajectory would not qualify.
"""

import math

import torch
from torch import Tensor

from ..arguments import positive, whole_number
from ..compute.random_streams import NOISE, PERMUTATION
from ..compute.recording import Repeats, repeat
from ..dynamics.coefficients import Coefficients
from ..dynamics.gradient_step import GradientStep, Graph
from ..dynamics.metropolis import metropolis_test
from ..errors import UserError
from ..kernels import ops
from ..kernels.ops import Counter
from ..targets.base import Target
from .metropolis_chain import Chain
from .protocol import Batch, Clock, Info, Sampler, buffers

__all__ = ["AMAGOLD", "AMAGOLDState"]


class AMAGOLDState(Chain):
    """C chains.

    Attributes:
        steps: steps so far. rho: `(C,)` float64, of the trajectory.
    """

    drifts_per_step = 2

    def __init__(self, sampler: "AMAGOLD", target: Target, theta: Tensor, seed: int, graph: Graph) -> None:
        size = sampler.batch_size or target.num_data
        if size > target.num_data:
            raise UserError(f"batch size {size} must lie between 1 and the {target.num_data} data points")
        super().__init__(target, theta, seed, graph)
        self.steps = Clock(target.device)
        self.rho = torch.zeros_like(self.origin.kinetic_energy)
        sampler.coefficients().write(self.coefficients, target.temperature)
        self.repeats = Repeats()
        self.gradient_step = sampler.gradient_step(self, size, graph)


class AMAGOLD(Sampler):
    """Stochastic-gradient dynamics with an amortised exact Metropolis-Hastings test.

    Args:
        step_size: eps, in units of theta.
        friction: beta, 1 / time; 0 for none.
        batch_size: B; 0 or None for the full data.
        num_leapfrog: L, steps per trajectory; None: one epoch, ceil(N / B).
        inverse_mass: `(D,)` or `(C, D)`, None for identity.

    Raises:
        UserError: a step size that is not positive, a negative friction or batch size, fewer than one step, or,
            in `init`, a batch larger than the data.
    """

    name = "amagold"
    has_metropolis_test = True

    def __init__(
        self,
        step_size: float,
        *,
        friction: float,
        batch_size: int | None = None,
        num_leapfrog: int | None = None,
        inverse_mass: Tensor | None = None,
    ) -> None:
        if not (math.isfinite(friction) and friction >= 0):
            raise UserError(f"friction {friction} must be finite and not negative")
        if batch_size is not None:
            whole_number("batch size", batch_size, least=0)
        if num_leapfrog is not None:
            whole_number("number of leapfrog steps", num_leapfrog)
        self.step_size, self.friction = positive("step size", step_size), friction
        self.batch_size, self.num_leapfrog, self.inverse_mass = batch_size or None, num_leapfrog, inverse_mass

    def init(
        self, target: Target, theta: Tensor, *, seed: int = 0, graph: Graph = False, warm_up_iterations: int = 0
    ) -> AMAGOLDState:
        """Evaluates the target once at `theta (C, D)`."""
        return AMAGOLDState(self, target, theta, seed, graph)

    def step(
        self, state: AMAGOLDState, batch: Batch | None = None, *, warming_up: bool = False
    ) -> tuple[AMAGOLDState, Info]:
        """One trajectory on minibatches and its test on the full data, for every chain."""
        if batch is not None:
            raise UserError(
                "the Metropolis test of amagold needs minibatches of its own: leave batch out, or use SGHMC"
            )
        num_leapfrog = self.gradients_per_iteration(state.target)
        state.repeats.set(num_leapfrog)
        info = Info._make((*state.iterate(self.iteration), num_leapfrog))
        state.steps.count += num_leapfrog
        state.iteration.count += 1
        return state, info

    def steps(
        self, state: AMAGOLDState, number: int, *, warming_up: bool = False
    ) -> tuple[AMAGOLDState, Tensor, Info]:
        """Several trajectories, each with its test."""
        num_leapfrog = self.gradients_per_iteration(state.target)
        state.repeats.set(num_leapfrog)
        theta, *figures = state.iterations(self.iteration, number, {})
        state.steps.count += number * num_leapfrog
        state.iteration.count += number
        return state, theta, Info._make((*figures, torch.full((number, 1), num_leapfrog)))

    def iteration(self, state: AMAGOLDState) -> tuple[Tensor, ...]:
        state.call(self.begin)
        repeat(state.gradient_step, state.repeats)
        state.evaluate_proposal()
        return state.call(self.test)

    def begin(self, state: AMAGOLDState) -> None:
        """m ~ N(0, M), rho = 0, at theta."""
        state.propose(state.fresh_momentum(self.inverse_mass))
        state.rho.zero_()

    def coefficients(self) -> Coefficients:
        """One step: m' = ((1 - eps beta) m + eps g + eta) / (1 + eps beta), then half a drift."""
        eps, a = self.step_size, 1 + self.step_size * self.friction
        return Coefficients(
            kick=eps / a, drift=eps / 2, decay=(2 - a) / a, noise=math.sqrt(4 * eps * self.friction) / a
        )

    def gradient_step(self, state: AMAGOLDState, batch_size: int, graph: Graph) -> GradientStep:
        """Half a drift, a minibatch gradient, the kick and its contribution to rho, half a drift."""
        target, new, steps, rho = state.target, state.proposal, state.steps.on_device, state.rho
        theta, momentum, grad, c, eps = new.theta, new.momentum, new.grad, state.coefficients, self.step_size
        log_lik, seed = theta.new_empty(len(theta), batch_size), state.seed
        force, before = torch.empty_like(theta), torch.empty_like(theta)
        indices = torch.zeros(len(theta), batch_size, dtype=torch.int64, device=target.device)

        def velocity(momentum: Tensor) -> Tensor:
            return momentum if self.inverse_mass is None else momentum * self.inverse_mass

        def first_half() -> None:
            theta.add_(velocity(momentum), alpha=eps / 2)
            if self.batch_size is not None:  # independent draws, with replacement
                words, *_ = ops.philox(Counter(seed, PERMUTATION, steps), *indices.shape)
                indices.copy_(words * target.num_data >> 32)

        def gradient() -> None:
            target.log_likelihood_and_grad(theta, grad, log_lik, None if self.batch_size is None else indices)

        def second_half() -> None:
            target.force(theta, grad, force)
            before.copy_(momentum)
            noise = Counter(seed, NOISE, steps)
            ops.kick_drift(theta, momentum, grad, target.prior, c, inverse_mass=self.inverse_mass, noise=noise)
            rho.sub_((force * velocity(before + momentum)).double().sum(1) * (eps / 2))
            steps.add_(1)

        written = [*buffers(state), log_lik, force, before, indices]
        return GradientStep(
            target, gradient, second_half, written, count=batch_size, prepare=first_half, graph=graph
        )

    def test(self, state: AMAGOLDState) -> tuple[Tensor, ...]:
        """theta = theta' with probability min(1, exp(U(theta) - U(theta') + rho))."""
        energy_error = state.potential_error() - state.rho
        test = metropolis_test(energy_error, state.uniform())
        kinetic_energy = ops.kinetic_energy(state.proposal.momentum, inverse_mass=self.inverse_mass)
        state.take(test.accepted)
        return state.outcome(energy_error, test, kinetic_energy)

    def gradients_per_iteration(self, target: Target) -> int:
        """`num_leapfrog`, or one epoch."""
        return self.num_leapfrog or math.ceil(target.num_data / (self.batch_size or target.num_data))
