"""Preconditioned SGLD (Li, Chen, Carlson & Carin 2016, arXiv:1512.07666, algorithm 1): SGLD with RMSprop.

    for t = 1, 2, ...
        v     = mean gradient of the log likelihood on a minibatch
        V     = alpha V + (1 - alpha) v * v                                   (while it adapts)
        G     = 1 / (lambda + sqrt(V))
        theta = theta + eps/2 G g + sqrt(eps G) xi,   xi ~ N(0, I)

where g, as in SGLD, is the gradient of log density over T.

    symbol   argument              symbol   argument
    eps      step_size             alpha    decay
    lambda   damping

G depends on theta, so leaving the posterior invariant would require a further term eps/2 Gamma(theta), where
Gamma_i is the derivative of G_i with respect to theta_i. Following the paper's experiments, we omit it. While G
adapts, this biases the draws towards small gradients; the bias shrinks with 1 - alpha (their corollary 2), not with
eps. By default G therefore adapts during burn-in only. Afterwards it is a constant metric, and the sampler is SGLD.
"""

import torch
from torch import Tensor

from ..arguments import positive
from ..dynamics.coefficients import Coefficients
from ..dynamics.gradient_step import Graph
from ..dynamics.schedules import Schedule
from ..errors import UserError
from ..kernels import ops
from ..targets.base import Target
from .minibatch_chain import MinibatchChain, MinibatchSampler
from .protocol import Batch, Info

__all__ = ["PSGLD", "PSGLDState"]


class PSGLDState(MinibatchChain):
    """C chains, each with its own preconditioner.

    Attributes:
        mean_square: `(C, D)` V. preconditioner: `(C, D)` G. adapting: `(1,)`, 1 while V adapts and 0 afterwards.
    """

    def __init__(self, sampler: "PSGLD", target: Target, theta: Tensor, seed: int, graph: Graph) -> None:
        self.mean_square, self.preconditioner = torch.zeros_like(theta), torch.ones_like(theta)
        self.adapting = theta.new_ones(1)
        super().__init__(sampler, target, theta, seed, graph)


class PSGLD(MinibatchSampler):
    """SGLD with an RMSprop preconditioner.

    Args:
        step_size: eps, as in SGLD where G = 1; G is about the inverse of the gradient per example.
        decay: alpha, in [0, 1); V averages over about 1 / (1 - alpha) minibatches.
        damping: lambda; G is at most 1 / lambda. A weight with no likelihood gradient has V = 0 and diverges if
            lambda is below about eps / (4 * prior variance).
        adapt_after_burn_in: False freezes G after burn-in; True adapts it throughout, as in the paper.
        batch_size, steps_per_iteration, schedule: as in SGLD.

    Raises:
        UserError: a step size or damping that is not positive, a decay outside [0, 1), a negative batch size,
            fewer than one step, or, from `init`, neither burn-in nor `adapt_after_burn_in`.
    """

    name = "psgld"
    has_momentum = False
    step_size_power = 2

    def __init__(
        self,
        step_size: float,
        *,
        decay: float = 0.99,
        damping: float = 1e-5,
        adapt_after_burn_in: bool = False,
        batch_size: int | None = None,
        steps_per_iteration: int | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(step_size, batch_size, steps_per_iteration, schedule)
        if not 0 <= decay < 1:
            raise UserError(f"decay {decay} must lie in [0, 1)")
        self.decay, self.damping = decay, positive("damping", damping)
        self.adapt_after_burn_in = adapt_after_burn_in

    def init(
        self, target: Target, theta: Tensor, *, seed: int = 0, graph: Graph = False, warm_up_iterations: int = 0
    ) -> PSGLDState:
        """Starts at `theta (C, D)`; the first minibatch initialises V."""
        if warm_up_iterations < 1 and not self.adapt_after_burn_in:
            raise UserError(
                f"PSGLD learns its preconditioner during burn-in, and burn_in is {warm_up_iterations}: make it at "
                "least 1, or set adapt_after_burn_in=True"
            )
        return PSGLDState(self, target, theta, seed, graph)

    def step(
        self, state: PSGLDState, batch: Batch | None = None, *, warming_up: bool = False
    ) -> tuple[PSGLDState, Info]:
        """`steps_per_iteration` steps, each on a new minibatch (or all on `batch`)."""
        state.adapting.fill_(float(warming_up or self.adapt_after_burn_in))
        return state, state.advance(batch)

    def coefficients(self, chain: PSGLDState, eps: Tensor, explores: Tensor) -> Coefficients:
        return Coefficients(kick=eps / 2, drift=1.0, decay=0.0, noise=torch.where(explores, 0.0, eps).sqrt())

    def update(self, chain: PSGLDState) -> None:
        # A plain mean over the first minibatches: starting from V = 0 would make the first steps far too long.
        share = torch.clamp_min(1 / (chain.steps.on_device + 1), 1 - self.decay)
        squares = (chain.grad / chain.target.num_data).square()
        chain.mean_square.lerp_(squares, (share * chain.adapting).to(squares.dtype))
        torch.reciprocal(chain.mean_square.sqrt() + self.damping, out=chain.preconditioner)
        ops.kick_drift(
            chain.theta,
            chain.momentum,
            chain.grad,
            chain.target.prior,
            chain.coefficients,
            inverse_mass=chain.preconditioner,
            noise=chain.noise(),
        )
