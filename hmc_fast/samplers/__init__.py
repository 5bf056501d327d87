"""Samplers, one file each, all of one protocol (`protocol.py`); they never import one another."""

from .adjusted_mclmc import AdjustedMCLMC
from .amagold import AMAGOLD
from .ghmc import GHMC
from .hmc import HMC
from .mclmc import MCLMC
from .protocol import Info, Sampler
from .psgld import PSGLD
from .sghmc import SGHMC
from .sgld import SGLD
from .sgnht import SGNHT
from .split_hmc import SplitHMC
from .underdamped_langevin import UnderdampedLangevin

SAMPLERS = (
    AMAGOLD,
    GHMC,
    HMC,
    MCLMC,
    PSGLD,
    SGHMC,
    SGLD,
    SGNHT,
    SplitHMC,
    AdjustedMCLMC,
    UnderdampedLangevin,
)  # every public sampler, for tests and documentation

__all__ = [
    "AMAGOLD",
    "GHMC",
    "HMC",
    "MCLMC",
    "PSGLD",
    "SAMPLERS",
    "SGHMC",
    "SGLD",
    "SGNHT",
    "AdjustedMCLMC",
    "Info",
    "Sampler",
    "SplitHMC",
    "UnderdampedLangevin",
]
