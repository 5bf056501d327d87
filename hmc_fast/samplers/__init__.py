"""The samplers, one per file, all following one protocol (`protocol.py`); none imports another.

To write a new sampler, import from here: `Info`, `GradientStep`, `minibatches`, `Coefficients`, `Clock`,
`Counter` with the random streams `MOMENTUM`, `NOISE` and `ACCEPT`, and `ops`, the fused operations.
"""

from ..compute.random_streams import ACCEPT, MOMENTUM, NOISE
from ..dynamics.coefficients import Coefficients
from ..dynamics.gradient_step import GradientStep
from ..dynamics.minibatches import Minibatches, minibatches
from ..kernels import ops
from ..kernels.ops import Counter
from .adjusted_mclmc import AdjustedMCLMC
from .amagold import AMAGOLD
from .ghmc import GHMC
from .hmc import HMC
from .mclmc import MCLMC
from .protocol import Clock, Info, Sampler
from .psgld import PSGLD
from .sghmc import SGHMC
from .sgld import SGLD
from .sgnht import SGNHT
from .split_hmc import SplitHMC
from .ubu import SMSUBU, UBU
from .underdamped_langevin import UnderdampedLangevin

# Every public sampler, those with a Metropolis test first: for the command line, tests and documentation.
SAMPLERS = (
    HMC,
    GHMC,
    SplitHMC,
    AMAGOLD,
    AdjustedMCLMC,
    MCLMC,
    SGHMC,
    SGLD,
    PSGLD,
    SGNHT,
    UnderdampedLangevin,
    UBU,
    SMSUBU,
)

__all__ = [
    "ACCEPT",
    "AMAGOLD",
    "GHMC",
    "HMC",
    "MCLMC",
    "MOMENTUM",
    "NOISE",
    "PSGLD",
    "SAMPLERS",
    "SGHMC",
    "SGLD",
    "SGNHT",
    "SMSUBU",
    "UBU",
    "AdjustedMCLMC",
    "Clock",
    "Coefficients",
    "Counter",
    "GradientStep",
    "Info",
    "Minibatches",
    "Sampler",
    "SplitHMC",
    "UnderdampedLangevin",
    "minibatches",
    "ops",
]
