"""What the suites share: timing in turns, quantiles, rows of the tidy table, and where they were measured."""

import csv
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

Row = dict[str, Any]  # the columns of one metric: tidy.COLUMNS without those of context()
Record = Callable[[str, Sequence[float], list[Row]], None]  # conftest.record
_PACKAGES = ("torch", "triton", "jax", "blackjax", "numpyro", "posteriors")


def row(
    suite: str, name: str, provider: str, size: float, metric: str, unit: str, values: float | Sequence[float]
) -> Row:
    """values: one per sample, whose quantiles the table shows, or one number."""
    taken = [float(values)] if isinstance(values, int | float) else list(values)
    median, low, high = quantiles(taken)
    row: Row = {"suite": suite, "name": name, "provider": provider, "size": size, "metric": metric, "unit": unit}
    return row | {"median": median, "q20": low, "q80": high, "samples": len(taken)}


def quantiles(samples: Sequence[float]) -> tuple[float, float, float]:
    """Median, 20 % and 80 %."""
    ordered = sorted(samples)
    last = len(ordered) - 1
    return statistics.median(ordered), ordered[round(0.2 * last)], ordered[round(0.8 * last)]


def ratios(theirs: Sequence[float], ours: Sequence[float]) -> list[float]:
    """Within each round, which a noisy machine leaves comparable."""
    return [a / b for a, b in zip(theirs, ours, strict=True)]


def compute_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} threads"


def versions() -> str:
    installed = {p: metadata.version(p) for p in _PACKAGES if _is_installed(p)}
    return " ".join(f"{name} {version}" for name, version in installed.items())


def context(device: torch.device) -> list[str]:
    """Device, versions, commit and time: the last columns of every table."""
    return [device_name(device), versions(), commit(), datetime.now(timezone.utc).isoformat(timespec="seconds")]


def _is_installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def commit() -> str:
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True
        )
    except FileNotFoundError:  # no git on a bare machine
        return ""
    return done.stdout.strip()


def cases(providers: Mapping[str, Iterable[str]]) -> pytest.MarkDecorator:
    """One test per case and provider, those of a case one after the other."""
    pairs = [(case, provider) for case, those in providers.items() for provider in those]
    return pytest.mark.parametrize(("case", "provider"), pairs)


def interleaved(
    calls: dict[str, Callable[[], object]], device: torch.device, *, rounds: int = 7, seconds: float = 0.3
) -> dict[str, list[float]]:
    """Seconds per call, one sample per round, of each of `calls` in turns.

    In turns within one process, so that a noisy machine hits all alike: one after the other would compare hours,
    not programs. A sample is the mean of as many calls as fill about `seconds` (at least one). Every call must
    finish its work, on whatever device, or be followed by `torch.cuda.synchronize`, which this does.
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


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """A table of rows by name, in a folder that is made for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
