"""Times of one gradient, computed in several ways: measured once on a machine, then read from a file.

Measured anew, the same seed could give other draws, since each way rounds differently. A machine's speed drifts by
a quarter between runs, so ways are timed in turns, and only their ratios are trusted: new times are scaled by that
of a way whose time is kept.
"""

import hashlib
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..atomic_files import write_json
from ..targets.base import Target

__all__ = ["CALLS", "Times", "describe", "gradient_at", "micro_batch"]

# Per way: two calls to warm up, then one in each of five rounds.
_WARM_UP, _ROUNDS = 2, 5
CALLS = _WARM_UP + _ROUNDS
_OUT_OF_MEMORY = 1e9  # seconds; JSON has no infinity


def describe(variant: Target) -> str:
    """What there was a choice of, such as "loop channels_last 256 compiled"; eager goes without saying."""
    words = (
        variant.chain_batching,
        variant.layout if len(variant.layouts()) > 1 else None,
        str(variant.micro_batch_size) if len(variant.micro_batch_sizes()) > 1 else None,
        None if variant.path == "eager" else variant.path,
    )
    return " ".join(word for word in words if word) or "eager"


def micro_batch(target: Target, theta: Tensor, size: int, *, shared: bool) -> Callable[[], None]:
    """The gradient at `theta (C, D)` on `size` examples: `shared` by all chains, or chosen for each."""
    target = target.first_examples(size) if shared else target
    return gradient_at(target, theta, torch.empty_like(theta), theta.new_empty(len(theta), size), shared=shared)


def gradient_at(
    target: Target, theta: Tensor, grad: Tensor, log_lik: Tensor, *, shared: bool
) -> Callable[[], None]:
    """The gradient, written to `grad (C, D)`, on as many examples as `log_lik (C, B)` has room for."""
    size = log_lik.shape[1]
    indices = torch.arange(len(theta) * size, device=target.device) % target.num_data
    chosen = None if shared else indices.view(len(theta), size)
    return lambda: target.log_likelihood_and_grad(theta, grad, log_lik, chosen)


class Times:
    """Seconds of each variant of `target` for all chains and as many examples as a micro-batch of `target` has."""

    def __init__(self, target: Target, num_chains: int, count: int) -> None:
        self.num_chains, self.count, self.size = num_chains, count, min(count, target.micro_batch_size)
        self.shared = count == target.num_data
        self.key = self._key(target)
        self.path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hmc_fast" / "measured.json"
        try:
            self.file: dict[str, dict[str, float]] = json.loads(self.path.read_text())
        except (OSError, ValueError):
            self.file = {}
        self.known = dict(self.file.get(self.key, {}))

    def _key(self, target: Target) -> str:
        """A hash of everything that may affect which variant is fastest."""
        cuda = target.device.type == "cuda"
        device = torch.cuda.get_device_name(target.device) if cuda else f"cpu {torch.get_num_threads()}"
        parts = (target.architecture(), self.size, self.shared, self.num_chains, torch.__version__, device)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]

    def fastest(self, variants: Sequence[Target]) -> Target:
        """The variant that takes least time, the first of equals. Those without a kept time are measured."""
        named = {describe(variant): variant for variant in variants}
        kept = [name for name in named if name in self.known]
        if len(kept) < len(named):
            timed = kept[:1] + [name for name in named if name not in self.known]
            found = seconds_in_turns({name: self._call(named[name]) for name in timed}, variants[0].device)
            scale = self.known[kept[0]] / self._per_size(named[kept[0]], found[kept[0]]) if kept else 1.0
            new = {name: scale * self._per_size(named[name], found[name]) for name in timed}
            self.known = new | self.known
        return named[min(named, key=self.known.__getitem__)]

    def _examples(self, variant: Target) -> int:
        return min(self.count, variant.micro_batch_size)

    def _per_size(self, variant: Target, seconds: float) -> float:
        return seconds * self.size / self._examples(variant)

    def _call(self, variant: Target) -> Callable[[], None]:
        theta = variant.example_row().expand(self.num_chains, -1).clone()
        return micro_batch(variant, theta, self._examples(variant), shared=self.shared)

    def keep(self) -> str:
        """Writes new measurements to the file; returns the times and their origin for printing."""
        origin = f"measured earlier, {self.path}"
        if self.known != self.file.get(self.key, {}):
            origin = "measured now"
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                write_json(self.path, self.file | {self.key: self.known})
            except OSError:
                origin += f", not stored because {self.path} cannot be written"
        times = sorted(self.known.items(), key=lambda item: item[1])
        shown = ", ".join(f"{name} {1e3 * value:.3g} ms" for name, value in times)
        return f"{shown} per {self.size:,} examples of {self.num_chains} chains; {origin}"


def seconds_in_turns(calls: Mapping[str, Callable[[], object]], device: torch.device) -> dict[str, float]:
    """Median seconds of each call, after two that warm it up, in rounds of all: what slows the machine for a while
    then slows all alike."""
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(_WARM_UP):
            _seconds(call, device)
    for _ in range(_ROUNDS):
        for name, call in calls.items():
            samples[name].append(_seconds(call, device))
    return {name: statistics.median(values) for name, values in samples.items()}


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    begin = time.perf_counter()
    try:
        call()
    except torch.OutOfMemoryError:
        return _OUT_OF_MEMORY
    _wait(device)
    return time.perf_counter() - begin


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
