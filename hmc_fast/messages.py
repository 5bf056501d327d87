"""Lines for the user. What reads them may go away; no run ends because of it."""

import contextlib
import sys
from typing import TextIO

__all__ = ["tell"]


def tell(*lines: str, file: TextIO | None = None) -> None:
    """Prints to `file`, by default stderr, if it is still there."""
    # A pipe or terminal that is gone; a closed file; a line from a signal handler within another line.
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        print(*lines, sep="\n", file=file or sys.stderr, flush=True)
