"""Chains on one device: the cost of C chains by each way of batching them.

pytest benchmarks/bench_chains.py
"""

import functools

import torch
import workloads
from common import Record, cases, compute_device, interleaved, row
from ours import ours

CUDA = torch.cuda.is_available()
WORKLOADS = {"digits": workloads.digits, "LeNet-5": lambda: workloads.lenet(128), "ResNet-20": workloads.resnet}
COUNTS = {"digits": (1, 2, 4, 8, 16, 64), "LeNet-5": (1, 2, 4, 8)} | ({"ResNet-20": (1, 2, 4, 8)} if CUDA else {})
CASES = {f"{workload} x {count}": (workload, count) for workload, counts in COUNTS.items() for count in counts}


def ways(workload: str, chains: int) -> list[str]:
    if CUDA:
        return ["vmap", "loop", "streams"]
    if chains > 4:  # the slower way takes minutes on a CPU
        return ["vmap"] if workload == "digits" else ["loop"]
    return ["vmap", "loop"]


@functools.lru_cache(maxsize=1)
def timed(case: str, ways: tuple[str, ...], rounds: int) -> tuple[str, dict[str, list[float]]]:
    """The workload's name; of each way, seconds per leapfrog step of all chains, one number per round."""
    workload, chains = CASES[case]
    work, device = WORKLOADS[workload](), compute_device()
    calls = {}
    for way in ways:
        options = {"chain_batching": way, "path": "loop" if is_compiled(case, way) else "eager"}
        # one iteration a call: ten of 64 chains take half a minute on a CPU
        calls[way] = ours(work, device, chains=chains, graph=CUDA, iterations=1, **options).step  # type: ignore[arg-type]
    samples = interleaved(calls, device, rounds=rounds, seconds=0.2)
    return work.name, {way: [t / work.num_leapfrog for t in taken] for way, taken in samples.items()}


def is_compiled(case: str, way: str) -> bool:
    return case.startswith("digits") and way == "vmap"


@cases({name: ways(*case) for name, case in CASES.items()})
def test_chains(case: str, provider: str, providers, rounds, record: Record) -> None:  # type: ignore[no-untyped-def]
    name, found = timed(case, providers, rounds or 3)
    seconds, chains = found[provider], CASES[case][1]
    label = f"ours {provider}" + (", compiled" if is_compiled(case, provider) else "")
    rows = [row("chains", name, label, chains, "time", "ms", [1e3 * t for t in seconds])]
    record(f"chains: {name}, {chains} chains", seconds, rows)
