"""Chains on one device: the cost of C chains beside C times that of one, by each way of batching them.

python benchmarks/bench_chains.py --out DIR
"""

import argparse
from pathlib import Path

import torch
import workloads
from common import Table, interleaved, quantiles, say
from ours import ours


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of the CSV")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    table = Table(arguments.out, "chains", device)
    ways = ["vmap", "loop"] + (["streams"] if cuda else [])
    cases = [(workloads.digits(), (1, 2, 4, 8, 16, 64)), (workloads.lenet(128), (1, 2, 4, 8))]
    if cuda:
        cases.append((workloads.resnet(), (1, 2, 4, 8)))
    for work, counts in cases:
        say(f"\n{work.name}: ms per leapfrog step of all chains, and as a fraction of C times one chain")
        single = 0.0
        for chains in counts:
            calls = {}
            for way in ways:
                if not cuda and chains > 4 and way == ("loop" if "digits" in work.name else "vmap"):
                    continue  # the slower way takes minutes on a CPU
                peer = ours(
                    work,
                    device,
                    chains=chains,
                    chain_batching=way,  # type: ignore[arg-type]
                    path="loop" if "digits" in work.name and way == "vmap" else "eager",
                    graph=cuda,
                )
                calls[f"{way}, compiled" if "digits" in work.name and way == "vmap" else way] = peer.step
            samples = interleaved(calls, device, rounds=arguments.rounds, seconds=0.2)
            times = {way: quantiles([1e3 * v / work.num_leapfrog for v in taken]) for way, taken in samples.items()}
            single = single or min(median for median, _, _ in times.values())
            parts = []
            for way, values in times.items():
                table.add(work.name, f"ours {way}", chains, "time", "ms", *values, samples=arguments.rounds)
                parts.append(f"{way} {values[0]:9.3f} ({values[0] / (chains * single):.2f})")
            say(f"  C = {chains:3d}   " + "   ".join(parts))


if __name__ == "__main__":
    main()
