"""The random streams: one number per use, so that no two uses share a counter.

A random value depends only on (seed, stream, chain, step, element), encoded in the key and counter of Philox
(`kernels/reference.py`). It does not depend on block size, number of devices, graph replay or resuming.
"""

import torch

from ..errors import UserError
from ..kernels.ops import Counter, uniforms

MOMENTUM, NOISE, ACCEPT, JITTER, PERMUTATION, INITIAL, COMPONENT = range(7)

__all__ = [
    "ACCEPT",
    "COMPONENT",
    "INITIAL",
    "JITTER",
    "MOMENTUM",
    "NOISE",
    "PERMUTATION",
    "check_seed",
    "host_uniform",
]


def check_seed(seed: int) -> int:
    """Returns the seed; UserError if it is not in [0, 2**63)."""
    if not 0 <= seed < 2**63:
        raise UserError(f"seed {seed} must lie in [0, 2**63)")
    return seed


def host_uniform(seed: int, stream: int, step: int) -> float:
    """One uniform in (0, 1) on the host, shared by all chains."""
    return float(uniforms(Counter(seed, stream, torch.tensor([step])), 1, 1))
