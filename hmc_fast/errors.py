"""The error for every user mistake: a single sentence that names the value, its source and the fix."""

__all__ = ["UserError"]


class UserError(ValueError):
    """A mistake in the user's input. The commands print it on one line and exit with status 2."""
