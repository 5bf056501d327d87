"""The one error a user's mistake raises: a single sentence that names the value, the place and the cure."""

__all__ = ["UserError"]


class UserError(ValueError):
    """A mistake in what the user asked for. The commands print it as one line and exit with status 2."""
