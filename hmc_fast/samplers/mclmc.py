"""Unadjusted microcanonical Langevin Monte Carlo (Robnik et al. 2023, arXiv:2212.08549; arXiv:2303.18221).

    repeat, one step each
        g = gradient of log density over T at theta
        turn(u, eps/2)                                         the end of the previous step
        u = (u + nu xi) / |u + nu xi|,   nu = sqrt((exp(2 eps / L) - 1) / D),   xi ~ N(0, I)
        turn(u, eps/2)   theta = theta + eps M^(-1/2) u

    symbol   argument                symbol   argument
    eps      step_size               L        decoherence_length
    M^-1     inverse_mass            turn     `isokinetic.isokinetic_kick`

A step takes one gradient. The bias is of order eps^2, and the energy variance per dimension measures it. With
adapt, burn-in tunes eps to a target value of this variance (`adaptation/energy_variance.py`) and learns, in Stan's
windows, M^-1 and L = sqrt(sum of the variances), in units of M^(-1/2). While it adapts, a step that is not finite
is undone.

On minibatches a guard (`adaptation/energy_guard.py`; SMILE, arXiv:2602.06500) undoes a step whose energy error is
out of the ordinary, and gives the chain a new direction; in burn-in, eps shrinks where one was not finite.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..adaptation import EnergyGuard, EnergyVariance, Moments, Windows, diagonal_inverse_mass
from ..arguments import positive
from ..compute.random_streams import MOMENTUM
from ..dynamics.coefficients import Coefficients
from ..dynamics.gradient_step import Graph
from ..dynamics.isokinetic import check_dimension, isokinetic_kick, normalise, random_direction, scaled_force
from ..errors import UserError
from ..kernels import ops
from ..kernels.ops import Counter
from ..targets.base import Target
from .minibatch_chain import MinibatchChain, MinibatchSampler
from .protocol import Batch, Info

__all__ = ["MCLMC", "MCLMCState"]

_SHRINK = 0.8  # of the step size, after one on a minibatch that was not finite; as in `EnergyVariance`
_FIRST_STEP = 0.25  # in units of sqrt(D), the authors' first guess for a whitened target


@dataclass
class _Buffers:
    """Buffers whose contents matter only within a step."""

    force: Tensor  # (C, D)
    noise: Tensor  # (C, D)


class MCLMCState(MinibatchChain):
    """C chains; the momentum is a direction, of length 1.

    Attributes:
        begun: `(C,)` bool, whether the current step has a start from which to measure its energy error.
        potential: `(C,)` float64, at the previous gradient. kinetic_change: `(C,)` float64, dK since then.
        energy_error: `(C,)` float64, sum over the iteration.
        decoherence_length: `(1,)` float64. inverse_mass: `(1, D)`, or the user's.
        learning: `(1,)` bool. tuner: see `EnergyVariance`. draws, gradients: see `Moments`.
        guard: see `EnergyGuard`.
        before: `(C, D)`, theta at the previous gradient. log_lik_before: `(C,)`, mean log likelihood of an example
            there.
        windows: the windows of burn-in in which the metric is learned.
    """

    def __init__(
        self, sampler: "MCLMC", target: Target, theta: Tensor, seed: int, graph: Graph, warm_up_iterations: int
    ) -> None:
        num_chains, dim = theta.shape
        double = theta.new_zeros(num_chains, dtype=torch.float64)
        self.begun, self.learning = double.bool(), double[:1].bool()
        self.potential, self.kinetic_change, self.energy_error = double.clone(), double.clone(), double.clone()
        self.decoherence_length = torch.full_like(double[:1], sampler.decoherence_length or math.sqrt(dim))
        self.inverse_mass = theta.new_ones(1, dim)
        if sampler.inverse_mass is not None:
            self.inverse_mass = sampler.inverse_mass.to(theta).clone()
        self.tuner = torch.zeros(EnergyVariance.rows, dtype=torch.float64, device=theta.device)
        self.guard = theta.new_zeros(EnergyGuard.rows if sampler.guard else 0, num_chains, dtype=torch.float64)
        self.draws, self.gradients = (theta.new_zeros(Moments.rows, 1, dim) for _ in range(2))
        self.before, self.log_lik_before = theta.clone(), torch.full_like(theta[:, 0], torch.nan)
        self.work = _Buffers(torch.zeros_like(theta), torch.empty_like(theta))
        self.windows = Windows.of(warm_up_iterations if sampler.adapt else 0)
        super().__init__(sampler, target, theta, seed, graph)


class MCLMC(MinibatchSampler):
    """Microcanonical Langevin dynamics, unadjusted; at least 2 parameters.

    Args:
        step_size: eps, in units of theta (times M^(1/2)). None, with adapt: learned.
        decoherence_length: L, the distance after which a direction is forgotten. None: sqrt(D), or learned.
        adapt: learn eps (starting from step_size, if given), L and M during burn-in; needs the full batch. None:
            only if no step size is given.
        energy_variance: per dimension, the value that adapt tunes the step size to.
        batch_size: B; 0 or None for the full data.
        guard: with minibatches, undo steps of extraordinary energy error. None: yes.
        steps_per_iteration: steps per iteration.
        inverse_mass: `(D,)` or `(C, D)`, None for identity or, with adapt, learned.

    Raises:
        UserError: a step size, length or variance that is not positive, a negative batch size, fewer than one
            step, neither step size nor adapt, adapt with minibatches (their noise is not an energy error), or a
            guard without them.
    """

    name = "mclmc"
    has_momentum = False  # the momentum is a unit vector, so there is no kinetic energy

    def __init__(
        self,
        step_size: float | None = None,
        *,
        decoherence_length: float | None = None,
        adapt: bool | None = None,
        energy_variance: float = 5e-4,
        batch_size: int | None = None,
        guard: bool | None = None,
        steps_per_iteration: int | None = 10,
        inverse_mass: Tensor | None = None,
    ) -> None:
        self.adapt = step_size is None if adapt is None else adapt
        if step_size is None and not self.adapt:
            raise UserError("MCLMC needs a step size, or adapt=True to learn one during burn-in")
        if self.adapt and batch_size:
            raise UserError(f"adapt needs the full data, not batch size {batch_size}: set a step size instead")
        super().__init__(1.0 if step_size is None else step_size, batch_size, steps_per_iteration)
        if guard and not batch_size:
            raise UserError("the guard is for minibatches: set a batch size, or leave it out")
        self.given_step_size, self.given_guard = step_size, guard
        self.guard = bool(batch_size) if guard is None else guard
        if decoherence_length is not None:
            positive("decoherence length", decoherence_length)
        self.decoherence_length, self.inverse_mass = decoherence_length, inverse_mass
        self.energy_variance = positive("energy variance", energy_variance)

    @property
    def bias_order(self) -> int:
        return 1 if self.batch_size else 2

    def init(
        self, target: Target, theta: Tensor, *, seed: int = 0, graph: Graph = False, warm_up_iterations: int = 0
    ) -> MCLMCState:
        """Starts at `theta (C, D)`, each chain in a random direction."""
        check_dimension(target)
        if self.adapt and warm_up_iterations < 1:
            raise UserError("adapt learns during burn-in: set burn_in, for example to 600 iterations")
        state = MCLMCState(self, target, theta, seed, graph, warm_up_iterations)
        if self.adapt:
            if self.inverse_mass is None:
                self._first_metric(state)
            tuner = self._tuner(state)
            tuner.restart(self.given_step_size or _FIRST_STEP * math.sqrt(target.num_params))
            state.step_size.copy_(tuner.step_size)
        return state

    def step(
        self, state: MCLMCState, batch: Batch | None = None, *, warming_up: bool = False
    ) -> tuple[MCLMCState, Info]:
        """`steps_per_iteration` steps; the energy error is summed over them, and NaN on minibatches.

        Raises:
            UserError: a batch while it adapts, or one that does not fit the data.
        """
        if batch is not None and warming_up and self.adapt:
            raise UserError("adapt needs the full data: leave batch out during burn-in, or set a step size instead")
        if state.steps.count == 0:
            random_direction(state.momentum, Counter(state.seed, MOMENTUM, state.steps.on_device))
        state.learning.fill_(warming_up and (self.adapt or self.guard))
        state.energy_error.zero_()
        info = state.advance(batch)
        if warming_up and self.adapt:
            self._learn_metric(state)
        if batch is None and self.batch_size is None:
            info = info._replace(energy_error=state.energy_error.clone())
        return state, info

    def coefficients(self, chain: MCLMCState, eps: Tensor, explores: Tensor) -> Coefficients:
        """For drifts only: `update` turns the direction itself, without a kick kernel."""
        return Coefficients(kick=0.0, drift=eps)

    def update(self, chain: MCLMCState) -> None:
        """The end of the previous step, a random turn, and the start of the next step."""
        theta, u, force = chain.theta, chain.momentum, chain.work.force
        scaled_force(chain.target, theta, chain.grad, chain.inverse_mass, force)
        chain.kinetic_change.add_(isokinetic_kick(u, force, chain.step_size / 2))
        log_density = chain.log_likelihood + chain.target.log_prior(theta)
        potential = -log_density / chain.target.temperature
        error = torch.where(chain.begun, potential - chain.potential + chain.kinetic_change, 0 * potential)
        counts = chain.begun.clone()
        chain.begun.fill_(True)
        if self.adapt:
            self._learn_step_size(chain, error, counts)
        if self.guard:
            self._guard(chain, error, counts)
        chain.energy_error.add_(torch.where(chain.begun, error, 0.0))
        chain.potential.copy_(torch.where(chain.begun, potential, chain.potential))
        self._turn_at_random(chain)
        known = torch.where(chain.begun[:, None], force, 0.0)
        chain.kinetic_change.copy_(isokinetic_kick(u, known, chain.step_size / 2))
        chain.before.copy_(theta)
        theta.addcmul_(u * chain.inverse_mass.sqrt(), chain.step_size.to(theta.dtype))

    def _turn_at_random(self, chain: MCLMCState) -> None:
        """u = (u + nu xi) / |u + nu xi|"""
        u, noise = chain.momentum, chain.work.noise
        ops.refresh_momentum(noise, chain.noise())
        nu = (torch.expm1(2 * chain.step_size / chain.decoherence_length) / u.shape[1]).sqrt()
        u.addcmul_(noise, nu.to(u.dtype))
        normalise(u)

    # --- adaptation: on the device, so that nothing is read back ---

    def _tuner(self, chain: MCLMCState) -> EnergyVariance:
        return EnergyVariance(chain.tuner, chain.target.num_params, self.energy_variance)

    def _learn_step_size(self, chain: MCLMCState, error: Tensor, counts: Tensor) -> None:
        """Adapts to one step; chains that diverged to NaN or infinity step back and take a new direction."""
        tuner, learned = self._tuner(chain), chain.tuner.clone()
        tuner.update(error, counts)
        chain.tuner.copy_(torch.where(chain.learning, chain.tuner, learned))
        chain.step_size.copy_(tuner.step_size)
        self._step_back(chain, ~torch.isfinite(error) & chain.learning)

    def _guard(self, chain: MCLMCState, error: Tensor, counts: Tensor) -> None:
        spike = EnergyGuard(chain.guard).update(error, counts)
        failed = ~torch.isfinite(error).all() & chain.learning
        chain.step_size.copy_(torch.where(failed, _SHRINK * chain.step_size, chain.step_size))
        self._step_back(chain, spike)
        chain.log_lik.copy_(torch.where(spike[:, None], chain.log_lik_before[:, None], chain.log_lik))
        chain.log_lik_before.copy_(chain.log_lik.mean(1))

    def _step_back(self, chain: MCLMCState, lost: Tensor) -> None:
        """Chains where `lost (C,)` is true return to before their last step and take a new direction."""
        chain.begun.copy_(~lost)
        chain.theta.copy_(torch.where(lost[:, None], chain.before, chain.theta))
        # The random turn maps 0 to a fresh direction; the force at the restored theta is unknown.
        chain.momentum.copy_(torch.where(lost[:, None], 0.0, chain.momentum))
        chain.work.force.copy_(torch.where(lost[:, None], torch.nan, chain.work.force))

    def _first_metric(self, chain: MCLMCState) -> None:
        """Estimated from the initial states, as for HMC (`adaptation/warm_up.py`)."""
        chain.evaluate()
        scaled_force(chain.target, chain.theta, chain.grad, chain.inverse_mass, chain.work.force)
        draws, gradients = Moments(chain.draws), Moments(chain.gradients)
        draws.update(chain.theta)
        gradients.update(chain.work.force)
        chain.inverse_mass.copy_(diagonal_inverse_mass(draws.variance, gradients.variance, chain.inverse_mass))
        draws.reset()
        gradients.reset()

    def _learn_metric(self, chain: MCLMCState) -> None:
        iteration = chain.steps.count // self.gradients_per_iteration(chain.target) - 1
        if not chain.windows.is_slow(iteration):
            return
        draws, gradients = Moments(chain.draws), Moments(chain.gradients)
        draws.update(chain.before)
        gradients.update(chain.work.force / chain.inverse_mass.sqrt())
        if not chain.windows.closes(iteration):
            return
        if self.inverse_mass is None:
            chain.inverse_mass.copy_(diagonal_inverse_mass(draws.variance, gradients.variance, chain.inverse_mass))
        if self.decoherence_length is None:
            spread = (draws.variance / chain.inverse_mass).sum().sqrt().double()
            usable = torch.isfinite(spread) & (spread > 0)
            chain.decoherence_length.copy_(torch.where(usable, spread, chain.decoherence_length))
        draws.reset()
        gradients.reset()
        chain.begun.fill_(False)  # the current step began under the old metric
        self._tuner(chain).restart(_FIRST_STEP * math.sqrt(chain.target.num_params))
