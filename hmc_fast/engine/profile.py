"""A torch profiler trace of a few iterations of a run, and a printed list of its largest costs."""

from pathlib import Path
from typing import Any

import torch

from ..messages import tell

__all__ = ["Profile"]

_ACTIVE_GRADIENTS = 200  # limit on traced gradients, rounded to whole iterations: no browser opens a 100 MB trace
_ROWS = 5


class Profile:
    """Call `step()` after every iteration; the trace is written once enough iterations have passed.

    Args:
        path: the trace, Chrome's JSON format (chrome://tracing, ui.perfetto.dev).
        iterations: of the run. gradients: per iteration.
    """

    def __init__(self, path: Path, iterations: int, gradients: int) -> None:
        self.path = path
        active = max(1, min(3, _ACTIVE_GRADIENTS // max(gradients, 1), iterations - 2))
        skipped = min(2, max(0, iterations - active))  # skips compilation, capture and first allocations
        activities = [torch.profiler.ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        self._first, self._last, self._seen = skipped, skipped + active, 0
        self._profiler = torch.profiler.profile(activities=activities, acc_events=True)
        if self._first == 0:
            self._profiler.start()

    def step(self) -> None:
        self._seen += 1
        if self._seen == self._first:
            self._profiler.start()
        elif self._seen == self._last:
            self._profiler.stop()
            self._profiler.export_chrome_trace(str(self.path))
            tell(self._report())

    def _report(self) -> str:
        """The operations with the largest self time, on the device if there is one."""
        events = self._profiler.key_averages()
        on_device = any(event.self_device_time_total > 0 for event in events)

        def cost(event: Any) -> float:
            return float(event.self_device_time_total if on_device else event.self_cpu_time_total)

        total = sum(cost(event) for event in events) or 1.0
        lines = [f"profile of {self._last - self._first} iteration(s), {total / 1e3:.3g} ms: {self.path}"]
        for event in sorted(events, key=cost, reverse=True)[:_ROWS]:
            share, milliseconds = 100 * cost(event) / total, cost(event) / 1e3
            lines.append(f"  {share:5.1f} %  {milliseconds:9.3f} ms  {event.count:6d} x  {event.key[:70]}")
        return "\n".join(lines)
