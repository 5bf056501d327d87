"""Numbers that a user gives, checked for kind and range."""

import math
import operator
from typing import Any

from .errors import UserError

__all__ = ["positive", "whole_number"]


def positive(name: str, value: Any) -> float:
    """Returns the value if it is a positive and finite number; otherwise UserError."""
    try:
        good = math.isfinite(value) and value > 0
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor of several numbers
        good = False
    if not good:
        raise UserError(f"{name} {_shown(value)} must be a positive number")
    return float(value) if not isinstance(value, int | float) else value


def whole_number(name: str, value: Any, *, least: int = 1) -> int:
    """Returns the value as an int if it is a whole number of at least `least`; otherwise UserError."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise UserError(f"{name} {_shown(value)} must be a whole number")
    if number < least:
        raise UserError(f"{name} {number} must be at least {least}")
    return number


def _shown(value: Any) -> str:
    text = str(value) if isinstance(value, float) else repr(value)
    return text if len(text) < 60 else f"({type(value).__name__})"
