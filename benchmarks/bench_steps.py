"""One leapfrog step: ours eager, compiled and captured, beside the notebook's loop, posteriors, blackjax, numpyro.

    python benchmarks/bench_steps.py --out DIR [--only digits] [--without notebook] [--rounds 7]

Times are per leapfrog step of all chains, from whole iterations (momentum refreshment and Metropolis test
included). Before anything is timed, each peer's gradient of the log posterior is compared with ours: one that
differs is reported instead of timed, and the exit status is then 1. The floor is a lower bound: FLOPs at the
throughput of a large matrix product, measured in the same run.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import densities
import jax_peers
import numpy as np
import peers
import torch
import workloads
from common import Table, interleaved, missing_peer, quantiles, say
from densities import SmallDensity
from ours import ours
from peers import Peer
from workloads import Workload

from hmc_fast.engine.execution import count_work

Work = Workload | SmallDensity
TOLERANCE = 1e-3  # of a gradient's largest element: rounding is below, a forgotten term of a density above


def matrix_rate(device: torch.device, size: int) -> float:
    """FLOP/s of a float32 matrix product, the best of ten."""
    a, b = torch.randn(size, size, device=device), torch.randn(size, size, device=device)
    samples = interleaved({"product": lambda: a @ b}, device, rounds=10, seconds=0.0)["product"]
    return 2 * size**3 / min(samples)


def providers(work: Work, device: torch.device, chains: int) -> dict[str, Callable[[], Peer]]:
    """Makers of every provider that applies to a workload."""
    made: dict[str, Callable[[], Peer]] = {}
    cuda, network = device.type == "cuda", isinstance(work, Workload)
    if network and chains == 1:
        if work.likelihood == "categorical":
            made["notebook"] = lambda: peers.notebook(work, device)
        made["posteriors"] = lambda: peers.posteriors_sghmc(work, device)
    if "transformer" not in work.name and "LeNet" not in work.name:
        if work.batch_size is None:
            made["blackjax"] = lambda: jax_peers.blackjax_hmc(work, chains)
            made["numpyro"] = lambda: jax_peers.numpyro_hmc(work, chains)
        elif chains == 1:
            made["blackjax"] = lambda: jax_peers.blackjax_sghmc(work)
    made["ours eager"] = lambda: ours(work, device, chains=chains, path="eager")
    if not cuda:
        made["ours traced"] = lambda: ours(work, device, chains=chains, path="traced")
        made["ours compiled"] = lambda: ours(work, device, chains=chains, path="loop")
    if cuda:
        for precision in ("fp32", "tf32", "bf16") if network else ("fp32",):
            name = "ours captured" if precision == "fp32" else f"ours captured {precision}"
            made[name] = lambda p=precision: ours(
                work, device, chains=chains, path="eager", graph=True, precision=p
            )
        for precision in ("fp32", "bf16") if network else ("fp32",):
            name = "ours compiled captured" if precision == "fp32" else f"ours compiled captured {precision}"
            made[name] = lambda p=precision: ours(work, device, chains=chains, path="loop", graph=True, precision=p)
    elif network:
        made["ours compiled bf16"] = lambda: ours(work, device, chains=chains, path="loop", precision="bf16")
    return made


def same_work(
    name: str, work: Work, device: torch.device, chains: int, table: Table, without: list[str]
) -> tuple[dict[str, Peer], bool]:
    """The providers that compute our gradient, and whether all do. A row says by how much another's differs."""
    suitable: dict[str, Peer] = {}
    all_do = True
    expected = ours(work, device).gradient()
    for provider, make in providers(work, device, chains).items():
        if any(name in provider for name in without):
            continue
        try:
            peer = make()
        except ImportError as error:
            missing_peer(error)
            continue
        if "bf16" not in provider and "tf32" not in provider:
            error = float(np.abs(peer.gradient() - expected).max() / np.abs(expected).max())
            if not error < TOLERANCE:
                table.add(name, provider, chains, "gradient differs", "of its largest element", error)
                say(f"  {provider} does other work, so is not timed: its gradient differs by {error:.2g}")
                all_do = False
                continue
        suitable[provider] = peer
    return suitable, all_do


def run(
    work: Work, device: torch.device, chains: int, rounds: int, rate: float, table: Table, without: list[str]
) -> bool:
    """Times one workload. Returns whether every provider computed our gradient."""
    name = work.name if chains == 1 else f"{work.name}, {chains} chains"
    say(f"\n{name}")
    made, all_do = same_work(name, work, device, chains, table, without)
    samples = {
        provider: [seconds / (made[provider].iterations * work.num_leapfrog) for seconds in taken]
        for provider, taken in interleaved({p: made[p].step for p in made}, device, rounds=rounds).items()
    }
    floor = 0.0  # of a small density: next to nothing, and not what its time goes to
    if isinstance(work, Workload):
        floor = count_work(work.target(device), chains, work.batch_size or len(work.x)).flops / rate
        table.add(name, "floor", chains, "time", "ms", floor * 1e3)
    times = {provider: quantiles(taken) for provider, taken in samples.items()}
    best = min((p for p in times if p.startswith("ours") and "16" not in p and "32" not in p), key=times.get)  # type: ignore[arg-type]
    say(f"  {'':24}{'us':>10}{'20 %':>10}{'80 %':>10}{'x floor':>9}   time over {best}, by round")
    for provider, (median, low, high) in times.items():
        assert median > 0.3 * floor, f"{provider} is faster than its arithmetic allows: it leaves work out"
        table.add(name, provider, chains, "time", "ms", *(1e3 * t for t in times[provider]), samples=rounds)
        # the ratio within each round, which a noisy machine leaves comparable
        ratio = quantiles([theirs / mine for theirs, mine in zip(samples[provider], samples[best], strict=True)])
        if provider != best:
            table.add(name, provider, chains, "time over ours", "ratio", *ratio, samples=rounds)
        above = f"{median / floor:9.1f}" if floor else f"{'':9}"
        calls = f"   {made[provider].iterations} iterations a call" if made[provider].iterations > 1 else ""
        say(
            f"  {provider:24}{median * 1e6:10.2f}{low * 1e6:10.2f}{high * 1e6:10.2f}{above}"
            f"   {ratio[0]:.2f} ({ratio[1]:.2f}-{ratio[2]:.2f}){calls}"
        )
    return all_do


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of the CSV")
    parser.add_argument("--only", default="", help="workloads whose name contains this")
    parser.add_argument("--without", default=[], nargs="+", help="providers whose name contains any of these")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    table = Table(arguments.out, "steps", device)
    cases: list[tuple[Work, int, int]] = [
        (workloads.regression(), 1, arguments.rounds),
        (workloads.digits(), 1, arguments.rounds),
        (workloads.digits(), 4, arguments.rounds),
        (workloads.transformer(), 1, arguments.rounds),
        (workloads.lenet(), 1, arguments.rounds),
        (workloads.resnet(), 1, arguments.rounds if cuda else 7),
    ]
    if cuda:
        cases += [
            (workloads.resnet(16), 1, arguments.rounds),
            (workloads.resnet(8, 4096), 1, arguments.rounds),
            (workloads.resnet(8, None), 1, 3),
            (workloads.lenet_64(), 1, arguments.rounds),
        ]
    torch.backends.cudnn.allow_tf32 = False  # torch's default for convolutions: peers would do less exact work
    cases += [
        (work, chains, arguments.rounds)
        for work in (workloads.logistic(), densities.gaussian())
        for chains in (1, 8)
    ]
    rate = matrix_rate(device, 8192 if cuda else 2048)
    table.add("matrix product", "torch", 0, "rate", "GFLOP/s", rate / 1e9)
    say(f"float32 matrix product: {rate / 1e9:,.0f} GFLOP/s")
    say("iterations of HMC in one call: as printed, the same for blackjax, numpyro and ours compiled")
    chosen = [case for case in cases if arguments.only.lower() in case[0].name.lower()]
    agree = [run(work, device, chains, rounds, rate, table, arguments.without) for work, chains, rounds in chosen]
    if not all(agree):
        sys.exit(1)


if __name__ == "__main__":
    main()
