"""Dual averaging of the step size (Nesterov 2009; Hoffman & Gelman 2014, arXiv:1111.4246, section 3.2).

    H_t      = (1 - 1/(t + t0)) H_(t-1) + (delta - a_t) / (t + t0)
    log e_t  = mu - sqrt(t) / gamma H_t
    log e*_t = t^-kappa log e_t + (1 - t^-kappa) log e*_(t-1)

a_t is the acceptance statistic and delta its target. Burn-in uses e_t; sampling uses the final e*.
"""

import math

import torch
from torch import Tensor

__all__ = ["DualAveraging"]

# The paper's constants (its section 3.2.1), as in Stan.
_GAMMA, _T0, _KAPPA = 0.05, 10.0, 0.75
_OPTIMISM = 10.0  # mu = log(10 e_1): large steps are tried first, since small ones cost more

_ERROR, _COUNT, _CENTRE, _CURRENT, _AVERAGE = range(5)


class DualAveraging:
    """K step sizes, one per acceptance statistic.

    Args:
        state: float64 `(5, K)`, zeros before `restart`; owned by the caller and mutated in place.
        target: delta, the target acceptance probability, in (0, 1).
    """

    rows = 5

    def __init__(self, state: Tensor, target: float = 0.8) -> None:
        self.state, self.target = state, target

    def restart(self, step_size: Tensor) -> None:
        """Forgets the past and restarts at `step_size (K,)`."""
        self.state.zero_()
        log_step = step_size.double().log()
        self.state[_CENTRE] = log_step + math.log(_OPTIMISM)
        self.state[_CURRENT] = log_step
        self.state[_AVERAGE] = log_step

    def update(self, accept_prob: Tensor) -> None:
        """Adapts to one iteration's `accept_prob (K,)`; NaN, from a divergence, counts as 0."""
        error, count, centre, _, average = self.state
        count = count + 1
        weight = 1 / (count + _T0)
        error = (1 - weight) * error + weight * (self.target - torch.nan_to_num(accept_prob.double(), nan=0.0))
        current = centre - count.sqrt() / _GAMMA * error
        share = count**-_KAPPA
        average = share * current + (1 - share) * average
        self.state.copy_(torch.stack((error, count, centre, current, average)))

    @property
    def step_size(self) -> Tensor:
        """e_t, float64 `(K,)`: for the next iteration of burn-in."""
        return self.state[_CURRENT].exp()

    @property
    def averaged(self) -> Tensor:
        """e*, float64 `(K,)`: for sampling after burn-in."""
        return self.state[_AVERAGE].exp()
