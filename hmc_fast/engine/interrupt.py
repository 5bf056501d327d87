"""Ctrl-C, SIGTERM, SIGHUP: the first one stops the loop after the current iteration, a later one immediately."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

from ..errors import Interrupted
from ..messages import tell

__all__ = ["InterruptGuard"]

# A terminal or `timeout` may send one signal twice; a second wish to stop takes longer.
_ONE_WISH = 1.0  # seconds


class Abandoned(BaseException):
    """Raised within a long iteration."""


class InterruptGuard:
    """A context in which the first signal only sets `requested`; the previous handlers are restored on exit.

    States are mutated in place, so an interruption in the middle of a step would leave them unusable. Outside the
    main thread, where Python allows no handlers, the guard does nothing. SIGTERM and SIGHUP stay ignored where they
    are, as under nohup.

    Args:
        tells: prints what the first signal does.

    Attributes:
        requested: the number of the signal; None before it.
        abandoned: whether it came in the midst of `abandonable` work.
    """

    def __init__(self, *, tells: bool = False) -> None:
        self.requested: int | None = None
        self.abandoned = False
        self._tells, self._first, self._is_abandonable = tells, 0.0, False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "InterruptGuard":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def abandonable(self, is_abandonable: bool) -> Iterator[None]:
        """Work that the first signal may break off, because its beginning is kept."""
        self._is_abandonable = is_abandonable
        try:
            yield
        finally:
            self._is_abandonable = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.requested is not None:
            if now - self._first > _ONE_WISH:
                raise Interrupted(number)
            return
        self.requested, self._first = number, now
        if self._is_abandonable:
            self.abandoned = True
            raise Abandoned
        if self._tells:
            tell("stopping after this iteration; again to stop at once")
