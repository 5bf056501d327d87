"""Rows of the tidy table from pytest-benchmark's JSON.

    python benchmarks/tidy.py FILE.json DIR

Appends to `DIR/results.csv`, one row per metric, so that a rerun overwrites nothing.
"""

import csv
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

MEASURED = ["suite", "name", "provider", "size", "metric", "unit", "median", "q20", "q80", "samples"]
COLUMNS = [*MEASURED, "device", "versions", "commit", "time"]


def append(folder: Path, rows: Iterable[dict[str, Any]], context: Sequence[str]) -> Path:
    """context: device, versions, commit and time of all rows."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "results.csv"
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if fresh:
            writer.writerow(COLUMNS)
        for row in rows:
            values = [f"{v:.6g}" if isinstance(v, float) else v for v in (row[column] for column in MEASURED)]
            writer.writerow([*values, *context])
    return path


def rows_of(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Of all that was timed (`extra_info`), then those that belong to nothing timed (conftest.py: `aside`)."""
    timed = [row for entry in report["benchmarks"] for row in entry["extra_info"].get("rows", ())]
    return timed + report.get("rows", [])


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    source, folder = map(Path, sys.argv[1:])
    report = json.loads(source.read_text())
    machine = report["machine_info"]
    time = report["datetime"].split(".")[0] + "+00:00"
    context = [machine["device"], machine["versions"], machine["commit"], time]
    print(append(folder, rows_of(report), context))


if __name__ == "__main__":
    main()
