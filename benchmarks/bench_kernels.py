"""The fused kernels against a device copy and against their torch twins, one launch per operation.

    python benchmarks/bench_kernels.py --out DIR [--sizes 10000 100000 ...] [--chains 1]

The floor is a lower bound: the bytes that an operation must move, whatever its implementation, at the bandwidth
of a large device copy measured in the same run; every time is printed beside it. On a GPU a sample is one
replay of a graph of several calls, each on its own buffers, after L2 was overwritten, between two device
events. Where all the buffers of a replay fit in L2, writes may stay there.

Without a GPU only the twins are timed, at small sizes, against a torch copy: the cost of the CPU path, which
says nothing about the kernels.
"""

import argparse
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import Table, quantiles
from torch import Tensor

from hmc_fast.kernels import ops
from hmc_fast.kernels.ops import Counter, Segment

FLUSH_BYTES = 256 * 2**20  # several times the L2 of any present GPU
MAX_CALLS = 64  # per graph
CLASSES = 10  # of the softmax; its D counts logits
SECONDS_PER_CASE = 0.25  # of timed samples, after warm-up


class Buffers:
    """What one call works on: as many float32 `(C, D)` buffers as the operation touches."""

    def __init__(self, device: torch.device, chains: int, size: int, count: int) -> None:
        self.rows = [torch.randn(chains, size, device=device) for _ in range(count)]
        row = torch.tensor([[1e-3, 1e-3, 0.9999, 0.0141]], device=device)
        self.coefficients = row.repeat(chains, 1)
        self.mass = torch.ones(size, device=device)
        self.prior = (Segment(0, size, ops.NORMAL, 0.5),)
        self.noise = Counter(1, 2, torch.zeros(1, dtype=torch.int64, device=device))
        self.mask = torch.ones(chains, dtype=torch.bool, device=device)
        self.slot = torch.empty(chains, size, dtype=torch.float16, device=device)
        self.counts = torch.zeros(2, dtype=torch.int64, device=device)
        self.sums = torch.zeros(chains * size, dtype=torch.float64, device=device)
        self.entropies = torch.zeros(chains * size // CLASSES, dtype=torch.float64, device=device)


@dataclass(frozen=True)
class Operation:
    name: str
    bytes_per_element: float
    num_rows: int
    call: Callable[[Buffers, str], object]


# What users write without a flat buffer, and the compiled twin: for kick_drift alone.
ALTERNATIVES = ("per tensor", "foreach", "compiled")
NUM_TENSORS = 65  # as many as ResNet-20 has
STEP, PRECISION = 1e-3, 4.0


def _alternative(b: Buffers, impl: str) -> None:
    theta, momentum, grad = b.rows
    if impl == "compiled":
        _compiled(theta, momentum, grad, b.coefficients)
        return
    pieces = [row.view(-1).tensor_split(NUM_TENSORS) for row in (theta, momentum, grad)]
    if impl == "per tensor":
        for t, m, g in zip(*pieces, strict=True):
            m.add_(g, alpha=STEP).add_(t, alpha=-STEP * PRECISION)
            t.add_(m, alpha=STEP)
        return
    t_all, m_all, g_all = map(list, pieces)
    torch._foreach_add_(m_all, g_all, alpha=STEP)
    torch._foreach_add_(m_all, t_all, alpha=-STEP * PRECISION)
    torch._foreach_add_(t_all, m_all, alpha=STEP)


@torch.compile(dynamic=False)
def _compiled(theta: Tensor, momentum: Tensor, grad: Tensor, coefficients: Tensor) -> None:
    prior = (Segment(0, theta.shape[1], ops.NORMAL, 0.5),)
    ops.kick_drift(theta, momentum, grad, prior, coefficients, impl="torch")


def _kick(b: "Buffers", impl: str) -> None:
    ops.kick(b.rows[0], b.rows[1], b.rows[2], b.prior, b.coefficients, impl=impl)


def _kick_drift(b: Buffers, impl: str, **options: Any) -> None:
    if impl in ALTERNATIVES:
        _alternative(b, impl)
        return
    ops.kick_drift(b.rows[0], b.rows[1], b.rows[2], b.prior, b.coefficients, impl=impl, **options)


def _accumulate_softmax(b: Buffers, impl: str) -> None:
    points = len(b.entropies)

    def rows(flat: Tensor) -> Tensor:
        return flat.view(-1)[: points * CLASSES].view(1, points, CLASSES)

    ops.accumulate_softmax(rows(b.rows[0]), rows(b.sums), b.entropies[None], rows(b.rows[1]), impl=impl)


COPY = Operation("copy", 8, 2, lambda b, _: b.rows[0].copy_(b.rows[1]))
OPERATIONS = [
    Operation(
        "kick", 16, 3, lambda b, i: ops.kick(b.rows[0], b.rows[1], b.rows[2], b.prior, b.coefficients, impl=i)
    ),
    Operation("kick_drift", 20, 3, _kick_drift),
    Operation("kick_drift_noise", 20, 3, lambda b, i: _kick_drift(b, i, noise=b.noise)),
    Operation("kick_drift_noise_mass", 24, 3, lambda b, i: _kick_drift(b, i, noise=b.noise, inverse_mass=b.mass)),
    Operation("refresh_momentum", 4, 1, lambda b, i: ops.refresh_momentum(b.rows[0], b.noise, impl=i)),
    Operation("kinetic_energy", 4, 1, lambda b, i: ops.kinetic_energy(b.rows[0], impl=i)),
    Operation("log_prior", 4, 1, lambda b, i: ops.log_prior(b.rows[0], b.prior, impl=i)),
    Operation("energy_difference", 16, 4, lambda b, i: ops.energy_difference(*b.rows, b.prior, 1.0, impl=i)),
    Operation("select", 8, 2, lambda b, i: ops.select(b.rows[0], b.rows[1], b.mask, impl=i)),
    Operation("store_float16", 6, 1, lambda b, i: ops.store(b.slot, b.rows[0], b.counts, impl=i)),
    Operation("accumulate_softmax", 24 + 16 / CLASSES, 2, _accumulate_softmax),
]


def _samples_on_gpu(calls: list[Callable[[], object]], flush: Tensor) -> list[float]:
    """Seconds per call: replays of one graph of all calls."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):  # compiles, and warms the allocator up
            calls[0]()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
    budget = time.perf_counter() + SECONDS_PER_CASE
    while len(events) < 10 or (time.perf_counter() < budget and len(events) < 200):
        flush.zero_()
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        events.append((start, end))
        if len(events) % 5 == 0:  # else the host runs far ahead and the budget counts nothing
            torch.cuda.synchronize()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) * 1e-3 / len(calls) for start, end in events[2:]]


def _samples_on_cpu(calls: list[Callable[[], object]]) -> list[float]:
    for call in calls:
        call()
    samples: list[float] = []
    budget = time.perf_counter() + SECONDS_PER_CASE
    while len(samples) < 5 or (time.perf_counter() < budget and len(samples) < 200):
        start = time.perf_counter()
        calls[len(samples) % len(calls)]()
        samples.append(time.perf_counter() - start)
    return samples


def _draws(operation: Operation) -> bool:
    """Whether random numbers are part of it."""
    return "noise" in operation.name or operation.name == "refresh_momentum"


def measure(operation: Operation, impl: str, device: torch.device, chains: int, size: int) -> list[float]:
    """Seconds per call, one number per sample."""
    footprint = 4 * chains * size * operation.num_rows
    count = max(2, min(MAX_CALLS, FLUSH_BYTES // footprint))
    if impl == "torch" and _draws(operation):
        count = min(count, 8)  # a hundred launches each
    sets = [Buffers(device, chains, size, operation.num_rows) for _ in range(count)]
    calls: list[Callable[[], object]] = [lambda b=b: operation.call(b, impl) for b in sets]  # type: ignore[misc]
    if device.type == "cpu":
        return _samples_on_cpu(calls)
    flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device=device)
    return _samples_on_gpu(calls, flush)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of the CSV")
    parser.add_argument("--sizes", type=int, nargs="+", help="D (default: 1e4..1e8 on a GPU, 1e4..1e6 without)")
    parser.add_argument("--chains", type=int, default=1, help="C; sizes are C times D elements")
    arguments = parser.parse_args()

    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    if not cuda:
        print("no CUDA device: timing the torch twins against a torch copy; this says nothing about the kernels")
    sizes = arguments.sizes or [10**k for k in range(4, 9 if cuda else 7)]
    providers = ["triton", "torch"] if cuda else ["torch"]
    table = Table(arguments.out, "kernels", device)

    for size in sorted(sizes):
        median, low, high = quantiles(measure(COPY, "torch", device, arguments.chains, size))
        moved = COPY.bytes_per_element * arguments.chains * size
        table.add("copy", "torch", size, "time", "us", median * 1e6, low * 1e6, high * 1e6)
        table.add("copy", "torch", size, "bandwidth", "GB/s", *(moved / t / 1e9 for t in (median, high, low)))
        print(f"copy of {arguments.chains} x {size:,}: {moved / median / 1e9:,.0f} GB/s")
    peak = moved / median  # of the largest copy, the one that no cache holds
    print(f"floors below are bytes at {peak / 1e9:,.0f} GB/s\n")

    quantities = "".join(f"{q:>11}" for q in ("us", "20 %", "80 %", "GB/s", "floor us", "x floor"))
    print(f"{'operation':24}{'D':>12}  {'provider':9}{quantities}")
    for operation in OPERATIONS:
        for size in sizes:
            moved = operation.bytes_per_element * arguments.chains * size
            floor = moved / peak
            table.add(operation.name, "floor", size, "time", "us", *[floor * 1e6] * 3)
            alternatives = ALTERNATIVES if operation.name == "kick_drift" else ()
            for provider in (*providers, *alternatives):
                if provider == "torch" and _draws(operation) and size > 1_000_000:
                    continue  # 4 us per thousand elements: seconds, and nothing new
                try:
                    samples = measure(operation, provider, device, arguments.chains, size)
                except torch.cuda.OutOfMemoryError:
                    print(f"{operation.name:24}{size:12,}  {provider:9}  out of memory")
                    continue
                finally:
                    gc.collect()
                    if cuda:
                        torch.cuda.empty_cache()
                median, low, high = quantiles(samples)
                rates = [moved / t / 1e9 for t in (median, high, low)]
                table.add(operation.name, provider, size, "time", "us", median * 1e6, low * 1e6, high * 1e6)
                table.add(operation.name, provider, size, "bandwidth", "GB/s", *rates)
                times = f"{median * 1e6:11.2f}{low * 1e6:11.2f}{high * 1e6:11.2f}"
                print(
                    f"{operation.name:24}{size:12,}  {provider:9}{times}{rates[0]:11.1f}"
                    f"{floor * 1e6:11.2f}{median / floor:11.2f}",
                    flush=True,
                )
    print(f"\n{table.path}")


if __name__ == "__main__":
    main()
