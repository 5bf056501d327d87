"""Microcanonical Langevin Monte Carlo, without a test (Robnik et al. 2023, arXiv:2212.08549; arXiv:2303.18221).

    repeat, a step
        g = gradient of log density over T at theta
        turn(u, eps/2)                                         the end of the step before
        u = (u + nu xi) / |u + nu xi|,   nu = sqrt((exp(2 eps / L) - 1) / D),   xi ~ N(0, I)
        turn(u, eps/2)   theta = theta + eps M^(-1/2) u

    symbol   argument                symbol   argument
    eps      step_size               L        decoherence_length
    M^-1     inverse_mass            turn     `isokinetic.isokinetic_kick`

One gradient per step, and a bias of order eps^2 that the energy's variance per dimension measures. In burn-in, with
adapt: eps such that this variance is as wanted (`adaptation/energy_variance.py`), and in Stan's windows M^-1 and
L = sqrt(sum of the variances), in units of M^(-1/2). A step that is not finite is taken back while learning.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..adaptation import EnergyVariance, Moments, Windows, diagonal_inverse_mass
from ..compute.random_streams import MOMENTUM, NOISE
from ..dynamics.gradient_step import Graph
from ..dynamics.isokinetic import check_dimension, isokinetic_kick, normalise, random_direction, scaled_force
from ..errors import UserError
from ..kernels import ops
from ..kernels.ops import Counter
from ..targets.base import Target, positive
from .protocol import Info
from .stochastic import StochasticGradient, StochasticState

__all__ = ["MCLMC", "MCLMCState"]

_FIRST_STEP = 0.25  # in units of sqrt(D), the authors' first guess for a whitened target


@dataclass(kw_only=True)
class MCLMCState(StochasticState):
    """C chains. `step` mutates every tensor here, in place."""

    begun: Tensor  # (C,) bool: the step under way has a beginning that its energy error is measured from
    potential: Tensor  # (C,) float64 at the gradient before
    kinetic_change: Tensor  # (C,) float64 dK since then
    energy_error: Tensor  # (C,) float64 sum over the iteration
    decoherence_length: Tensor  # (1,) float64
    learning: Tensor  # (1,) bool
    tuner: Tensor  # see EnergyVariance
    inverse_mass: Tensor  # (1, D) or the user's
    draw_moments: Tensor
    gradient_moments: Tensor
    before: Tensor  # (C, D) theta at the gradient before
    work_force: Tensor  # (C, D)
    work_noise: Tensor  # (C, D)
    write_force: "Callable[[], None] | None" = None
    windows: "Windows | None" = None


class MCLMC(StochasticGradient[MCLMCState]):
    """Microcanonical Langevin dynamics, unadjusted; at least 2 parameters.

    Args:
        step_size: eps, in units of theta (times M^(1/2)). None, with adapt: learned.
        decoherence_length: L, the distance after which a direction is forgotten. None: sqrt(D), or learned.
        adapt: learn eps (from step_size on, if given), L and M during burn-in; needs the full batch. None: where
            no step size is given.
        energy_variance: per dimension, what adapt aims the step size at.
        batch_size: B; 0 or None for the full data.
        steps_per_iteration: steps per iteration.
        inverse_mass: `(D,)` or `(C, D)`, None for identity. adapt begins there.

    Raises:
        UserError: a step size, length or variance that is not positive, a negative batch size, no step, no step
            size without adapt, or adapt with minibatches (their noise is not an energy error).
    """

    name = "mclmc"
    State = MCLMCState

    def __init__(
        self,
        step_size: float | None = None,
        *,
        decoherence_length: float | None = None,
        adapt: bool | None = None,
        energy_variance: float = 5e-4,
        batch_size: int | None = None,
        steps_per_iteration: int | None = 10,
        inverse_mass: Tensor | None = None,
    ) -> None:
        self.adapt = step_size is None if adapt is None else adapt
        if step_size is None and not self.adapt:
            raise UserError("MCLMC needs a step size, or adapt=True to learn one during burn-in")
        if self.adapt and batch_size:
            raise UserError(f"adapt needs the full data, not batch size {batch_size}: give a step size instead")
        super().__init__(1.0 if step_size is None else step_size, batch_size, steps_per_iteration)
        self.given_step_size = step_size
        if decoherence_length is not None:
            positive("decoherence length", decoherence_length)
        self.decoherence_length, self.inverse_mass = decoherence_length, inverse_mass
        self.energy_variance = positive("energy variance", energy_variance)

    def _own_tensors(self, theta: Tensor) -> dict[str, Tensor]:
        num_chains, dim = theta.shape
        double = theta.new_zeros(num_chains, dtype=torch.float64)
        metric = theta.new_ones(1, dim) if self.inverse_mass is None else self.inverse_mass.to(theta).clone()
        return {
            "begun": torch.zeros(num_chains, dtype=torch.bool, device=theta.device),
            "potential": double,
            "kinetic_change": double.clone(),
            "energy_error": double.clone(),
            "decoherence_length": torch.full_like(double[:1], self.decoherence_length or math.sqrt(dim)),
            "learning": torch.zeros(1, dtype=torch.bool, device=theta.device),
            "tuner": torch.zeros(EnergyVariance.rows, dtype=torch.float64, device=theta.device),
            "inverse_mass": metric,
            "draw_moments": theta.new_zeros(Moments.rows, 1, dim),
            "gradient_moments": theta.new_zeros(Moments.rows, 1, dim),
            "before": theta.clone(),
            "work_force": torch.zeros_like(theta),
            "work_noise": torch.empty_like(theta),
        }

    def init(
        self, target: Target, theta: Tensor, *, seed: int = 0, graph: Graph = False, warm_up_iterations: int = 0
    ) -> MCLMCState:
        """Begins at `theta (C, D)`, in directions of its own for every chain."""
        check_dimension(target)
        if self.adapt and warm_up_iterations < 1:
            raise UserError("adapt learns during burn-in: give burn_in iterations, 600 for example")
        state = super().init(target, theta, seed=seed, graph=graph, warm_up_iterations=warm_up_iterations)
        state.write_force = scaled_force(
            target, state.theta, state.work_grad, state.hyper, state.inverse_mass, state.work_force
        )
        if self.adapt:
            state.windows = Windows.of(warm_up_iterations)
            if self.inverse_mass is None:
                self._first_metric(state)
            self._tuner(state).restart(self.given_step_size or _FIRST_STEP * math.sqrt(target.num_params))
            state.hyper[:, ops.STEP_SIZE] = self._tuner(state).step_size
        return state

    def step(
        self, state: MCLMCState, batch: Tensor | None = None, *, warming_up: bool = False
    ) -> tuple[MCLMCState, Info]:
        """`steps_per_iteration` steps; the energy error is their sum with the full data, NaN on minibatches."""
        state.energy_error.zero_()
        state, info = super().step(state, batch, warming_up=warming_up)
        if warming_up and state.windows is not None:
            self._learn_metric(state, state.windows)
        if batch is None and self.batch_size is None:
            info = info._replace(energy_error=state.energy_error.clone())
        return state, info._replace(kinetic_energy=torch.full_like(state.energy_error, torch.nan))

    def _begin_iteration(self, state: MCLMCState, iteration: int, *, warming_up: bool) -> None:
        if iteration == 0:
            random_direction(state.momentum, Counter(state.seed, MOMENTUM, state.counter))
        state.learning.fill_(warming_up and self.adapt)

    def _columns(self, state: MCLMCState, step_size: Tensor, explores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return step_size, torch.zeros_like(step_size), torch.zeros_like(step_size)

    def _update(self, state: MCLMCState) -> None:
        theta, u, step_size = state.theta, state.momentum, state.hyper[:, ops.STEP_SIZE]
        assert state.write_force is not None
        state.write_force()
        state.kinetic_change.add_(isokinetic_kick(u, state.work_force, step_size / 2))
        log_density = state.work_log_lik.double().sum(1) + state.target.log_prior(theta)
        potential = -log_density / state.target.temperature
        error = torch.where(state.begun, potential - state.potential + state.kinetic_change, 0 * potential)
        counts = state.begun.clone()
        state.begun.fill_(True)
        if self.adapt:
            self._learn_step_size(state, error, counts)
        state.energy_error.add_(torch.where(state.begun, error, 0.0))
        state.potential.copy_(torch.where(state.begun, potential, state.potential))
        self._turn_at_random(state)
        second = torch.where(state.begun[:, None], state.work_force, 0.0)
        state.kinetic_change.copy_(isokinetic_kick(u, second, state.hyper[:, ops.STEP_SIZE] / 2))
        state.before.copy_(theta)
        velocity = u * state.inverse_mass.sqrt()
        theta.addcmul_(velocity, state.hyper[:, ops.STEP_SIZE, None].to(theta.dtype))

    def _turn_at_random(self, state: MCLMCState) -> None:
        u, dim = state.momentum, state.momentum.shape[1]
        ops.refresh_momentum(state.work_noise, Counter(state.seed, NOISE, state.counter))
        exponent = 2 * state.hyper[:, ops.STEP_SIZE].double() / state.decoherence_length
        u.addcmul_(state.work_noise, (torch.expm1(exponent) / dim).sqrt().to(u.dtype)[:, None])
        normalise(u)

    # --- learning: on the device, so that nothing is read back ---

    def _tuner(self, state: MCLMCState) -> EnergyVariance:
        return EnergyVariance(state.tuner, state.target.num_params, self.energy_variance)

    def _learn_step_size(self, state: MCLMCState, error: Tensor, counts: Tensor) -> None:
        """One lesson; chains that left the finite numbers go back where they were, in a new direction."""
        tuner, learned = self._tuner(state), state.tuner.clone()
        tuner.update(error, counts)
        state.tuner.copy_(torch.where(state.learning, state.tuner, learned))
        state.hyper[:, ops.STEP_SIZE] = tuner.step_size.to(state.hyper.dtype)
        lost = ~torch.isfinite(error) & state.learning
        state.begun.copy_(~lost)
        state.theta.copy_(torch.where(lost[:, None], state.before, state.theta))
        # the turn at random makes a fresh direction of 0; the force at the place left behind is unknown
        state.momentum.copy_(torch.where(lost[:, None], 0.0, state.momentum))
        state.work_force.copy_(torch.where(lost[:, None], torch.nan, state.work_force))

    def _first_metric(self, state: MCLMCState) -> None:
        """From where the chains begin, as for HMC (`adaptation/warm_up.py`)."""
        state.target.log_likelihood_and_grad(state.theta, state.work_grad, state.work_log_lik)
        assert state.write_force is not None
        state.write_force()
        draws, gradients = Moments(state.draw_moments), Moments(state.gradient_moments)
        draws.update(state.theta)
        gradients.update(state.work_force)
        state.inverse_mass.copy_(diagonal_inverse_mass(draws.variance, gradients.variance, state.inverse_mass))
        draws.reset()
        gradients.reset()

    def _learn_metric(self, state: MCLMCState, windows: Windows) -> None:
        iteration = state.host_counter // self.gradients_per_iteration(state.target) - 1
        if not windows.is_slow(iteration):
            return
        draws, gradients = Moments(state.draw_moments), Moments(state.gradient_moments)
        draws.update(state.before)
        gradients.update(state.work_force / state.inverse_mass.sqrt())
        if not windows.closes(iteration):
            return
        if self.inverse_mass is None:
            state.inverse_mass.copy_(diagonal_inverse_mass(draws.variance, gradients.variance, state.inverse_mass))
        if self.decoherence_length is None:
            spread = (draws.variance / state.inverse_mass).sum().sqrt().double()
            usable = torch.isfinite(spread) & (spread > 0)
            state.decoherence_length.copy_(torch.where(usable, spread, state.decoherence_length))
        draws.reset()
        gradients.reset()
        state.begun.fill_(False)  # the step under way began in other units
        self._tuner(state).restart(_FIRST_STEP * math.sqrt(state.target.num_params))
