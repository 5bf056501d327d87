"""Hamiltonian Monte Carlo (Neal 2011, arXiv:1206.1901, fig. 2), full batch, all chains at once.

    repeat
        m ~ N(0, M)
        (theta', m') = leapfrog(theta, m; step size eps, L steps)
        dH = H(theta', m') - H(theta, m),   H = U(theta) + m^T M^-1 m / 2
        with probability min(1, exp(-dH)):  theta = theta'

    symbol   argument                symbol   argument
    eps      step_size               L        num_leapfrog, or ceil(trajectory_length / step_size)
    M^-1     inverse_mass            U        target: minus log density over temperature

A rejected proposal repeats the old state, and the repeat counts. With `adapt=True` burn-in learns eps, L and M
(`adaptation/warm_up.py`); after it they are fixed. There is no NUTS here: its trajectories end where the data
say, alike neither from chain to chain nor from draw to draw, so chains in one batch wait for the longest and
no trajectory is one sequence of captured steps. Jittered lengths break the same resonances.
"""

from dataclasses import dataclass
from typing import cast

from ..dynamics.gradient_step import Graph
from ..dynamics.integrators import INTEGRATORS, Leapfrog
from .adapting import Adapting, AdaptingState

__all__ = ["HMC", "HMCState"]


@dataclass(kw_only=True)
class HMCState(AdaptingState):
    """C chains. `step` mutates every tensor here, in place."""

    leapfrog: "Leapfrog | None" = None  # on the work buffers


class HMC(Adapting[HMCState]):
    """Full-batch HMC with an exact Metropolis-Hastings test.

    Args:
        step_size: eps, in units of theta. None, with adapt: searched for.
        trajectory_length: eps * L, in units of theta. Izmailov et al. 2021 advise pi * sigma / 2 for a prior
            of standard deviation sigma. Give this or num_leapfrog; with adapt neither is needed.
        num_leapfrog: L.
        adapt: learn during burn-in what is not given; needs burn-in. Once M is learned, eps and the trajectory
            length are in units of each parameter's own scale.
        target_acceptance: what adapt aims the step size at, in (0, 1).
        pool: adapt from all chains together; False gives every chain its own step size and mass.
        integrator: "leapfrog", or "two_stage" (see `integrators.INTEGRATORS`), whose L is even.
        jitter: in [0, 1): L is multiplied by a uniform in [1 - jitter, 1 + jitter], anew every iteration and
            alike for all chains, which breaks resonance with periodic orbits. None: 0, or 0.5 with adapt.
        acceptance: "log_ratio" or "density_ratio", two forms of one test (see `metropolis.metropolis_test`).
        test_in_burn_in: False leaves out the Metropolis test during burn-in, as the paper does for its first
            50 iterations: a chain far from the typical set then moves on whatever its energy error. A
            proposal that is not finite is rejected all the same.
        inverse_mass: `(D,)` or `(C, D)`, None for identity. adapt begins there.

    Raises:
        UserError: a step size, trajectory length or number of steps that is not positive, a jitter outside
            [0, 1), an unknown acceptance rule or integrator, both or neither of trajectory_length and
            num_leapfrog, no step size without adapt, or adapt without burn-in.
    """

    name = "hmc"
    State = HMCState

    def _prepare(self, state: HMCState, graph: Graph, warm_up_iterations: int) -> None:
        super()._prepare(state, graph, warm_up_iterations)
        state.leapfrog = Leapfrog(
            state.target,
            state.work_theta,
            state.work_new_momentum,
            state.work_grad,
            state.work_log_lik,
            state.hyper,
            inverse_mass=state.inverse_mass,
            coefficients=INTEGRATORS[self.integrator],
            graph=graph,
        )

    def _trajectory(self, state: HMCState, num_leapfrog: int) -> None:
        cast(Leapfrog, state.leapfrog).run(num_leapfrog)
