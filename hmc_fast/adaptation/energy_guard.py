"""Finds steps whose energy error is out of the ordinary, for microcanonical dynamics on minibatches (SMILE: Sommer
et al. 2026, arXiv:2602.06500).

    mean and variance of |dE|, exponential averages of weight .01, define a Gamma distribution with quantiles q(p)
    |dE| above q(.98): the step is undone

The quantiles are those of Wilson and Hilferty (1931). |dE| enters the averages clipped at q(.98). dE is measured
from one minibatch to the next, so most of it is noise of the minibatches: what counts is its tail.

Their rule for the step size (times .98 above q(.933), times 1.02 below q(.033)) is left out: the two are not as
frequent, and |dE| hardly depends on the step size here, so it falls without end. On a linear regression of 2 and 20
weights, 800 to 1,600 stationary steps left .70 to .85 of a step size that needed no change.
"""

from statistics import NormalDist

import torch
from torch import Tensor

__all__ = ["EnergyGuard"]

# The authors' constants.
_WEIGHT, _EXEMPT = 0.01, 10
_SPIKE = NormalDist().inv_cdf(0.98)  # here, since no compiler sees through it

_MEAN, _VARIANCE, _COUNT = range(3)


class EnergyGuard:
    """The ordinary energy errors of each of C chains.

    Args:
        state: float64 `(3, C)`, 0 at first, owned by the caller and mutated in place.
    """

    rows = 3

    def __init__(self, state: Tensor) -> None:
        self.state = state

    def quantile(self, normal: float) -> Tensor:
        """q(p), float64 `(C,)`. normal: the standard normal's quantile of p."""
        mean, variance = self.state[_MEAN], self.state[_VARIANCE]
        shape = mean**2 / variance.clamp_min(1e-300)
        root = 1 - 1 / (9 * shape) + normal / (3 * shape.sqrt())
        return mean * root.clamp_min(0) ** 3

    def update(self, energy_error: Tensor, counts: Tensor) -> Tensor:
        """Learns from one step's `energy_error (C,)` in the chains where `counts (C,)` is true. Returns, `(C,)`,
        whether their step is a spike, or that of any chain is not finite."""
        mean, variance, count = self.state
        size, finite = energy_error.double().abs(), torch.isfinite(energy_error)
        known = count >= _EXEMPT
        highest = torch.where(known, self.quantile(_SPIKE), torch.inf)
        seen = torch.where(finite, torch.minimum(size, highest), highest)
        weight = torch.clamp(1 / (count + 1), min=_WEIGHT)  # a plain average of the first 100
        change = seen - mean
        learned = torch.stack((mean + weight * change, (1 - weight) * (variance + weight * change**2), count + 1))
        self.state.copy_(torch.where(counts & (finite | known), learned, self.state))
        return ~finite | (counts & (size > highest))
