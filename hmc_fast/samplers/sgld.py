"""Stochastic-gradient Langevin dynamics (Welling & Teh 2011, eq. 4).

    for t = 1, 2, ...
        g     = gradient of log density over T, estimated on a minibatch (likelihood times N/B)
        theta = theta + eps/2 M^-1 g + sqrt(eps M^-1) xi,   xi ~ N(0, I)

    symbol   argument              symbol   argument
    eps      step_size             M^-1     inverse_mass

With h = sqrt(eps) this is a leapfrog step from a fresh momentum, m = M^(1/2) xi + h/2 g, theta = theta + h M^-1 m,
and so it runs in the one fused kernel of SGHMC: friction 1/h leaves nothing of the old momentum. There is no
Metropolis test: the law is biased at order eps, and by the gradient noise, of variance eps^2/4 per step.
"""

import torch
from torch import Tensor

from ..compute.random_streams import NOISE
from ..dynamics.schedules import Schedule
from ..kernels import ops
from ..kernels.ops import Counter
from .stochastic import StochasticGradient, StochasticState

__all__ = ["SGLD"]


class SGLD(StochasticGradient[StochasticState]):
    """Stochastic-gradient Langevin dynamics.

    Args:
        step_size: eps, in units of theta *squared*: about the square of a leapfrog step size. It multiplies
            the gradient of a *sum* over the data: a learning rate on the mean loss is eps N / 2.
        batch_size: B; 0 or None for the full data (unadjusted Langevin).
        steps_per_iteration: steps per iteration; None: one epoch, ceil(N / B).
        schedule: None keeps eps constant; `PolynomialDecay` lets it fall as in the paper, `CosineCyclical`
            in cycles whose exploration stage has no noise (cSGLD, Zhang et al. 2020, arXiv:1902.03932).
        inverse_mass: `(D,)` or `(C, D)`, a constant preconditioner; None for identity.

    Raises:
        UserError: a step size that is not positive, a negative batch size, or no step.
    """

    name = "sgld"
    has_momentum = False
    step_size_power = 2

    def __init__(
        self,
        step_size: float,
        *,
        batch_size: int | None = None,
        steps_per_iteration: int | None = None,
        schedule: Schedule | None = None,
        inverse_mass: Tensor | None = None,
    ) -> None:
        super().__init__(step_size, batch_size, steps_per_iteration, schedule)
        self.inverse_mass = inverse_mass

    def _columns(
        self, state: StochasticState, step_size: Tensor, explores: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        h = torch.sqrt(step_size)
        # variance of the noise 2 h (gamma - B) = 1 from B = gamma / 2, and 0 from B = gamma
        return h, 1 / h, torch.where(explores, 1 / h, 0.5 / h)

    def _update(self, state: StochasticState) -> None:
        ops.kick_drift(
            state.theta,
            state.momentum,
            state.work_grad,
            state.target.prior,
            state.hyper,
            fraction=0.5,
            inverse_mass=self.inverse_mass,
            noise=Counter(state.seed, NOISE, state.counter),
        )

    def _reported(self, step_size: Tensor) -> Tensor:
        return step_size.square()
