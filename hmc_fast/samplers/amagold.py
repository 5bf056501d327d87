"""AMAGOLD: minibatch dynamics, an exact test per trajectory (Zhang, Cooper & De Sa 2020, arXiv:2003.00193).

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

rho is the energy that the minibatches' forces took: with the full data and beta = 0 it is the loss of kinetic
energy, and this is HMC. The test asks for the energy on all data once per trajectory, a cost that L gradients
share. It is exact if a sequence of minibatches is as likely as its reverse, so they are drawn independently and
with replacement: batches cut from one permutation that ends within a trajectory would not be.
"""

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from ..compute.random_streams import NOISE, PERMUTATION
from ..dynamics.gradient_step import Graph, Unit
from ..dynamics.metropolis import energy_of_examples
from ..errors import UserError
from ..kernels import ops, reference
from ..kernels.ops import Counter
from ..targets.base import Target, positive
from .metropolised import Metropolised, MetropolisedState

__all__ = ["AMAGOLD", "AMAGOLDState"]


@dataclass(kw_only=True)
class AMAGOLDState(MetropolisedState):
    """C chains. `step` mutates every tensor here, in place."""

    counter: "Tensor | None" = None  # (1,) int64 steps so far
    work_rho: "Tensor | None" = None  # (C,) float64
    unit: "Unit | None" = None  # one step


class AMAGOLD(Metropolised[AMAGOLDState]):
    """Stochastic-gradient dynamics with an amortised exact Metropolis-Hastings test.

    Args:
        step_size: eps, in units of theta.
        friction: beta, 1 / time; 0 for none.
        batch_size: B; 0 or None for the full data.
        num_leapfrog: L; None: one epoch, ceil(N / B).
        inverse_mass: `(D,)` or `(C, D)`, None for identity.

    Raises:
        UserError: a step size that is not positive, a negative friction or batch size, no step, or, in
            `init`, a batch larger than the data.
    """

    name = "amagold"
    keeps_gradient = False
    State = AMAGOLDState

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
            raise UserError(f"friction {friction} must be a number of at least 0")
        if batch_size is not None and batch_size < 0:
            raise UserError(f"batch size {batch_size} must be positive, or 0 for the full data")
        if num_leapfrog is not None and num_leapfrog < 1:
            raise UserError(f"number of leapfrog steps {num_leapfrog} must be at least 1")
        self.step_size, self.friction = positive("step size", step_size), friction
        self.batch_size, self.num_leapfrog, self.inverse_mass = batch_size or None, num_leapfrog, inverse_mass

    def gradients_per_iteration(self, target: Target) -> int:
        """`num_leapfrog`, or one epoch."""
        return self.num_leapfrog or math.ceil(target.num_data / (self.batch_size or target.num_data))

    def _first_step_size(self) -> float:
        return self.step_size / 2  # kernels drift by what they read: h, half a step

    def _reported(self, step_size: Tensor) -> Tensor:
        return 2 * step_size

    def _prepare(self, state: AMAGOLDState, graph: Graph, warm_up_iterations: int) -> None:
        target, theta, momentum = state.target, state.work_theta, state.work_new_momentum
        size = self.batch_size or target.num_data
        if size > target.num_data:
            raise UserError(f"batch size {size} must lie between 1 and the {target.num_data} data points")
        # The update in the kernels' terms: a share 1 - h f of m is kept, and the noise has variance 2 h (f - b) M.
        damping = 1 + self.step_size * self.friction
        f, b = 4 * self.friction / damping, 4 * self.step_size * self.friction**2 / damping**2
        state.hyper[:, ops.FRICTION], state.hyper[:, ops.NOISE_ESTIMATE] = f, b
        counter = torch.zeros_like(state.iteration)
        rho = torch.zeros_like(state.work_kinetic)
        state.counter, state.work_rho = counter, rho
        log_lik, impulse, before = (
            theta.new_empty(len(theta), size),
            torch.empty_like(theta),
            torch.empty_like(theta),
        )
        indices = None
        if self.batch_size is not None:
            indices = torch.zeros(len(theta), size, dtype=torch.int64, device=target.device)

        def velocity(momentum: Tensor) -> Tensor:
            return momentum if self.inverse_mass is None else momentum * self.inverse_mass

        def prepare() -> None:
            theta.addcmul_(velocity(momentum), state.hyper[:, ops.STEP_SIZE, None].to(theta.dtype))
            if indices is not None:
                words, *_ = reference.philox(Counter(state.seed, PERMUTATION, counter), *indices.shape)
                indices.copy_(words * target.num_data >> 32)

        def gradient() -> None:
            target.log_likelihood_and_grad(theta, state.work_grad, log_lik, indices)

        def update() -> None:
            impulse.zero_()
            ops.kick(impulse, state.work_grad, theta, target.prior, state.hyper, fraction=2.0)  # eps g
            before.copy_(momentum)
            ops.kick_drift(
                theta,
                momentum,
                state.work_grad,
                target.prior,
                state.hyper,
                fraction=2 / damping,
                inverse_mass=self.inverse_mass,
                noise=Counter(state.seed, NOISE, counter),
            )
            rho.sub_((impulse * velocity(before + momentum)).double().sum(1) / 2)
            counter.add_(1)

        buffers = [theta, momentum, state.work_grad, log_lik, impulse, before, rho, counter]
        buffers += [indices] if indices is not None else []
        state.unit = Unit(target, gradient, update, buffers, count=size, prepare=prepare, graph=graph)

    def _begin(self, state: AMAGOLDState) -> None:
        super()._begin(state)
        cast(Tensor, state.work_rho).zero_()

    def _trajectory(self, state: AMAGOLDState, num_leapfrog: int) -> None:
        for _ in range(num_leapfrog):
            cast(Unit, state.unit)()

    def _energy_error(self, state: AMAGOLDState) -> Tensor:
        """U(theta') - U(theta) - rho, from differences alone."""
        same = state.work_new_momentum  # twice, so that nothing but the prior differs
        prior = ops.energy_difference(state.theta, same, state.work_theta, same, state.target.prior, state.hyper)
        likelihood = energy_of_examples(state.log_lik, state.work_log_lik, state.hyper[:, ops.INVERSE_TEMPERATURE])
        return prior + likelihood - cast(Tensor, state.work_rho)
