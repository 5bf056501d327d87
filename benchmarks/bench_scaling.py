"""Cost against N, D, C and S: log-log slopes (1 is proportional, 0 is free).

    pytest benchmarks -k scaling

Each axis is varied alone on a full-batch MLP; S counts draws of a whole run, streamed average included.
"""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from common import Record, Row, compute_device, interleaved, quantiles, row

import hmc_fast
from hmc_fast.models import mlp

BASE = {"N": 2_000, "D": 64, "C": 1}
AXES = {"N": (500, 2_000, 8_000, 32_000), "D": (32, 64, 128, 256), "C": (1, 4, 16), "S": (50, 100, 200, 400)}
STEPS = 5  # of a trajectory


def posterior(n: int, width: int, device: torch.device) -> hmc_fast.Posterior:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(n, 32, generator=generator), torch.randint(0, 10, (n,), generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = mlp(32, (width, width), 10)
    return hmc_fast.Posterior(model, (x, y), prior=hmc_fast.Normal(0.2), device=device)


def run(draws: int) -> tuple[Callable[[], object], int]:
    """A whole run of one chain, its predictions averaged as it goes; how many draws."""
    target = posterior(500, 32, compute_device())
    sampler = hmc_fast.HMC(1e-3, num_leapfrog=STEPS)
    fixed = {"chains": 1, "burn_in": 0, "draws": draws, "init": "model", "progress": False, "compile": False}
    return lambda: hmc_fast.run(target, sampler, test=target.x[:200], **fixed), draws  # type: ignore[arg-type]


def trajectory(axis: str, value: int) -> tuple[Callable[[], object], int]:
    """One iteration, and the size on the axis: of D the number of parameters, not the width."""
    at, device = BASE | {axis: value}, compute_device()
    target = posterior(at["N"], at["D"], device)
    sampler = hmc_fast.HMC(1e-4, num_leapfrog=STEPS)
    state = sampler.init(target, target.initial("model", at["C"], 0), graph=device.type == "cuda")
    return lambda: sampler.step(state), target.num_params if axis == "D" else value


@pytest.fixture(scope="module")
def medians(aside: list[Row]) -> Iterator[dict[str, dict[float, float]]]:
    """Axis -> size -> seconds. Afterwards slopes over the upper half, where fixed costs no longer mask them."""
    taken: dict[str, dict[float, float]] = {axis: {} for axis in AXES}
    yield taken
    for axis, times in taken.items():
        if len(times) == len(AXES[axis]):
            upper = sorted(times)[len(times) // 2 - 1 :]
            slope = np.polyfit(np.log(upper), np.log([times[size] for size in upper]), 1)[0]
            aside.append(row("scaling", f"against {axis}", "ours", 0, "slope", "log-log", float(slope)))


@pytest.mark.parametrize(("axis", "value"), [(axis, v) for axis, values in AXES.items() for v in values])
def test_scaling(axis: str, value: int, rounds, medians, record: Record) -> None:  # type: ignore[no-untyped-def]
    call, size = run(value) if axis == "S" else trajectory(axis, value)
    # a run is as long as it is; of a trajectory as many as fill a fifth of a second
    options = {"rounds": rounds or 5, "seconds": 0.0 if axis == "S" else 0.2}
    seconds = interleaved({"ours": call}, compute_device(), **options)["ours"]
    seconds = [t if axis == "S" else t / STEPS for t in seconds]
    medians[axis][size] = quantiles(seconds)[0]
    name = f"against {axis}"
    record(
        f"scaling: {name}", seconds, [row("scaling", name, "ours", size, "time", "ms", [1e3 * t for t in seconds])]
    )
