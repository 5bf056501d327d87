"""Metropolis-adjusted microcanonical HMC (Robnik, Cohn-Gordon & Seljak 2025, arXiv:2503.01707).

    repeat
        u uniform on the unit sphere
        L times:   turn(u, eps/2)   theta = theta + eps M^(-1/2) u   turn(u, eps/2)
        dH = U(theta') - U(theta) + sum of dK
        with probability min(1, exp(-dH)):  theta = theta'

    symbol   argument                symbol   argument
    eps      step_size               L        num_leapfrog, or ceil(trajectory_length / step_size)
    M^-1     inverse_mass            dK       what a turn adds to the kinetic energy (`isokinetic.py`)

The speed is 1 whatever the force, where HMC's is about sqrt(D): lengths are as much longer in these units.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from ..compute.random_streams import MOMENTUM
from ..dynamics.gradient_step import Graph, Unit
from ..dynamics.isokinetic import check_dimension, isokinetic_kick, random_direction, scaled_force
from ..dynamics.metropolis import Acceptance, energy_of_examples
from ..kernels import ops
from ..kernels.ops import Counter
from .adapting import Adapting, AdaptingState

__all__ = ["AdjustedMCLMC", "AdjustedMCLMCState"]


@dataclass(kw_only=True)
class AdjustedMCLMCState(AdaptingState):
    """C chains. `step` mutates every tensor here, in place."""

    work_kinetic_change: "Tensor | None" = None  # (C,) float64, the trajectory's sum of dK
    units: "tuple[Unit, ...]" = ()  # a step, the last step
    first_step: "Callable[[], None] | None" = None  # with the gradient that is there already


class AdjustedMCLMC(Adapting[AdjustedMCLMCState]):
    """Microcanonical trajectories with an exact Metropolis-Hastings test. Full batch, at least 2 parameters.

    Args:
        step_size, trajectory_length: in units of theta (times M^(1/2)); sqrt(D) times HMC's are alike.
        num_leapfrog, adapt, pool, jitter, acceptance, test_in_burn_in, inverse_mass: as for `HMC`.
        target_acceptance: 0.9, as the paper advises.

    Raises:
        UserError: as for `HMC`; or a target of fewer than 2 parameters.
    """

    name = "adjusted_mclmc"
    State = AdjustedMCLMCState

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
        super().__init__(
            step_size,
            trajectory_length=trajectory_length,
            num_leapfrog=num_leapfrog,
            adapt=adapt,
            target_acceptance=target_acceptance,
            pool=pool,
            jitter=jitter,
            acceptance=acceptance,
            test_in_burn_in=test_in_burn_in,
            inverse_mass=inverse_mass,
        )

    def _unit_of_length(self, state: AdjustedMCLMCState) -> float:
        return float(state.target.num_params**0.5)

    def _prepare(self, state: AdjustedMCLMCState, graph: Graph, warm_up_iterations: int) -> None:
        check_dimension(state.target)
        super()._prepare(state, graph, warm_up_iterations)
        target, theta, u, hyper = state.target, state.work_theta, state.work_new_momentum, state.hyper
        change, force = torch.zeros_like(state.work_kinetic), torch.empty_like(theta)
        state.work_kinetic_change = change
        write_force = scaled_force(target, theta, state.work_grad, hyper, state.inverse_mass, force)

        def turn(fraction: float) -> None:
            change.add_(isokinetic_kick(u, force, fraction * hyper[:, ops.STEP_SIZE]))

        def drift() -> None:
            velocity = u if state.inverse_mass is None else u * state.inverse_mass.sqrt()
            theta.addcmul_(velocity, hyper[:, ops.STEP_SIZE, None].to(theta.dtype))

        def gradient() -> None:
            target.log_likelihood_and_grad(theta, state.work_grad, state.work_log_lik)

        def step() -> None:  # two half turns in one, as the force is the same
            write_force()
            turn(1.0)
            drift()

        def first_step() -> None:
            write_force()
            turn(0.5)
            drift()

        def last_step() -> None:
            write_force()
            turn(0.5)

        buffers = (theta, u, state.work_grad, state.work_log_lik, change, force)
        state.first_step = first_step
        state.units = tuple(
            Unit(target, gradient, update, buffers, count=target.num_data, graph=graph)
            for update in (step, last_step)
        )

    def _begin(self, state: AdjustedMCLMCState) -> None:
        """A fresh direction, and the trajectory's start."""
        random_direction(state.work_momentum, Counter(state.seed, MOMENTUM, state.iteration))
        state.work_kinetic.fill_(torch.nan)
        cast(Tensor, state.work_kinetic_change).zero_()
        self._start(state)

    def _trajectory(self, state: AdjustedMCLMCState, num_leapfrog: int) -> None:
        step, last_step = state.units
        cast(Callable[[], None], state.first_step)()
        for _ in range(num_leapfrog - 1):
            step()
        last_step()

    def _energy_error(self, state: AdjustedMCLMCState) -> Tensor:
        """U(theta') - U(theta) + sum of dK, from differences alone."""
        same = state.work_momentum  # twice, so that nothing but the prior differs
        prior = ops.energy_difference(state.theta, same, state.work_theta, same, state.target.prior, state.hyper)
        likelihood = energy_of_examples(state.log_lik, state.work_log_lik, state.hyper[:, ops.INVERSE_TEMPERATURE])
        return prior + likelihood + cast(Tensor, state.work_kinetic_change)

    def _kinetic_energy(self, state: AdjustedMCLMCState) -> Tensor:
        """There is none of the usual kind: the momentum's length is fixed."""
        return torch.full_like(state.work_kinetic, torch.nan)
