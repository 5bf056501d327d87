"""One leapfrog step: ours eager, compiled and captured, beside the notebook's loop, posteriors, blackjax, numpyro.

    python benchmarks/bench_steps.py --out DIR [--only digits] [--rounds 7]

Times are per leapfrog step of all chains, from whole iterations (momentum refreshment and Metropolis test
included). Before anything is timed, each peer's gradient of the log posterior is compared with ours. The floor is
a lower bound: FLOPs at the throughput of a large matrix product, measured in the same run.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peers
import torch
import workloads
from common import Table, interleaved, missing_peer, quantiles, say
from ours import ours
from workloads import Workload

from hmc_fast.engine.execution import count_work


def matrix_rate(device: torch.device, size: int) -> float:
    """FLOP/s of a float32 matrix product, the best of ten."""
    a, b = torch.randn(size, size, device=device), torch.randn(size, size, device=device)
    samples = interleaved({"product": lambda: a @ b}, device, rounds=10, seconds=0.0)["product"]
    return 2 * size**3 / min(samples)


def providers(work: Workload, device: torch.device, chains: int) -> dict[str, Callable[[], Any]]:
    """Makers of every provider that applies to a workload."""
    made: dict[str, Callable[[], Any]] = {}
    cuda = device.type == "cuda"
    if chains == 1 and work.likelihood == "categorical":
        made["notebook"] = lambda: peers.notebook(work, device)
    if chains == 1:
        made["posteriors"] = lambda: peers.posteriors_sghmc(work, device)
    if "transformer" not in work.name and "LeNet" not in work.name:
        if work.batch_size is None:
            made["blackjax"] = lambda: peers.blackjax_hmc(work, chains)
            if chains == 1:
                made["numpyro"] = lambda: peers.numpyro_hmc(work)
        elif chains == 1:
            made["blackjax"] = lambda: peers.blackjax_sghmc(work)
    made["ours eager"] = lambda: ours(work, device, chains=chains, path="eager")
    if not cuda:
        made["ours traced"] = lambda: ours(work, device, chains=chains, path="traced")
    made["ours compiled"] = lambda: ours(work, device, chains=chains, path="loop")
    if cuda:
        made["ours captured"] = lambda: ours(work, device, chains=chains, path="eager", graph=True)
        made["ours compiled captured"] = lambda: ours(work, device, chains=chains, path="loop", graph=True)
        for precision in ("tf32", "bf16"):
            made[f"ours {precision}"] = lambda p=precision: ours(
                work, device, chains=chains, path="loop", graph=True, precision=p
            )
    else:
        made["ours compiled bf16"] = lambda: ours(work, device, chains=chains, path="loop", precision="bf16")
    return made


def run(work: Workload, device: torch.device, chains: int, rounds: int, rate: float, table: Table) -> None:
    name = work.name if chains == 1 else f"{work.name}, {chains} chains"
    say(f"\n{name}")
    steps: dict[str, Callable[[], object]] = {}
    expected = ours(work, device)[1]()
    for provider, make in providers(work, device, chains).items():
        try:
            step, gradient = make()
        except ImportError as error:
            missing_peer(error)
            continue
        if "bf16" not in provider and "tf32" not in provider:
            error = float(np.abs(gradient() - expected).max() / np.abs(expected).max())
            assert error < 1e-3, f"{provider} does other work: its gradient differs by {error:.2g}"
        steps[provider] = step
    samples = interleaved(steps, device, rounds=rounds)
    count = work.batch_size or len(work.x)
    flops = count_work(work.target(device), chains, count).flops
    floor = flops / rate
    table.add(name, "floor", chains, "time", "ms", floor * 1e3)
    medians = {}
    for provider, values in samples.items():
        median, low, high = quantiles([v / work.num_leapfrog for v in values])
        medians[provider] = median
        assert median > 0.3 * floor, f"{provider} is faster than its arithmetic allows: it leaves work out"
        table.add(name, provider, chains, "time", "ms", median * 1e3, low * 1e3, high * 1e3, samples=len(values))
    best = min((p for p in medians if p.startswith("ours") and "16" not in p and "32" not in p), key=medians.get)  # type: ignore[arg-type]
    say(f"  {'':24}{'ms':>10}{'20 %':>10}{'80 %':>10}{'x floor':>9}   time against {best}")
    for provider, values in samples.items():
        median, low, high = quantiles([v / work.num_leapfrog for v in values])
        say(
            f"  {provider:24}{median * 1e3:10.3f}{low * 1e3:10.3f}{high * 1e3:10.3f}{median / floor:9.1f}"
            f"{median / medians[best]:8.2f}"
        )
        if provider != best:
            # the ratio within each round, which a noisy machine leaves comparable
            ratios = [theirs / mine for theirs, mine in zip(values, samples[best], strict=True)]
            table.add(name, provider, chains, "time over ours", "ratio", *quantiles(ratios), samples=len(ratios))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of the CSV")
    parser.add_argument("--only", default="", help="workloads whose name contains this")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    table = Table(arguments.out, "steps", device)
    cases: list[tuple[Workload, int, int]] = [
        (workloads.regression(), 1, arguments.rounds),
        (workloads.digits(), 1, arguments.rounds),
        (workloads.digits(), 4, arguments.rounds),
        (workloads.transformer(), 1, arguments.rounds),
        (workloads.lenet(), 1, arguments.rounds),
        (workloads.resnet(), 1, arguments.rounds if cuda else 3),
    ]
    if cuda:
        cases += [
            (workloads.resnet(16), 1, arguments.rounds),
            (workloads.resnet(8, 4096), 1, arguments.rounds),
            (workloads.resnet(8, None), 1, 3),
            (workloads.lenet_64(), 1, arguments.rounds),
        ]
    rate = matrix_rate(device, 8192 if cuda else 2048)
    table.add("matrix product", "torch", 0, "rate", "GFLOP/s", rate / 1e9)
    say(f"float32 matrix product: {rate / 1e9:,.0f} GFLOP/s")
    for work, chains, rounds in cases:
        if arguments.only.lower() in work.name.lower():
            run(work, device, chains, rounds, rate, table)


if __name__ == "__main__":
    main()
