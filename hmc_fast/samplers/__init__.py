"""Samplers, one file each, all of one protocol (`base.py`); they never import one another."""

from .base import Info, Sampler
from .hmc import HMC
from .sghmc import SGHMC

__all__ = ["HMC", "SGHMC", "Info", "Sampler"]
