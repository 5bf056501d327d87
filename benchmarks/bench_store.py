"""Draws kept and averaged as they come, beside stacking them: rate and memory.

    python benchmarks/bench_store.py --out DIR

Streaming rounds each draw into the fp16 ring and adds its predictions to the average. Stacking, as notebooks do
it, keeps float32 draws and all predictions and averages at the end. Memory is counted from the tensors held.
"""

import argparse
from pathlib import Path

import torch
import workloads
from common import Table, interleaved, quantiles, say

from hmc_fast.results.draw_store import DrawStore
from hmc_fast.results.model_average import StreamedAverage

DRAWS, IMAGES, CLASSES = 50, 10_000, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of the CSV")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    table = Table(arguments.out, "store", device)
    size = workloads.resnet().target(device).num_params
    theta, logits = torch.randn(1, size, device=device), torch.randn(1, IMAGES, CLASSES, device=device)
    held: dict[str, int] = {}

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

    samples = interleaved({"streamed": stream, "stacked": stack}, device, rounds=arguments.rounds)
    say(f"ResNet-20, D = {size:,}: {DRAWS} draws, predictions at {IMAGES:,} images, model evaluation left out")
    for name, values in samples.items():
        median, low, high = (DRAWS * IMAGES / t for t in quantiles(values))
        table.add(
            "store and average", name, DRAWS, "rate", "draws x images/s", median, high, low, samples=len(values)
        )
        table.add("store and average", name, DRAWS, "memory on the device", "MB", held[name] / 1e6)
        say(f"  {name:10}{median / 1e6:9.1f} M draws x images/s   {held[name] / 1e6:8.1f} MB on the device")
    each = held["stacked"] / DRAWS / 1e6
    say(f"  streamed memory does not grow with the draws; stacked, each draw takes {each:.2f} MB")


if __name__ == "__main__":
    main()
