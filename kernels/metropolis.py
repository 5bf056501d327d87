"""Triton: the Metropolis test of every chain in one launch for 15 of the torch twin.

A few numbers per chain: what counts is the launch, in a graph 1.5 to 2.5 us whatever it computes.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import launch

_BLOCK = 128  # chains per program


@triton.jit(do_not_specialize=["num_chains"])
def _metropolis_kernel(
    # pointers
    energy_error_ptr,  # (C,) float64
    uniform_ptr,  # (C,)
    untested_ptr,  # (1,) bool, or None
    accepted_ptr,  # (C,) bool, written
    accept_prob_ptr,  # (C,) float64, written
    divergent_ptr,  # (C,) bool, written
    # sizes
    num_chains,
    # scalars
    divergence_threshold: tl.float64,
    # constexpr
    DENSITY_RATIO: tl.constexpr,
    BLOCK: tl.constexpr,
):
    chain = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = chain < num_chains
    error = tl.load(energy_error_ptr + chain, mask=mask, other=0.0)
    uniform = tl.load(uniform_ptr + chain, mask=mask, other=0.5).to(tl.float64)
    finite = tl.abs(error) < float("inf")
    safe = tl.where(finite, error, float("inf"))
    if DENSITY_RATIO:
        accepted = uniform < tl.exp(tl.minimum(-safe, 1.0))  # a larger ratio accepts as well
    else:
        accepted = tl.log(uniform) < -safe
    if untested_ptr is not None:
        accepted = accepted | (finite & (tl.load(untested_ptr) != 0))
    tl.store(accepted_ptr + chain, accepted, mask=mask)
    tl.store(accept_prob_ptr + chain, tl.exp(-tl.maximum(safe, 0.0)), mask=mask)
    tl.store(divergent_ptr + chain, safe > tl.full((), divergence_threshold, tl.float64), mask=mask)


def metropolis_test(
    energy_error: Tensor,
    uniform: Tensor,
    divergence_threshold: float,
    *,
    density_ratio: bool = False,
    untested: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    given = (("energy_error", energy_error), ("uniform", uniform))
    for name, tensor in given:
        if tensor.shape != energy_error.shape or tensor.ndim != 1 or not tensor.is_contiguous():
            raise ValueError(f"{name} must be contiguous (C,), got {tuple(tensor.shape)}")
        launch.check_device(name, tensor, energy_error)
    if energy_error.dtype != torch.float64:
        raise ValueError(f"energy_error must be float64, got {energy_error.dtype}")
    accept_prob = torch.empty_like(energy_error)
    accepted, divergent = (torch.empty_like(energy_error, dtype=torch.bool) for _ in range(2))
    chains = len(energy_error)
    with launch.guard(energy_error):
        _metropolis_kernel[(launch.blocks(chains, _BLOCK),)](
            energy_error, uniform, untested, accepted, accept_prob, divergent,
            chains, float(divergence_threshold),
            DENSITY_RATIO=density_ratio, BLOCK=_BLOCK, num_warps=launch.NUM_WARPS,
        )  # fmt: skip
    return accepted, accept_prob, divergent
