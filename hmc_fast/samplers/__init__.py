"""Samplers, one file each, all of one protocol (`base.py`); they never import one another."""

from .base import Info, Sampler
from .hmc import HMC
from .sghmc import SGHMC

SAMPLERS = (HMC, SGHMC)  # every public sampler, for tests and documentation

__all__ = ["HMC", "SAMPLERS", "SGHMC", "Info", "Sampler"]
