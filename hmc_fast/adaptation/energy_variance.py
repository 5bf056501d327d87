"""Tunes the step size to a target energy variance per dimension, for dynamics without a Metropolis test
(Robnik et al. 2023, arXiv:2212.08549; Robnik & Seljak 2023, arXiv:2303.18221).

    xi  = dE^2 / (D v),   weight = exp(-(log xi / (6 s))^2 / 2)
    x   = r x + weight xi / eps^6,   t = r t + weight,   eps = (x / t)^(-1/6)

dE is the energy error of a step, v the target variance per dimension; dE^2 grows as eps^6.
"""

import torch
from torch import Tensor

__all__ = ["EnergyVariance"]

# The authors' constants: how far from the target an estimate is still trusted, and the number of steps remembered.
_TRUST, _MEMORY = 1.5, 150.0
_RETENTION = (_MEMORY - 1) / (_MEMORY + 1)
_SHRINK = 0.8  # of the step size, after a step that was not finite

_X, _T, _STEP = range(3)


class EnergyVariance:
    """One step size for C chains.

    Args:
        state: float64 `(3,)`, owned by the caller and mutated in place; `restart` fills it.
        dimension: D.
        wanted: v, the target energy variance per dimension; the authors recommend 5e-4.
    """

    rows = 3

    def __init__(self, state: Tensor, dimension: int, wanted: float) -> None:
        self.state, self.dimension, self.wanted = state, dimension, wanted

    def restart(self, step_size: float) -> None:
        """Forgets the past and restarts at `step_size`."""
        self.state.zero_()
        self.state[_STEP].fill_(step_size)  # assigned, it would be copied from the host, which waits for the device

    def update(self, energy_error: Tensor, counts: Tensor) -> None:
        """Adapts to one step's `energy_error (C,)`, in the chains where `counts (C,)` is true. If one of them is
        not finite, forgets the past and tries a shorter step."""
        x, t, step = self.state
        finite = torch.isfinite(energy_error)
        xi = torch.where(finite, energy_error, 0.0).double() ** 2 / (self.dimension * self.wanted) + 1e-8
        weight = torch.where(finite & counts, torch.exp(-0.5 * (xi.log() / (6 * _TRUST)) ** 2), 0.0)
        x = _RETENTION * x + (weight * xi).sum() / step**6
        t = _RETENTION * t + weight.sum()
        learned = torch.where(t > 0, (x / t.clamp_min(1e-30)) ** (-1 / 6), step)
        failed = (counts & ~finite).any()
        fresh = torch.stack((torch.zeros_like(x), torch.zeros_like(t), _SHRINK * step))
        self.state.copy_(torch.where(failed, fresh, torch.stack((x, t, learned))))

    @property
    def step_size(self) -> Tensor:
        """Float64 `()`."""
        return self.state[_STEP]
