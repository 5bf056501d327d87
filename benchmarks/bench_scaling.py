"""Cost against N, D, C and S: log-log slopes (1 is proportional, 0 is free).

    python benchmarks/bench_scaling.py --out DIR

Each axis is varied alone on a full-batch MLP; S counts draws of a whole run, streamed average included.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from common import Table, interleaved, quantiles, say

import hmc_fast
from hmc_fast.models import mlp


def posterior(n: int, width: int, device: torch.device) -> hmc_fast.Posterior:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(n, 32, generator=generator), torch.randint(0, 10, (n,), generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = mlp(32, (width, width), 10)
    return hmc_fast.Posterior(model, (x, y), prior=hmc_fast.Normal(0.2), device=device)


def run(target: hmc_fast.Posterior, draws: int) -> None:
    """A whole run of one chain, its predictions averaged as it goes."""
    hmc_fast.run(
        target,
        hmc_fast.HMC(1e-3, num_leapfrog=5),
        chains=1,
        burn_in=0,
        draws=draws,
        init="model",
        test=target.x[:200],
        progress=False,
        compile=False,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of the CSV")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    table = Table(arguments.out, "scaling", device)
    base = {"N": 2_000, "D": 64, "C": 1}
    axes = {"N": (500, 2_000, 8_000, 32_000), "D": (32, 64, 128, 256), "C": (1, 4, 16)}
    for axis, settings in axes.items():
        sizes, medians = [], []
        for value in settings:
            at = base | {axis: value}
            target = posterior(at["N"], at["D"], device)
            sampler = hmc_fast.HMC(1e-4, num_leapfrog=5)
            state = sampler.init(target, target.initial("model", at["C"], 0), graph=cuda)
            samples = interleaved(
                {"ours": lambda s=sampler, t=state: s.step(t)}, device, rounds=arguments.rounds, seconds=0.2
            )["ours"]
            values = quantiles([1e3 * v / 5 for v in samples])
            size = target.num_params if axis == "D" else value
            table.add(f"against {axis}", "ours", size, "time", "ms", *values, samples=arguments.rounds)
            sizes.append(size)
            medians.append(values[0])
        report(table, axis, sizes, medians)
    sizes, medians = [], []
    target = posterior(500, 32, device)
    for draws in (50, 100, 200, 400):
        samples = interleaved(
            {"ours": lambda s=draws: run(target, s)}, device, rounds=arguments.rounds, seconds=0.0
        )
        values = quantiles([1e3 * v for v in samples["ours"]])
        table.add("against S", "ours", draws, "time", "ms", *values, samples=arguments.rounds)
        sizes.append(draws)
        medians.append(values[0])
    report(table, "S", sizes, medians)


def report(table: Table, axis: str, sizes: list[int], times: list[float]) -> None:
    """The slope over the upper half of the axis, where fixed costs no longer mask it."""
    half = len(sizes) // 2
    slope = np.polyfit(np.log(sizes[half - 1 :]), np.log(times[half - 1 :]), 1)[0]
    table.add(f"against {axis}", "ours", 0, "slope", "log-log", slope)
    shown = ", ".join(f"{size:,}: {t:.3g} ms" for size, t in zip(sizes, times, strict=True))
    say(f"{axis}: slope {slope:.2f}   ({shown})")


if __name__ == "__main__":
    main()
