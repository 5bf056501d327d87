"""Whether half precision keeps what draws are for: their spread, and the predictions made from them.

A float16 has 10 bits after its leading one: near 1,000 its values are .5 apart, from 65,504 on there are none. A
posterior that is narrow far from 0 needs more.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

__all__ = ["Spread", "lost_coordinates"]

# Rounding to a spacing of a tenth of the standard deviation adds a variance of 1/1200 of it.
_SPACING_OVER_SPREAD = 0.1
# The farthest that draws after burn-in are allowed for, in standard deviations beyond the largest value so far.
_REACH = 10.0
# Fewer values per coordinate do not tell a spread.
_FEWEST = 10


class Spread:
    """Of every coordinate its mean and spread over iterations and chains, and its largest magnitude, `(D,)`.

    Sums are of distances from the first value, which does not move, so nothing cancels.
    """

    def __init__(self, theta: Tensor) -> None:
        zero = torch.zeros(theta.shape[1], dtype=torch.float64, device=theta.device)
        self.origin, self.sum, self.squares, self.largest = (zero.clone() for _ in range(4))
        self.count = torch.zeros(1, dtype=torch.int64)

    def add(self, theta: Tensor) -> None:
        """`theta (K, C, D)`."""
        rows = theta.flatten(0, 1).double()
        if not self.count:
            self.origin.copy_(rows[0])
        self.largest = torch.maximum(self.largest, rows.abs().amax(0))
        rows = rows - self.origin  # not in place: of a float64 chain these are its parameters
        self.sum += rows.sum(0)
        self.squares += rows.square().sum(0)
        self.count += len(rows)

    def refusal(self) -> str | None:
        """Why draws are not to be stored in half precision, or None."""
        number = int(self.count)
        if number < _FEWEST:
            return f"burn-in is too short to judge whether float16 holds them ({number} values of each coordinate)"
        mean = self.sum / number
        sd = (self.squares / number - mean**2).clamp(min=0).sqrt()
        coarse = spacing(self.largest) > _SPACING_OVER_SPREAD * sd
        beyond = self.largest + _REACH * sd > torch.finfo(torch.float16).max
        if not bool((coarse | beyond).any()):
            return None
        return (
            f"in float16, {int(coarse.sum()):,} of {len(coarse):,} coordinates would be rounded by a tenth of "
            f"their spread or more, and {int(beyond.sum()):,} might overflow"
        )

    def state_dict(self) -> dict[str, Tensor]:
        return dict(vars(self))

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            getattr(self, name).copy_(tensor)


def spacing(magnitude: Tensor) -> Tensor:
    """The distance between neighbouring float16 numbers of that magnitude, float64; 2**-24 near 0."""
    _, exponent = torch.frexp(magnitude.clamp(min=2.0**-14))  # below it they are evenly spaced
    return torch.ldexp(torch.ones_like(magnitude), exponent - 11)


def lost_coordinates(draws: np.ndarray, most: int = 1000) -> float:
    """Of half-precision draws `(S, C, D)` of chains that moved, the share of coordinates whose spread is less than
    twice their spacing. Judged on at most `most` coordinates, evenly spread."""
    if draws.dtype != np.float16:
        return 0.0
    chosen = np.unique(np.linspace(0, draws.shape[2] - 1, most).astype(np.int64))
    values = torch.from_numpy(np.asarray(draws[:, :, chosen], dtype=np.float64)).flatten(0, 1)
    return float((values.std(0, correction=0) < 2 * spacing(values.abs().amax(0))).double().mean())
