"""Draws kept and averaged as they come, beside stacking them: rate and memory.

    pytest benchmarks -k store

Streaming rounds each draw into the fp16 ring and adds its predictions to the average. Stacking, as notebooks do
it, keeps float32 draws and all predictions and averages at the end. Memory is counted from the tensors held: of
streaming it does not grow with the draws. The evaluation of the model is left out.
"""

import functools

import torch
import workloads
from common import Record, cases, compute_device, interleaved, row

from hmc_fast.results.draw_store import DrawStore
from hmc_fast.results.model_average import StreamedAverage

DRAWS, IMAGES, CLASSES = 50, 10_000, 10


@functools.lru_cache(maxsize=1)
def timed(ways: tuple[str, ...], rounds: int) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Seconds and bytes held, of each way to keep the draws of ResNet-20."""
    device, held = compute_device(), {}
    size = workloads.resnet(n=1).target(device).num_params
    theta, logits = torch.randn(1, size, device=device), torch.randn(1, IMAGES, CLASSES, device=device)

    def stream() -> None:
        store = DrawStore(DRAWS, 1, size, capacity=16, device=device)
        average = StreamedAverage("classification", (1, IMAGES, CLASSES), device=device)
        for _ in range(DRAWS):
            store.push(theta)
            average.update_from_logits(logits)
        average.result()
        held["streamed"] = store.ring.nbytes + average.sums.nbytes + average.second.nbytes

    def stack() -> None:
        draws, probabilities = [], []
        for _ in range(DRAWS):
            draws.append(theta.clone())
            probabilities.append(torch.softmax(logits, -1))
        kept, stacked = torch.stack(draws), torch.stack(probabilities)
        stacked.double().mean(0).cpu()
        held["stacked"] = kept.nbytes + stacked.nbytes

    calls = {"streamed": stream, "stacked": stack}
    return interleaved({way: calls[way] for way in ways}, device, rounds=rounds), held


@cases({"ResNet-20": ("streamed", "stacked")})
def test_store(case: str, provider: str, providers, rounds, record: Record) -> None:  # type: ignore[no-untyped-def]
    seconds, held = timed(providers, rounds or 5)
    rates = [DRAWS * IMAGES / t for t in seconds[provider]]
    name = "store and average"
    rows = [
        row("store", name, provider, DRAWS, "rate", "draws x images/s", rates),
        row("store", name, provider, DRAWS, "memory on the device", "MB", held[provider] / 1e6),
    ]
    record(f"store: {name}", seconds[provider], rows)
