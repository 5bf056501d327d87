"""What a run of `python -m hmc_fast.sample --profile` came to: accuracy, seconds, busy share of the device.

python benchmarks/mission.py RUN
"""

import json
import sys
from pathlib import Path
from typing import Any

ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")  # categories of a torch profiler's events


def busy_share(events: list[dict[str, Any]]) -> float | None:
    """Of the time from the first to the last event on a device, the part in which any ran; None without events."""
    spans = sorted((e["ts"], e["ts"] + e["dur"]) for e in events if e.get("cat") in ON_DEVICE and "dur" in e)
    if not spans:
        return None
    busy, until = 0.0, spans[0][0]
    for begin, end in spans:
        busy += max(0.0, end - max(begin, until))
        until = max(until, end)
    return busy / (until - spans[0][0])


def main() -> int:
    run = Path(sys.argv[1])
    trace = run / "profile.json"
    share = busy_share(json.loads(trace.read_text())["traceEvents"]) if trace.exists() else None
    print("busy share of the device:", "not profiled there" if share is None else f"{share:.3f}")
    if not (run / "metrics.json").exists():
        print("not finished: the same stage again continues")
        return 1
    metrics = json.loads((run / "metrics.json").read_text())
    for name in ("accuracy", "nll", "accuracy_single", "nll_single", "gradients_per_s", "seconds"):
        print(f"{name}: {metrics[name]:.6g}")
    (run / "busy_share.json").write_text(json.dumps(share))
    return 0


if __name__ == "__main__":
    sys.exit(main())
