"""Generalised HMC: partial momentum refreshment (Horowitz 1991; Neal 2011, arXiv:1206.1901, section 5.5.3).

    repeat
        m = c m + sqrt(1 - c^2) xi,   c = exp(-gamma eps L),   xi ~ N(0, M)
        (theta', m') = leapfrog(theta, m; step size eps, L steps)
        dH = H(theta', m') - H(theta, m)
        with probability min(1, exp(-dH)):  theta = theta',  m = m'
        else:                               m = -m

    symbol   argument                symbol   argument
    eps      step_size               L        num_leapfrog
    gamma    friction                delta    acceptance_drift
    M^-1     inverse_mass

With L = 1 this is underdamped Langevin dynamics (OBABO) with an exact test. A rejection reverses the momentum, so
travelling far, as HMC does in one long trajectory, needs a high acceptance rate here. `acceptance_drift` helps
(Neal 2020, arXiv:2001.11950): instead of a fresh uniform, a variable v in (-1, 1) drifts by delta per iteration,
accepts if |v| < exp(-dH) and is then divided by exp(-dH). Rejections then cluster, with long runs of acceptances
between them.
"""

import math

import torch
from torch import Tensor

from ..arguments import positive, whole_number
from ..compute.random_streams import ACCEPT, MOMENTUM
from ..dynamics.gradient_step import Graph
from ..dynamics.integrators import LEAPFROG
from ..dynamics.metropolis import MetropolisTest, metropolis_test
from ..errors import UserError
from ..kernels import ops
from ..kernels.ops import Counter
from ..targets.base import Target
from .metropolis_chain import GradientChain, refuse_batch
from .protocol import Batch, Info, Sampler

__all__ = ["GHMC", "GHMCState"]


class GHMCState(GradientChain):
    """C chains.

    Attributes:
        momentum: `(C, D)`, kept from iteration to iteration.
        acceptance_variable: `(C,)` float64, v.
    """

    def __init__(self, sampler: "GHMC", target: Target, theta: Tensor, seed: int, graph: Graph) -> None:
        super().__init__(target, theta, seed, graph)
        before = self.iteration.on_device - 1  # a counter value that no iteration uses
        self.momentum = torch.empty_like(theta)
        ops.refresh_momentum(self.momentum, Counter(seed, MOMENTUM, before), inverse_mass=sampler.inverse_mass)
        uniform = ops.uniforms(Counter(seed, ACCEPT, before), len(theta), 1)[:, 0]
        self.acceptance_variable = 2 * uniform.double() - 1
        self.set_step_size(sampler.step_size)
        self.trajectory = LEAPFROG.trajectory(
            target, self.proposal, self.coefficients, inverse_mass=sampler.inverse_mass, graph=graph
        )
        self.trajectory.set_length(sampler.num_leapfrog)
        self.trajectory.repeats.varies = False


class GHMC(Sampler):
    """Generalised HMC with an exact Metropolis-Hastings test.

    Args:
        step_size: eps, in units of theta.
        friction: gamma, 1 / time; each refreshment keeps a fraction exp(-gamma eps L) of the momentum.
        num_leapfrog: L, steps per trajectory.
        acceptance_drift: delta in (0, 2), the drift of the acceptance variable; None draws a fresh uniform.
        inverse_mass: `(D,)` or `(C, D)`, None for identity.

    Raises:
        UserError: a step size or friction that is not positive, no leapfrog step, or a drift outside (0, 2).
    """

    name = "ghmc"
    has_metropolis_test = True
    batch_size = None  # the test needs the full data
    partial_refreshment = True  # energies change slowly, and acceptance must be high

    def __init__(
        self,
        step_size: float,
        *,
        friction: float,
        num_leapfrog: int = 1,
        acceptance_drift: float | None = None,
        inverse_mass: Tensor | None = None,
    ) -> None:
        self.step_size, self.friction = positive("step size", step_size), positive("friction", friction)
        whole_number("number of leapfrog steps", num_leapfrog)
        if acceptance_drift is not None and not 0 < acceptance_drift < 2:
            raise UserError(f"acceptance drift {acceptance_drift} must lie between 0 and 2, or be None")
        self.num_leapfrog, self.acceptance_drift, self.inverse_mass = num_leapfrog, acceptance_drift, inverse_mass

    def init(
        self, target: Target, theta: Tensor, *, seed: int = 0, graph: Graph = False, warm_up_iterations: int = 0
    ) -> GHMCState:
        """Evaluates the target once at `theta (C, D)`."""
        return GHMCState(self, target, theta, seed, graph)

    def step(
        self, state: GHMCState, batch: Batch | None = None, *, warming_up: bool = False
    ) -> tuple[GHMCState, Info]:
        """One trajectory and its test, for every chain."""
        refuse_batch(self.name, batch)
        info = Info._make((*state.iterate(self.iteration), self.num_leapfrog))
        state.iteration.count += 1
        return state, info

    def steps(self, state: GHMCState, number: int, *, warming_up: bool = False) -> tuple[GHMCState, Tensor, Info]:
        """Several trajectories, each with its test."""
        theta, *figures = state.iterations(self.iteration, number, {})
        state.iteration.count += number
        return state, theta, Info._make((*figures, torch.full((number, 1), self.num_leapfrog)))

    def iteration(self, state: GHMCState) -> tuple[Tensor, ...]:
        state.call(self.begin)
        state.trajectory.run()
        state.evaluate_proposal()
        return state.call(self.test)

    def begin(self, state: GHMCState) -> None:
        """m = c m + sqrt(1 - c^2) xi, at theta."""
        c = math.exp(-self.friction * self.step_size * self.num_leapfrog)
        momentum = state.fresh_momentum(self.inverse_mass)
        momentum.mul_(math.sqrt(1 - c**2)).add_(state.momentum, alpha=c)
        state.origin.kinetic_energy.copy_(ops.kinetic_energy(momentum, inverse_mass=self.inverse_mass))
        state.propose(momentum)

    def test(self, state: GHMCState) -> tuple[Tensor, ...]:
        """theta, m = theta', m' with probability min(1, exp(-dH)), else m = -m."""
        new = state.proposal
        energy_error = state.energy_error(self.inverse_mass)
        test = self.drifting_test(state, energy_error)
        kinetic_energy = ops.kinetic_energy(new.momentum, inverse_mass=self.inverse_mass)
        state.take(test.accepted)
        state.momentum.copy_(torch.where(test.accepted[:, None], new.momentum, -state.origin.momentum))
        return state.outcome(energy_error, test, kinetic_energy)

    def drifting_test(self, state: GHMCState, energy_error: Tensor) -> MetropolisTest:
        """The Metropolis test with |v| as its uniform if v drifts, else with a fresh one."""
        if self.acceptance_drift is None:
            return metropolis_test(energy_error, state.uniform())
        v = state.acceptance_variable
        v.copy_(torch.remainder(v + 1 + self.acceptance_drift, 2) - 1)
        test = metropolis_test(energy_error, v.abs(), "density_ratio")
        # The ratio itself, not its minimum with 1: a drop in energy is always accepted and shrinks v.
        ratio = torch.exp(-torch.where(test.accepted, energy_error, 0.0))
        v.copy_(torch.where(test.accepted, v / ratio, v))
        return test

    def gradients_per_iteration(self, target: Target) -> int:
        return self.num_leapfrog
