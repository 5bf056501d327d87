"""What the suites share: interleaved timing, quantiles, and the one tidy CSV.

Peers are timed in turns within one process, a round of all after a round of all, so that a noisy machine
hits them alike. (pytest-benchmark times one after the other, which on a shared machine compares hours, not
programs.)
"""

import csv
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

COLUMNS = ["suite", "name", "provider", "size", "metric", "unit", "median", "q20", "q80", "samples"]
COLUMNS += ["device", "versions", "commit", "time"]
_PACKAGES = ("torch", "triton", "jax", "blackjax", "numpyro", "posteriors")


def quantiles(samples: list[float]) -> tuple[float, float, float]:
    """Median, 20 % and 80 %."""
    ordered = sorted(samples)
    last = len(ordered) - 1
    return statistics.median(ordered), ordered[round(0.2 * last)], ordered[round(0.8 * last)]


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} threads"


def context(device: torch.device) -> list[str]:
    """Device, versions, commit and time: the last columns of every table."""
    installed = {p: metadata.version(p) for p in _PACKAGES if _is_installed(p)}
    versions = " ".join(f"{name} {version}" for name, version in installed.items())
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return [device_name(device), versions, _commit(), now]


class Table:
    """`OUT/results.csv`, one row per metric, appended to so that a rerun overwrites nothing."""

    def __init__(self, out: Path, suite: str, device: torch.device) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.path, self.suite = out / "results.csv", suite
        self.context = context(device)
        if not self.path.exists():
            self._write(COLUMNS)

    def add(
        self, name: str, provider: str, size: float, metric: str, unit: str, *values: float, samples: int = 1
    ) -> None:
        """values: median, 20 % and 80 % quantile, or one number for all three."""
        values = values * 3 if len(values) == 1 else values
        numbers = [f"{v:.6g}" for v in values]
        self._write([self.suite, name, provider, size, metric, unit, *numbers, samples, *self.context])

    def _write(self, row: list[Any]) -> None:
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow(row)


def _is_installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _commit() -> str:
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True
        )
    except FileNotFoundError:  # no git on a bare machine
        return ""
    return done.stdout.strip()


def interleaved(
    calls: dict[str, Callable[[], object]], device: torch.device, *, rounds: int = 7, seconds: float = 0.3
) -> dict[str, list[float]]:
    """Seconds per call, one sample per round, of each of `calls` in turns.

    A sample is the mean of as many calls as fill about `seconds` (at least one). Every call must finish its
    work, on whatever device, or be followed by `torch.cuda.synchronize`, which this does.
    """
    repeats: dict[str, int] = {}
    for name, call in calls.items():
        call()  # compiles, allocates
        once = _timed(call, 1, device)
        repeats[name] = max(1, min(1000, round(seconds / max(once, 1e-6))))
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            time.sleep(0.05)  # the previous peer's threads stop spinning
            if repeats[name] > 1:
                call()
            samples[name].append(_timed(call, repeats[name], device))
    return samples


def _timed(call: Callable[[], object], repeats: int, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begin = time.perf_counter()
    for _ in range(repeats):
        call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - begin) / repeats


def say(*parts: object) -> None:
    print(*parts, flush=True)


def missing_peer(error: ImportError) -> None:
    """Says once that a peer is absent; its rows are then absent too."""
    print(f"not installed, so not compared: {error.name} (pip install -e '.[peers]')", file=sys.stderr)
