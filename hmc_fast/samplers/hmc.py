"""Hamiltonian Monte Carlo (Neal 2011, arXiv:1206.1901, fig. 2), full batch, all chains at once.

    repeat
        m ~ N(0, M)
        (theta', m') = leapfrog(theta, m; step size eps, L steps)
        dH = H(theta', m') - H(theta, m),   H = U(theta) + m^T M^-1 m / 2
        with probability min(1, exp(-dH)):  theta = theta'

    symbol   argument                symbol   argument
    eps      step_size               L        num_leapfrog, or ceil(trajectory_length / step_size)
    M^-1     inverse_mass            U        target: minus log density over temperature

After a rejection the old state counts as another draw. With `adapt=True`, burn-in learns eps, L and M
(`adaptation/warm_up.py`); they are fixed afterwards.

We do not implement NUTS. Its trajectory lengths are different for every chain and draw, so the chains of a batch
would wait for the longest, and a trajectory would not be a fixed sequence of captured steps. Jittered lengths break
the same resonances.
"""

from torch import Tensor

from ..dynamics.gradient_step import Graph
from ..dynamics.integrators import LEAPFROG, Integrator, Trajectory
from ..dynamics.metropolis import Acceptance, check_acceptance, metropolis_test
from ..kernels import ops
from ..targets.base import Target
from .metropolis_chain import refuse_batch
from .protocol import Batch, Info, Sampler
from .window_adaptation import (
    GUESSED_LEAPFROG,
    AdaptiveChain,
    TrajectoryLength,
    check_integrator,
    check_target_acceptance,
)

__all__ = ["HMC", "HMCState"]


class HMCState(AdaptiveChain):
    """C chains and the trajectory that moves their proposals."""

    def __init__(
        self, sampler: "HMC", target: Target, theta: Tensor, seed: int, graph: Graph, warm_up_iterations: int
    ) -> None:
        super().__init__(sampler, target, theta, seed, graph, warm_up_iterations)
        self.trajectory: Trajectory = sampler.integrator.trajectory(
            target, self.proposal, self.coefficients, inverse_mass=self.inverse_mass, graph=graph
        )
        self.trajectory.repeats.varies = self.length_varies


class HMC(Sampler):
    """Full-batch HMC with an exact Metropolis-Hastings test.

    Args:
        step_size: eps, in units of theta. None, with adapt: found by search.
        trajectory_length: eps * L, in units of theta. Izmailov et al. 2021 recommend pi * sigma / 2 for a prior
            of standard deviation sigma. Give this or num_leapfrog; with adapt neither is needed.
        num_leapfrog: L, steps per trajectory.
        adapt: during burn-in, which it needs, learn the settings that are not given. Once M is learned, eps and
            the trajectory length are in units of each parameter's own scale.
        target_acceptance: mean acceptance probability that adapt tunes the step size to, in (0, 1).
        pool: adapt from all chains together; False gives every chain its own step size and mass.
        integrator: `LEAPFROG`, or `TWO_STAGE`, whose L is even (`dynamics/integrators.py`).
        jitter: in [0, 1): L is multiplied by a uniform in [1 - jitter, 1 + jitter], new every iteration and the
            same for all chains, which breaks resonance with periodic orbits. None: 0, or 0.5 with adapt.
        acceptance: "log_ratio" or "density_ratio", two forms of the same test (see `metropolis_test`).
        test_in_burn_in: False skips the Metropolis test during burn-in, as Izmailov et al. do for their first 50
            iterations: a chain far from the typical set then moves whatever its energy error. Proposals that are
            not finite are still rejected.
        inverse_mass: `(D,)` or `(C, D)`, None for identity. With adapt, the initial value.

    Raises:
        UserError: a step size, trajectory length or number of steps that is not positive, a jitter outside
            [0, 1), an unknown acceptance rule or integrator, both or neither of trajectory_length and
            num_leapfrog, neither step size nor adapt, or adapt without burn-in.
    """

    name = "hmc"
    has_metropolis_test = True
    batch_size = None  # the test needs the full data

    def __init__(
        self,
        step_size: float | None = None,
        *,
        trajectory_length: float | None = None,
        num_leapfrog: int | None = None,
        adapt: bool = False,
        target_acceptance: float = 0.8,
        pool: bool = True,
        integrator: Integrator = LEAPFROG,
        jitter: float | None = None,
        acceptance: Acceptance = "log_ratio",
        test_in_burn_in: bool = True,
        inverse_mass: Tensor | None = None,
    ) -> None:
        self.integrator = check_integrator(integrator)
        jitter = (0.5 if adapt else 0.0) if jitter is None else jitter
        length = TrajectoryLength(
            "HMC", step_size, trajectory_length, num_leapfrog, jitter, adapt, integrator.stages
        )
        self.step_size, self.trajectory_length, self.jitter = step_size, trajectory_length, jitter
        self.num_leapfrog = length.steps
        self.adapt, self.target_acceptance, self.pool = adapt, check_target_acceptance(target_acceptance), pool
        self.acceptance, self.test_in_burn_in = check_acceptance(acceptance), test_in_burn_in
        self.inverse_mass = inverse_mass
        self.length = length

    def init(
        self, target: Target, theta: Tensor, *, seed: int = 0, graph: Graph = False, warm_up_iterations: int = 0
    ) -> HMCState:
        """Evaluates the target once at `theta (C, D)`; with adapt, a few more times for a first step size."""
        state = HMCState(self, target, theta, seed, graph, warm_up_iterations)
        if state.adaptation:
            state.adaptation.begin(state, lambda: self.trial(state))
        return state

    def step(
        self, state: HMCState, batch: Batch | None = None, *, warming_up: bool = False
    ) -> tuple[HMCState, Info]:
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

    def steps(self, state: HMCState, number: int, *, warming_up: bool = False) -> tuple[HMCState, Tensor, Info]:
        """Several trajectories, each with its test, without adaptation."""
        state.untested.fill_(warming_up and not self.test_in_burn_in)
        lengths = state.next_lengths(number)
        theta, *figures = state.iterations(self.iteration, number, state.trajectory.rounds(lengths))
        state.iteration.count += number
        return state, theta, Info._make((*figures, lengths[:, None]))

    def iteration(self, state: HMCState) -> tuple[Tensor, ...]:
        self.propose(state)
        return state.call(self.test)

    def propose(self, state: HMCState) -> None:
        """(theta', m') = leapfrog(theta, m)."""
        state.call(self.begin)
        state.trajectory.run()
        state.evaluate_proposal()

    def begin(self, state: HMCState) -> None:
        """m ~ N(0, M), at theta."""
        state.propose(state.fresh_momentum(state.inverse_mass))

    def test(self, state: HMCState) -> tuple[Tensor, ...]:
        """theta = theta' with probability min(1, exp(-dH))."""
        energy_error = state.energy_error(state.inverse_mass)
        test = metropolis_test(energy_error, state.uniform(), self.acceptance, untested=state.untested)
        kinetic_energy = ops.kinetic_energy(state.proposal.momentum, inverse_mass=state.inverse_mass)
        state.take(test.accepted)
        return state.outcome(energy_error, test, kinetic_energy)

    def trial(self, state: HMCState) -> Tensor:
        """dH of the shortest trajectory, `(C,)`, for the initial step size search."""
        state.trajectory.set_length(self.integrator.stages)
        return state.iterate(self.trial_error, often=False)[0]

    def trial_error(self, state: HMCState) -> tuple[Tensor]:
        self.propose(state)
        return (state.energy_error(state.inverse_mass),)

    def gradients_per_iteration(self, target: Target) -> int:
        return self.num_leapfrog or GUESSED_LEAPFROG

    def forecast(self, warm_up_iterations: int, iterations: int) -> tuple[int, int]:
        """Gradients of a chain, expected and at most; see `TrajectoryLength.forecast`."""
        return self.length.forecast(warm_up_iterations, iterations)
