"""What stops a run: a user's mistake, in a single sentence that names value, source and fix; or a signal."""

import signal

__all__ = ["Interrupted", "UserError"]


class UserError(ValueError):
    """A mistake in the user's input. The commands print it on one line and exit with status 2."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, SIGTERM or SIGHUP. A run with a directory has written a checkpoint.

    Attributes:
        status: the exit status that a shell gives to a process that the signal ended, 130, 143 or 129.
    """

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.status = 128 + int(number)
