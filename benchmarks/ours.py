"""hmc_fast's side of the suites."""

import numpy as np
import torch
from densities import SmallDensity
from peers import Peer, iterations_per_call
from workloads import Workload

import hmc_fast
from hmc_fast.compute.gradient import ChainBatching
from hmc_fast.compute.program import Path
from hmc_fast.dynamics.gradient_step import Graph


def ours(
    work: Workload | SmallDensity,
    device: torch.device,
    *,
    chains: int = 1,
    path: Path = "traced",
    graph: Graph = False,
    precision: str = "fp32",
    chain_batching: ChainBatching | None = None,
    iterations: int | None = None,
) -> Peer:
    """One iteration (a trajectory, or as many minibatch steps), test and refreshment included.

    iterations: in one call; by default as many as peers make where the whole trajectory is compiled.
    """
    target = work.target(device, precision).prepared(path=path, chain_batching=chain_batching)
    sampler: hmc_fast.HMC | hmc_fast.SGHMC
    if work.batch_size is None:
        sampler = hmc_fast.HMC(work.step_size, num_leapfrog=work.num_leapfrog)
    else:
        sampler = hmc_fast.SGHMC(
            work.step_size, friction=100.0, batch_size=work.batch_size, steps_per_iteration=work.num_leapfrog
        )
    start = work.start if isinstance(work, SmallDensity) else "model"
    theta = target.initial(start, chains, 0)
    state = sampler.init(target, theta, seed=0, graph=graph)
    number = iterations or (iterations_per_call(work) if path == "loop" and work.batch_size is None else 1)

    def step() -> None:
        if number > 1:
            sampler.steps(state, number)  # type: ignore[union-attr]
        else:
            sampler.step(state)

    def gradient() -> np.ndarray:
        indices = None
        if work.batch_size is not None:
            indices = torch.arange(work.batch_size, device=device)[None]
        # Before the sampler moved: at the start.
        return -target.potential_and_grad(theta[:1], indices)[1][0].cpu().numpy()

    return Peer(step, gradient, number)
