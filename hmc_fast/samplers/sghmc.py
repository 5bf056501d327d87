"""Stochastic-gradient Hamiltonian Monte Carlo (Chen, Fox & Guestrin 2014, arXiv:1402.4102, algorithm 2).

    for t = 1, 2, ...
        every refresh_interval iterations:  m ~ N(0, M)
        for i = 1 .. num_leapfrog
            g     = gradient of log density over T, estimated on a minibatch (likelihood times N/B)
            m     = (1 - eps gamma) m + eps g + sqrt(2 eps (gamma - B) M) xi,   xi ~ N(0, I)
            theta = theta + eps M^-1 m

    symbol   argument              symbol   argument
    eps      step_size             gamma    friction (C M^-1 in the paper), 1 / time
    B        noise_estimate        M^-1     inverse_mass

In the words of optimisers: learning rate eps^2 (on the *sum* over the data), momentum 1 - eps gamma. There
is no Metropolis test: the law is biased at order eps, and by gradient noise that B leaves uncounted.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UserError
from ..kernels import ops
from ..kernels.ops import Counter
from ..minibatch import Minibatches
from ..schedules import CosineCyclical
from ..streams import MOMENTUM, NOISE, check_seed
from ..target import Target
from ..unit import Graph, Unit
from .base import Info

__all__ = ["SGHMC", "SGHMCState"]


@dataclass
class SGHMCState:
    """C chains. `step` mutates every tensor here, in place."""

    target: Target
    seed: int
    minibatches: Minibatches
    theta: Tensor  # (C, D)
    momentum: Tensor  # (C, D)
    hyper: Tensor  # (C, 4) see kernels/reference.py
    counter: Tensor  # (1,) int64 leapfrog steps so far
    host_counter: int  # the same number, for choices of the host
    work_grad: Tensor  # (C, D)
    work_log_lik: Tensor  # (C, B)
    work_log_lik_sum: Tensor  # (C,) float64, over the iteration
    work_indices: Tensor  # (C, B) int64 minibatch of the step under way
    unit: "Unit | None" = None  # one leapfrog step


class SGHMC:
    """Stochastic-gradient HMC with friction.

    Args:
        step_size: eps, in units of theta.
        friction: gamma; the momentum keeps a share 1 - eps * gamma per step.
        batch_size: B; 0 or None for the full data (underdamped Langevin dynamics).
        num_leapfrog: steps per iteration; None: one epoch, ceil(N / B).
        noise_estimate: B of the paper, the part of the friction that gradient noise already pays for.
        refresh_interval: iterations between fresh momenta; 0 never refreshes after the start.
        schedule: None keeps eps constant; `CosineCyclical` anneals it in cycles.
        inverse_mass: `(D,)` or `(C, D)`, None for identity.

    Raises:
        UserError: a step size or friction that is not positive, a product of the two of 1 or more, a noise
            estimate outside [0, friction], or a negative batch size or interval.
    """

    name = "sghmc"
    has_metropolis_test = False

    def __init__(
        self,
        step_size: float,
        *,
        friction: float,
        batch_size: int | None = None,
        num_leapfrog: int | None = None,
        noise_estimate: float = 0.0,
        refresh_interval: int = 0,
        schedule: CosineCyclical | None = None,
        inverse_mass: Tensor | None = None,
    ) -> None:
        for name, value in (("step size", step_size), ("friction", friction)):
            if not (math.isfinite(value) and value > 0):
                raise UserError(f"{name} {value} must be a positive number")
        if step_size * friction >= 1:
            raise UserError(
                f"step size {step_size} times friction {friction} is {step_size * friction:.3g}: it must be "
                "under 1, the share of momentum lost per step"
            )
        if not 0 <= noise_estimate <= friction:
            raise UserError(f"noise estimate {noise_estimate} must lie between 0 and the friction {friction}")
        if batch_size is not None and batch_size < 0:
            raise UserError(f"batch size {batch_size} must be positive, or 0 for the full data")
        if num_leapfrog is not None and num_leapfrog < 1:
            raise UserError(f"number of leapfrog steps {num_leapfrog} must be at least 1")
        if refresh_interval < 0:
            raise UserError(f"refresh interval {refresh_interval} must be 0 (never) or positive")
        self.step_size, self.friction, self.batch_size = step_size, friction, batch_size or None
        self.num_leapfrog, self.noise_estimate = num_leapfrog, noise_estimate
        self.refresh_interval, self.schedule, self.inverse_mass = refresh_interval, schedule, inverse_mass

    def init(
        self, target: Target, theta: Tensor, *, seed: int = 0, graph: Graph = False, burn_in: int = 0
    ) -> SGHMCState:
        """Begins at `theta (C, D)` with a fresh momentum."""
        check_seed(seed)
        theta = theta.clone()
        num_chains = len(theta)
        batch_size = self.batch_size or target.num_data
        hyper = torch.tensor(
            [[self.step_size, 1 / target.temperature, self.friction, self.noise_estimate]],
            device=target.device,
        )
        state = SGHMCState(
            target=target,
            seed=seed,
            minibatches=Minibatches(target.num_data, batch_size, num_chains, seed, target.device),
            theta=theta,
            momentum=torch.zeros_like(theta),
            hyper=hyper.repeat(num_chains, 1),
            counter=torch.zeros(1, dtype=torch.int64, device=target.device),
            host_counter=0,
            work_grad=torch.empty_like(theta),
            work_log_lik=theta.new_empty(num_chains, batch_size),
            work_log_lik_sum=torch.zeros(num_chains, dtype=torch.float64, device=target.device),
            work_indices=torch.zeros(num_chains, batch_size, dtype=torch.int64, device=target.device),
        )
        state.unit = self._unit(state, None if self.batch_size is None else state.work_indices, graph)
        return state

    def step(
        self, state: SGHMCState, batch: Tensor | None = None, *, burn_in: bool = False
    ) -> tuple[SGHMCState, Info]:
        """One iteration: `num_leapfrog` updates, each on its own minibatch (or all on `batch (C, B)`)."""
        num_leapfrog = self.gradients_per_iteration(state.target)
        iteration = state.host_counter // num_leapfrog
        if iteration == 0 or (self.refresh_interval and iteration % self.refresh_interval == 0):
            ops.refresh_momentum(
                state.momentum, Counter(state.seed, MOMENTUM, state.counter), inverse_mass=self.inverse_mass
            )
        state.work_log_lik_sum.zero_()
        leapfrog = self._unit(state, batch, graph=False) if batch is not None else state.unit
        assert leapfrog is not None
        for _ in range(num_leapfrog):
            if batch is None and self.batch_size is not None:
                state.minibatches.advance(state.host_counter)
            leapfrog()
            state.host_counter += 1
        finite = torch.isfinite(state.theta).all(1)
        nan = torch.full_like(state.work_log_lik_sum, torch.nan)
        return state, Info(
            log_likelihood=state.work_log_lik_sum / num_leapfrog,
            log_prior=state.target.log_prior(state.theta),
            energy_error=nan,
            accept_prob=nan,
            accepted=torch.ones_like(finite),
            divergent=~finite,
            step_size=state.hyper[:, ops.STEP_SIZE].clone(),
            kinetic_energy=ops.kinetic_energy(state.momentum, inverse_mass=self.inverse_mass),
            num_leapfrog=num_leapfrog,
        )

    def _unit(self, state: SGHMCState, batch: Tensor | None, graph: Graph) -> Unit:
        """One gradient and one fused update, over the state's buffers."""
        target = state.target
        log_lik = state.work_log_lik if batch is None else state.work_log_lik[:, : batch.shape[1]]

        def prepare() -> None:
            if self.schedule is not None:
                self._set_step_size(state, self.schedule)
            if batch is state.work_indices:
                state.minibatches.read(state.counter, batch)

        def gradient() -> None:
            target.log_likelihood_and_grad(state.theta, state.work_grad, log_lik, batch)

        def update() -> None:
            ops.kick_drift(
                state.theta,
                state.momentum,
                state.work_grad,
                target.prior,
                state.hyper,
                inverse_mass=self.inverse_mass,
                noise=Counter(state.seed, NOISE, state.counter),
            )
            state.work_log_lik_sum.add_(log_lik.double().mean(1) * target.num_data)
            state.counter.add_(1)

        buffers = [state.theta, state.momentum, state.hyper, state.counter, state.work_grad, state.work_log_lik]
        buffers += [state.work_log_lik_sum, state.work_indices]
        return Unit(target, gradient, update, buffers, count=log_lik.shape[1], prepare=prepare, graph=graph)

    def _set_step_size(self, state: SGHMCState, schedule: CosineCyclical) -> None:
        """On the device, from the step counter: nothing is read back, so a captured step may do it."""
        fraction = schedule.fraction(state.counter, self.gradients_per_iteration(state.target))
        state.hyper[:, ops.STEP_SIZE] = (self.step_size * schedule.multiplier(fraction)).to(state.hyper.dtype)
        exploring = fraction < schedule.exploration  # noise estimate = friction switches the noise off
        state.hyper[:, ops.NOISE_ESTIMATE] = torch.where(exploring, self.friction, self.noise_estimate)

    def gradients_per_iteration(self, target: Target) -> int:
        """`num_leapfrog`, or one epoch."""
        return self.num_leapfrog or math.ceil(target.num_data / (self.batch_size or target.num_data))

    def keeps(self, iteration: int) -> bool:
        return self.schedule is None or self.schedule.keeps(iteration)
