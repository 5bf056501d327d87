"""The trajectory length after which proposals hardly remember where they began.

    r_t       = x . x' / (|x| |x'|),   x = theta - mean, x' at the proposal; weighted by acceptance over the chains
    log T_t+1 = log T_t + a_t (r_t - r*),   a_t = A (t + t0)^-k        (Robbins & Monro 1951)
    log T*    = average of the log T_t (Polyak & Juditsky 1992)

For a Gaussian r is a mean of cos(time / scale), in which a direction's share is its variance. Lengths jittered by
half reach r = .13 at .91 pi/2 scales. There ChEES (Hoffman, Radul & Sountsov 2021), the expected squared jump of
|x|^2, is largest, and the less efficient of x and x^2 gains most draws per gradient (.50; at pi/2 .44, at .76 pi/2
.41). An ascent of ChEES itself has signals a tenth of their noise near the maximum, and climbs the next one from
1.7 times that length on; r falls until three times the length, and its noise is 1 / sqrt(D).

The mean is each chain's own, so that the distance between modes does not count.
"""

import torch
from torch import Tensor

__all__ = ["Decorrelation"]

_TARGET = 0.1
_RATE, _DELAY, _POWER = 0.5, 5.0, 0.6
# A trajectory that was shorter than jitter makes it and remembers, or longer and does not, as of a chain whose own
# step size is far from the others', says nothing about this length.
_SHORTEST, _LONGEST = 0.4, 1.7


class Decorrelation:
    """Searches for the length.

    Args:
        state: `(rows,)` float64. means: `(C, D)`. before: `(C, D)`, the states before this iteration. Owned by the
            caller and mutated in place; `start` sets them.
    """

    rows = 4

    def __init__(self, state: Tensor, means: Tensor, before: Tensor) -> None:
        self.state, self.means, self.before = state, means, before
        self._log, self._averaged, self._count, self._draws = state

    def start(self, length: float, theta: Tensor) -> None:
        """Begins at a length, at states `theta (C, D)`."""
        self.state.zero_()
        self._log.fill_(length).log_()
        self._averaged.copy_(self._log)
        self.before.copy_(theta)

    def skip(self, theta: Tensor) -> None:
        """An iteration from which nothing is learned."""
        self.before.copy_(theta)

    def update(
        self, theta: Tensor, proposal: Tensor, accept_prob: Tensor, time: Tensor, *, inverse_mass: Tensor
    ) -> None:
        """Adapts to one iteration.

        Args:
            theta, proposal: `(C, D)`, the states after the iteration, and what was proposed.
            accept_prob, time: `(C,)`, the time that the trajectory took. inverse_mass: `(C, D)` or `(1, D)`.
        """
        begin, end = self.before - self.means, proposal - self.means
        products = [(a * b / inverse_mass).sum(1).double() for a, b in ((begin, end), (begin, begin), (end, end))]
        cosine = products[0] * (products[1] * products[2]).rsqrt()
        ratio = time / self.length
        telling = torch.where(cosine > _TARGET, ratio > _SHORTEST, ratio < _LONGEST)
        counts = telling & torch.isfinite(cosine)
        weight = torch.where(counts, torch.nan_to_num(accept_prob, nan=0.0), 0.0)
        total = weight.sum()
        remembered = torch.where(counts, cosine * weight, 0.0).sum() / total.clamp_min(1e-30)
        self._step(torch.where(total > 0, remembered - _TARGET, 0.0), (total > 0).double())
        self.means.lerp_(self.before, (2 / (self._draws + 2)).to(self.means.dtype))
        self._draws.add_(1)
        self.before.copy_(theta)

    def _step(self, error: Tensor, counts: Tensor) -> None:
        self._log.add_(_RATE * (self._count + _DELAY) ** -_POWER * error)
        self._count.add_(counts)
        self._averaged.lerp_(self._log, 2 * counts / (self._count + 1))  # late iterations weigh more

    def rescale(self, factor: Tensor) -> None:
        """Units have changed: the same trajectories are `factor ()` times as long. Ignores a factor that is not a
        positive number, as of chains that have not moved."""
        known = torch.isfinite(factor) & (factor > 0)
        for log in (self._log, self._averaged):
            log.add_(torch.where(known, factor.double().log(), 0.0))
        self._count.zero_()
        self._draws.zero_()

    def settle(self) -> None:
        """Ends the search at the average of its path."""
        self._log.copy_(self._averaged)

    @property
    def length(self) -> Tensor:
        """`()`"""
        return self._log.exp()
