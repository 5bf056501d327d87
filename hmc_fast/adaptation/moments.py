"""Streaming mean and variance (Welford 1962), and the diagonal inverse mass computed from them."""

import torch
from torch import Tensor

__all__ = ["Moments", "diagonal_inverse_mass"]


class Moments:
    """Mean and variance of D-dimensional vectors in K groups.

    Args:
        state: `(3, K, D)`, initially zero: counts, means, sums of squares. Owned by the caller and mutated in
        place.
            K = 1 pools all chains, K = C keeps them separate.
    """

    rows = 3

    def __init__(self, state: Tensor) -> None:
        self.state = state
        self.count, self.mean, self._squares = state

    def reset(self) -> None:
        self.state.zero_()

    def update(self, values: Tensor) -> None:
        """Adds one vector per chain, `(C, D)`; ignores elements that are not finite."""
        values = values.unflatten(0, (len(self.mean), -1))  # (K, C/K, D)
        finite = torch.isfinite(values)
        new = finite.sum(1)
        centre = torch.where(finite, values, 0).sum(1) / new.clamp_min(1)
        squares = torch.where(finite, values - centre[:, None], 0).square().sum(1)
        total = self.count + new
        share = new / total.clamp_min(1)
        shift = centre - self.mean
        self._squares.add_(squares + shift**2 * self.count * share)
        self.mean.add_(shift * share)
        self.count.copy_(total)

    @property
    def variance(self) -> Tensor:
        """Unbiased, `(K, D)`; 0 before the second vector."""
        return self._squares / (self.count - 1).clamp_min(1)


def diagonal_inverse_mass(draws: Tensor, gradients: Tensor | None, previous: Tensor) -> Tensor:
    """The diagonal of M^-1 from the variances `(K, D)` of the draws and, if given, of the log density's gradient.

    With gradients: sqrt(var(draws) / var(gradients)), the diagonal that minimises the Fisher divergence to a
    Gaussian (Seyboldt, Carlson & Carpenter 2026, arXiv:2603.18845). For independent Gaussians it is exact for any
    draws, even from chains that have not converged, so it works in the first windows too. Without gradients:
    var(draws), as in Stan. Elements that would be 0, infinite or NaN keep their value in `previous`.
    """
    value = draws if gradients is None else (draws / gradients).sqrt()
    return torch.where(torch.isfinite(value) & (value > 0), value, previous)
