"""Progress display: one bar on a terminal, occasional plain lines otherwise, nothing if disabled.

A terminal or pipe that closes ends the display, not the run.
"""

import contextlib
import sys
import time
from collections.abc import Callable
from typing import Any

from ..messages import tell

__all__ = ["Progress"]

# Seconds between lines without a terminal: the log of a one-hour run stays under 200 lines.
_LINE_INTERVAL = 20.0
_BAR_INTERVAL = 0.1  # seconds between updates of the figures, which make the host wait for the device


class Progress:
    """Counts iterations and shows the latest figures."""

    def __init__(self, total: int, done: int, enabled: bool) -> None:
        self._total, self._done, self._enabled = total, done, enabled
        self._first = done
        self._start = self._last_line = time.monotonic()
        self._bar: Any = None
        if enabled and sys.stderr.isatty():
            from tqdm import tqdm

            with contextlib.suppress(OSError):
                self._bar = tqdm(total=total, initial=done, unit="it", dynamic_ncols=True, smoothing=0.1)

    def update(self, phase: str, look: Callable[[], dict[str, str]], iterations: int = 1) -> None:
        """Counts iterations. look: returns the figures, name -> value, in display order; called only when they are
        shown."""
        self._done += iterations
        if not self._enabled:
            return
        now = time.monotonic()
        due = now - self._last_line >= (_BAR_INTERVAL if self._bar is not None else _LINE_INTERVAL)
        if due or self._done == self._total:
            self._last_line = now
            figures = look()
        if self._bar is not None:
            with contextlib.suppress(OSError):
                if due or self._done == self._total:
                    self._bar.set_description_str(phase, refresh=False)
                    self._bar.set_postfix(figures, refresh=False)
                self._bar.update(iterations)
        elif due or self._done == self._total:
            rate = (now - self._start) / (self._done - self._first)
            figures = figures | {"left": f"{rate * (self._total - self._done):.0f}s"}
            shown = "  ".join(f"{name} {value}" for name, value in figures.items())
            tell(f"{phase} {self._done}/{self._total}  {shown}")

    def say(self, line: str) -> None:
        """Prints a line of its own."""
        if self._bar is not None:
            with contextlib.suppress(OSError):
                self._bar.write(line, file=sys.stderr)
        elif self._enabled:
            tell(line)

    def close(self) -> None:
        if self._bar is not None:
            with contextlib.suppress(OSError):
                self._bar.close()
