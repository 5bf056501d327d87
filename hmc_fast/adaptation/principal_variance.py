"""A streaming estimate of the largest variance in any direction, which sets the trajectory length.

Candid covariance-free incremental PCA (Weng, Zhang & Hwang 2003, IEEE TPAMI 25(8)): one vector, no matrix.

    v <- (1 - w) v + w x (x . v) / |v|,   w = (1 + amnesia) / (1 + t);   |v| -> the largest eigenvalue
"""

import torch
from torch import Tensor

__all__ = ["PrincipalVariance"]

_AMNESIA = 2.0  # the paper recommends 2 to 4, to forget early vectors from before the direction was found
_TINY = 1e-30


class PrincipalVariance:
    """The leading eigenvalue of the covariance of centred vectors.

    Args:
        state: `(1 + D,)`, the count and v; owned by the caller and mutated in place.
    """

    def __init__(self, state: Tensor) -> None:
        self.state, self.count, self.vector = state, state[:1], state[1:]

    def reset(self) -> None:
        """Restarts the count; the search continues from the direction found so far."""
        self.count.zero_()

    def update(self, centred: Tensor) -> None:
        """Adds one centred vector per chain, `(C, D)`, in coordinates where the mass is the identity."""
        centred = torch.nan_to_num(centred, nan=0.0, posinf=0.0, neginf=0.0)
        norm = self.vector.norm()
        direction = torch.where(norm > _TINY, self.vector / norm.clamp_min(_TINY), centred[0] / _length(centred[0]))
        found = (centred * (centred @ direction)[:, None]).mean(0)
        self.count.add_(1)
        weight = ((1 + _AMNESIA) / (self.count + _AMNESIA)).clamp_max(1)
        self.vector.mul_(1 - weight).add_(weight * found)

    @property
    def value(self) -> Tensor:
        """The variance along the leading direction, `()`."""
        return self.vector.norm()


def _length(vector: Tensor) -> Tensor:
    return vector.norm().clamp_min(_TINY)
