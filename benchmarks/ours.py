"""hmc_fast's side of the suites: `(step, gradient)`, like the peers in peers.py."""

from collections.abc import Callable

import numpy as np
import torch
from peers import STEP_SIZE
from workloads import Workload

import hmc_fast
from hmc_fast.compute.gradient import ChainBatching
from hmc_fast.compute.program import Path
from hmc_fast.dynamics.gradient_step import Graph


def ours(
    work: Workload,
    device: torch.device,
    *,
    chains: int = 1,
    path: Path = "traced",
    graph: Graph = False,
    precision: str = "fp32",
    chain_batching: ChainBatching | None = None,
) -> tuple[Callable[[], object], Callable[[], np.ndarray]]:
    """One iteration (a trajectory, or as many minibatch steps), test and refreshment included."""
    posterior = work.posterior(device, precision).prepared(path=path, chain_batching=chain_batching)
    sampler: hmc_fast.HMC | hmc_fast.SGHMC
    if work.batch_size is None:
        sampler = hmc_fast.HMC(STEP_SIZE, num_leapfrog=work.num_leapfrog)
    else:
        sampler = hmc_fast.SGHMC(
            STEP_SIZE, friction=100.0, batch_size=work.batch_size, steps_per_iteration=work.num_leapfrog
        )
    theta = posterior.initial("model", chains, 0)
    state = sampler.init(posterior, theta, seed=0, graph=graph)

    def step() -> None:
        sampler.step(state)

    def gradient() -> np.ndarray:
        indices = None
        if work.batch_size is not None:
            indices = torch.arange(work.batch_size, device=device)[None]
        # Before the sampler moved: at the model's own weights.
        return -posterior.potential_and_grad(theta[:1], indices)[1][0].cpu().numpy()

    return step, gradient
