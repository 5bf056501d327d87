"""Streamed data beside the same data in memory: time per iteration of LeNet-5 on images of Fashion-MNIST's size.

    pytest benchmarks -k streaming

Two workers read the Dataset. Every way gives the same draws, which is checked. An iteration takes more batches than
are read ahead, so that none is read at the expense of another way.
"""

import functools
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from common import Record, cases, compute_device, interleaved, ratios, row
from torch.utils.data import Dataset

import hmc_fast
from hmc_fast.models import lenet5

WAYS = ("in memory", "np.memmap", "Dataset, 2 workers", "Dataset, no workers")
IMAGES = 4096
SAMPLERS = {
    "SG-HMC, minibatches of 128": lambda: hmc_fast.SGHMC(
        1e-4, friction=100.0, batch_size=128, steps_per_iteration=64
    ),
    "HMC, micro-batches": lambda: hmc_fast.HMC(1e-5, num_leapfrog=1),
}


class Images(Dataset[Any]):
    def __init__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, row: int) -> Any:
        return self.x[row], int(self.y[row])


def posteriors(folder: Path) -> dict[str, hmc_fast.Posterior]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(IMAGES, 1, 28, 28, generator=generator)
    y = torch.randint(0, 10, (IMAGES,), generator=generator)
    np.save(folder / "x.npy", x.numpy())
    mapped, images, model, device = (
        np.load(folder / "x.npy", mmap_mode="r"),
        Images(x, y),
        lenet5(),
        compute_device(),
    )
    return {
        "in memory": hmc_fast.Posterior(model, (x, y), stream=False, device=device),
        "np.memmap": hmc_fast.Posterior(model, (mapped, y), stream=True, device=device),
        "Dataset, 2 workers": hmc_fast.Posterior(model, images, stream=True, num_workers=2, device=device),
        "Dataset, no workers": hmc_fast.Posterior(model, images, stream=True, device=device),
    }


@functools.lru_cache(maxsize=2)
def timed(case: str, rounds: int) -> dict[str, list[float]]:
    """Seconds per iteration."""
    with TemporaryDirectory() as folder, ExitStack() as reading:
        sampler, targets = SAMPLERS[case](), posteriors(Path(folder))
        for target in targets.values():
            if target.stream is not None:
                reading.enter_context(target.stream.open())
        states = {way: sampler.init(t, t.initial("model", 1, 0), seed=0) for way, t in targets.items()}
        calls = {way: functools.partial(sampler.step, state) for way, state in states.items()}
        samples = interleaved(calls, compute_device(), rounds=rounds, seconds=0.0)
        theta = states["in memory"].theta
        assert all(torch.equal(state.theta, theta) for state in states.values()), "the draws differ"
        return samples


@cases(dict.fromkeys(SAMPLERS, WAYS))
def test_streaming(case: str, provider: str, providers, rounds, record: Record) -> None:  # type: ignore[no-untyped-def]
    seconds = timed(case, rounds or 9)
    mine = seconds[provider]
    rows = [row("streaming", case, provider, IMAGES, "time", "s", mine)]
    if provider != "in memory":
        rows.append(
            row("streaming", case, provider, IMAGES, "time over in memory", "", ratios(mine, seconds["in memory"]))
        )
    record(f"streaming: {case}", mine, rows)
