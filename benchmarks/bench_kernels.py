"""The fused kernels against a device copy and against their torch twins, one launch per operation.

    pytest benchmarks -k kernels
    pytest benchmarks -k "kernels and kick_drift and 1e+06"

The floor is a lower bound: the bytes that an operation must move, whatever its implementation, at the bandwidth
of a large device copy measured in the same run; every time is printed beside it. On a GPU a sample is one
replay of a graph of several calls, each on its own buffers, after L2 was overwritten, between two device
events. Where all the buffers of a replay fit in L2, writes may stay there.

Without a GPU only the twins are timed, at small sizes, against a torch copy: the cost of the CPU path, which
says nothing about the kernels.
"""

import functools
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from common import Record, Row, compute_device, quantiles, row
from torch import Tensor

from hmc_fast.kernels import ops
from hmc_fast.kernels.ops import Counter, Segment

CUDA = torch.cuda.is_available()
SIZES = [10**k for k in range(4, 9 if CUDA else 7)]
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
        self.flow = torch.cat([self.coefficients, self.coefficients[:, 2:]], dim=1)  # (C, 6)
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
        _compiled()(theta, momentum, grad, b.coefficients)
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


@functools.cache  # torch.compile imports for seconds
def _compiled() -> Callable[[Tensor, Tensor, Tensor, Tensor], None]:
    def twin(theta: Tensor, momentum: Tensor, grad: Tensor, coefficients: Tensor) -> None:
        prior = (Segment(0, theta.shape[1], ops.NORMAL, 0.5),)
        ops.kick_drift(theta, momentum, grad, prior, coefficients, impl="torch")

    return torch.compile(twin, dynamic=False)


def _kick(b: "Buffers", impl: str) -> None:
    ops.kick(b.rows[0], b.rows[1], b.rows[2], b.prior, b.coefficients, impl=impl)


def _kick_drift(b: Buffers, impl: str, **options: Any) -> None:
    if impl in ALTERNATIVES:
        _alternative(b, impl)
        return
    ops.kick_drift(b.rows[0], b.rows[1], b.rows[2], b.prior, b.coefficients, impl=impl, **options)


def _kick_flow(b: Buffers, impl: str) -> None:
    ops.kick_flow(b.rows[0], b.rows[1], b.rows[2], b.prior, b.flow, noise=b.noise, impl=impl)


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
    Operation("kick_flow", 20, 3, _kick_flow),
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


def chosen_providers(operation: Operation, size: int) -> list[str]:
    providers = ["triton", "torch"] if CUDA else ["torch"]
    if _draws(operation) and size > 1_000_000:
        providers.remove("torch")  # 4 us per thousand elements: seconds, and nothing new
    return [*providers, *(ALTERNATIVES if operation.name == "kick_drift" else ())]


def measured_rows(operation: Operation, provider: str, size: int, samples: list[float]) -> list[Row]:
    moved = operation.bytes_per_element * size
    return [
        row("kernels", operation.name, provider, size, "time", "us", [1e6 * t for t in samples]),
        row("kernels", operation.name, provider, size, "bandwidth", "GB/s", [moved / t / 1e9 for t in samples]),
    ]


@pytest.fixture(scope="module")
def bandwidth(aside: list[Row]) -> float:
    """Bytes per second of the largest copy, the one that no cache holds."""
    for size in SIZES:
        samples = measure(COPY, "torch", compute_device(), 1, size)
        aside.extend(measured_rows(COPY, "torch", size, samples))
    return COPY.bytes_per_element * size / quantiles(samples)[0]


@pytest.mark.parametrize(
    ("operation", "size", "provider"),
    [
        pytest.param(operation, size, provider, id=f"{operation.name}-{size:.0e}-{provider}")
        for operation in OPERATIONS
        for size in SIZES
        for provider in chosen_providers(operation, size)
    ],
)
def test_kernel(operation: Operation, size: int, provider: str, bandwidth: float, record: Record) -> None:
    try:
        samples = measure(operation, provider, compute_device(), 1, size)
    except torch.cuda.OutOfMemoryError:
        pytest.skip("out of memory")
    finally:
        gc.collect()
        if CUDA:
            torch.cuda.empty_cache()
    floor = 1e6 * operation.bytes_per_element * size / bandwidth
    rows = measured_rows(operation, provider, size, samples)
    if provider == chosen_providers(operation, size)[0]:
        rows.append(row("kernels", operation.name, "floor", size, "time", "us", floor))
    record(f"kernels: {operation.name}, {size:.0e}", samples, rows)
