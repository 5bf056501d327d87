"""Metropolis-adjusted microcanonical HMC (Robnik, Cohn-Gordon & Seljak 2025, arXiv:2503.01707).

    repeat
        u uniform on the unit sphere
        L times:   turn(u, eps/2)   theta = theta + eps M^(-1/2) u   turn(u, eps/2)
        dH = U(theta') - U(theta) + sum of dK
        with probability min(1, exp(-dH)):  theta = theta'

    symbol   argument                symbol   argument
    eps      step_size               L        num_leapfrog, or ceil(trajectory_length / step_size)
    M^-1     inverse_mass            dK       what a turn adds to the kinetic energy (`isokinetic.py`)

The speed is always 1, while HMC's is about sqrt(D): equivalent step sizes and trajectory lengths are sqrt(D) times
HMC's.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ..compute.capture import Graph, graph_pool
from ..compute.random_streams import MOMENTUM
from ..compute.recording import Repeats, repeat
from ..dynamics.gradient_step import GradientStep
from ..dynamics.isokinetic import check_dimension, isokinetic_kick, random_direction, scaled_force
from ..dynamics.metropolis import Acceptance, check_acceptance, metropolis_test
from ..kernels.ops import Counter
from ..targets.base import Target
from .metropolis_chain import refuse_batch
from .protocol import Batch, Info, Sampler, held
from .window_adaptation import GUESSED_LEAPFROG, AdaptiveChain, TrajectoryLength, check_target_acceptance

__all__ = ["AdjustedMCLMC", "AdjustedMCLMCState"]


class AdjustedMCLMCState(AdaptiveChain):
    """C chains and the trajectory that moves their proposals; momenta are unit vectors.

    Attributes:
        kinetic_change: scratch within an iteration, `(C,)` float64, the trajectory's sum of dK.
    """

    def __init__(
        self,
        sampler: "AdjustedMCLMC",
        target: Target,
        theta: Tensor,
        seed: int,
        graph: Graph,
        warm_up_iterations: int,
    ) -> None:
        unit_of_length = float(target.num_params**0.5)
        super().__init__(sampler, target, theta, seed, graph, warm_up_iterations, unit_of_length=unit_of_length)
        self.kinetic_change = torch.zeros_like(self.origin.kinetic_energy)
        self.trajectory = IsokineticTrajectory(held(self, target.device), graph)


class IsokineticTrajectory:
    """turn(u, eps/2), L - 1 times (drift, turn(u, eps)), drift, turn(u, eps/2): adjacent half turns merge."""

    def __init__(self, state: AdjustedMCLMCState, graph: Graph) -> None:
        target, new, change = state.target, state.proposal, state.kinetic_change
        theta, u, grad, log_lik = new.theta, new.momentum, new.grad, new.log_lik
        force = torch.empty_like(theta)

        def turn(fraction: float) -> None:
            scaled_force(target, theta, grad, state.inverse_mass, force)
            change.add_(isokinetic_kick(u, force, fraction * state.step_size))

        def turn_drift(fraction: float) -> None:
            turn(fraction)
            velocity = u if state.inverse_mass is None else u * state.inverse_mass.sqrt()
            theta.addcmul_(velocity, state.step_size[:, None].to(theta.dtype))

        def gradient() -> None:
            target.log_likelihood_and_grad(theta, grad, log_lik)

        written, pool = (theta, u, grad, log_lik, change, force), graph_pool(target.device, graph)

        def step(update: Callable[[], None]) -> GradientStep:
            return GradientStep(target, gradient, update, written, count=target.num_data, graph=graph, pool=pool)

        self._repeats = Repeats(varies=state.length_varies)
        self._begin = partial(turn_drift, 0.5)
        self._step, self._last = step(partial(turn_drift, 1.0)), step(partial(turn, 0.5))

    def set_length(self, num_leapfrog: int) -> None:
        """Sets the number of steps of eps."""
        self._repeats.set(num_leapfrog - 1)

    def rounds(self, lengths: Tensor) -> dict[Repeats, Tensor]:
        """What `set_length` would set for each of several trajectories."""
        return {self._repeats: lengths - 1}

    def run(self) -> None:
        self._begin()
        repeat(self._step, self._repeats)
        self._last()


class AdjustedMCLMC(Sampler):
    """Microcanonical trajectories with an exact Metropolis-Hastings test. Full batch, at least 2 parameters.

    Args:
        step_size, trajectory_length: in units of theta (times M^(1/2)); sqrt(D) times HMC's are equivalent.
        num_leapfrog, adapt, pool, jitter, acceptance, test_in_burn_in, inverse_mass: as for `HMC`.
        target_acceptance: mean acceptance probability that adapt tunes the step size to; the paper recommends 0.9.

    Raises:
        UserError: as for `HMC`, or a target with fewer than 2 parameters.
    """

    name = "adjusted_mclmc"
    has_metropolis_test = True
    batch_size = None  # the test needs the full data

    def __init__(
        self,
        step_size: float | None = None,
        *,
        trajectory_length: float | None = None,
        num_leapfrog: int | None = None,
        adapt: bool = False,
        target_acceptance: float = 0.9,
        pool: bool = True,
        jitter: float | None = None,
        acceptance: Acceptance = "log_ratio",
        test_in_burn_in: bool = True,
        inverse_mass: Tensor | None = None,
    ) -> None:
        jitter = (0.5 if adapt else 0.0) if jitter is None else jitter
        length = TrajectoryLength("AdjustedMCLMC", step_size, trajectory_length, num_leapfrog, jitter, adapt, 1)
        self.step_size, self.trajectory_length, self.jitter = step_size, trajectory_length, jitter
        self.num_leapfrog = length.steps
        self.adapt, self.target_acceptance, self.pool = adapt, check_target_acceptance(target_acceptance), pool
        self.acceptance, self.test_in_burn_in = check_acceptance(acceptance), test_in_burn_in
        self.inverse_mass = inverse_mass
        self.length = length

    def init(
        self, target: Target, theta: Tensor, *, seed: int = 0, graph: Graph = False, warm_up_iterations: int = 0
    ) -> AdjustedMCLMCState:
        """Evaluates the target once at `theta (C, D)`; with adapt, a few more times for a first step size."""
        check_dimension(target)
        state = AdjustedMCLMCState(self, target, theta, seed, graph, warm_up_iterations)
        if state.adaptation:
            state.adaptation.begin(state, lambda: self.trial(state))
        return state

    def step(
        self, state: AdjustedMCLMCState, batch: Batch | None = None, *, warming_up: bool = False
    ) -> tuple[AdjustedMCLMCState, Info]:
        """One trajectory and its test, for every chain."""
        refuse_batch(self.name, batch)
        num_leapfrog = state.next_num_leapfrog()
        state.untested.fill_(warming_up and not self.test_in_burn_in)
        state.trajectory.set_length(num_leapfrog)
        info = Info._make((*state.iterate(self.iteration), num_leapfrog))
        if warming_up and state.adaptation:
            state.adaptation.learn(state, info.accept_prob, lambda: self.trial(state))
        state.iteration.count += 1
        return state, info

    def steps(
        self, state: AdjustedMCLMCState, number: int, *, warming_up: bool = False
    ) -> tuple[AdjustedMCLMCState, Tensor, Info]:
        """Several trajectories, each with its test, without adaptation."""
        state.untested.fill_(warming_up and not self.test_in_burn_in)
        lengths = state.next_lengths(number)
        theta, *figures = state.iterations(self.iteration, number, state.trajectory.rounds(lengths))
        state.iteration.count += number
        return state, theta, Info._make((*figures, lengths[:, None]))

    def iteration(self, state: AdjustedMCLMCState) -> tuple[Tensor, ...]:
        self.propose(state)
        return state.call(self.test)

    def propose(self, state: AdjustedMCLMCState) -> None:
        """theta' and the sum of dK along the trajectory."""
        state.call(self.begin)
        state.trajectory.run()
        state.evaluate_proposal()

    def begin(self, state: AdjustedMCLMCState) -> None:
        """u uniform on the unit sphere, at theta."""
        u = state.origin.momentum
        random_direction(u, Counter(state.seed, MOMENTUM, state.iteration.on_device))
        state.propose(u)
        state.kinetic_change.zero_()

    def energy_error(self, state: AdjustedMCLMCState) -> Tensor:
        """dH = U(theta') - U(theta) + sum of dK."""
        return state.potential_error() + state.kinetic_change

    def test(self, state: AdjustedMCLMCState) -> tuple[Tensor, ...]:
        """theta = theta' with probability min(1, exp(-dH))."""
        energy_error = self.energy_error(state)
        test = metropolis_test(energy_error, state.uniform(), self.acceptance, untested=state.untested)
        state.take(test.accepted)
        # NaN: the momentum has a fixed length, so there is no kinetic energy to report
        return state.outcome(energy_error, test, torch.full_like(energy_error, torch.nan))

    def trial(self, state: AdjustedMCLMCState) -> Tensor:
        """dH of one step, `(C,)`, for the initial step size search."""
        state.trajectory.set_length(1)
        return state.iterate(self.trial_error, often=False)[0]

    def trial_error(self, state: AdjustedMCLMCState) -> tuple[Tensor]:
        self.propose(state)
        return (self.energy_error(state),)

    def gradients_per_iteration(self, target: Target) -> int:
        return self.num_leapfrog or GUESSED_LEAPFROG

    def forecast(self, warm_up_iterations: int, iterations: int) -> tuple[int, int]:
        """Gradients of a chain, expected and at most; see `TrajectoryLength.forecast`."""
        return self.length.forecast(warm_up_iterations, iterations)
