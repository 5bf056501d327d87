"""Samplers, one file each, all of one protocol (`base.py`); they never import one another."""

from .base import Info, Sampler
from .hmc import HMC
from .psgld import PSGLD
from .sghmc import SGHMC
from .sgld import SGLD
from .sgnht import SGNHT
from .underdamped_langevin import UnderdampedLangevin

SAMPLERS = (
    HMC,
    PSGLD,
    SGHMC,
    SGLD,
    SGNHT,
    UnderdampedLangevin,
)  # every public sampler, for tests and documentation

__all__ = [
    "HMC",
    "PSGLD",
    "SAMPLERS",
    "SGHMC",
    "SGLD",
    "SGNHT",
    "Info",
    "Sampler",
    "UnderdampedLangevin",
]
