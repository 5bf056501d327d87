"""Adaptation during burn-in: independent components that tune step size, metric and trajectory length.

Their state is in tensors that the caller owns or can access, so a checkpoint can store it. Only the search for a
first step size reads values back to the host.
"""

from .decorrelation import Decorrelation
from .dual_averaging import DualAveraging
from .energy_guard import EnergyGuard
from .energy_variance import EnergyVariance
from .initial_step_size import find_step_size
from .moments import Moments, diagonal_inverse_mass
from .warm_up import Proposed, WarmUp, mean_over_groups
from .windows import Windows

__all__ = [
    "Decorrelation",
    "DualAveraging",
    "EnergyGuard",
    "EnergyVariance",
    "Moments",
    "Proposed",
    "WarmUp",
    "Windows",
    "diagonal_inverse_mass",
    "find_step_size",
    "mean_over_groups",
]
