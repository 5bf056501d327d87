"""The random streams: one number per use, so that no two uses share a counter.

A random value depends only on (seed, stream, chain, step, element), encoded in the key and counter of Philox
(`kernels/reference.py`). It does not depend on block size, number of devices, graph replay or resuming.
"""

import sys

import torch
from torch import Tensor

from ..arguments import whole_number
from ..errors import UserError
from ..kernels import reference

MOMENTUM, NOISE, ACCEPT, JITTER, PERMUTATION, INITIAL, COMPONENT = range(7)
FLOW, OPENING = 16, 18  # of two streams each: two normals per element
TRAINING, HELD_OUT, FRESH = 24, 25, 26

__all__ = [
    "ACCEPT",
    "COMPONENT",
    "FLOW",
    "FRESH",
    "HELD_OUT",
    "INITIAL",
    "JITTER",
    "MOMENTUM",
    "NOISE",
    "OPENING",
    "PERMUTATION",
    "TRAINING",
    "check_seed",
    "host_seed",
    "host_uniform",
    "host_uniforms",
]


def check_seed(seed: int) -> int:
    """Returns the seed; UserError if it is not in [0, 2**63)."""
    if whole_number("seed", seed, least=-sys.maxsize) < 0 or seed >= 2**63:
        raise UserError(f"seed {seed} must lie in [0, 2**63)")
    return seed


def host_seed(seed: int, stream: int, chain: int) -> int:
    """A seed in [0, 2**63) for a generator that is not ours, one per chain."""
    high, low, *_ = reference.philox_rounds(chain & 0xFFFFFFFF, 0, 0, stream, seed)  # on Python's integers
    return (high >> 1) << 32 | low


def host_uniform(seed: int, stream: int, step: int) -> float:
    """One uniform in (0, 1) on the host, shared by all chains."""
    word, *_ = reference.philox_rounds(0, step & 0xFFFFFFFF, 0, stream, seed)  # on Python's integers
    return ((word >> 9) + 0.5) * 2.0**-23


def host_uniforms(seed: int, stream: int, steps: range) -> Tensor:
    """`host_uniform` of each of many steps, float64."""
    counter = torch.arange(steps.start, steps.stop) & 0xFFFFFFFF
    zero = torch.zeros_like(counter)
    word, *_ = reference.philox_rounds(zero, counter, zero, zero + stream, seed)
    return ((word >> 9).double() + 0.5) * 2.0**-23
