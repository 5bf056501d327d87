"""Numbers that a user gives, checked for kind and range."""

import math
import operator
from pathlib import Path
from typing import Any

from .errors import UserError

__all__ = ["LARGEST", "positive", "shown", "whole_number"]

LARGEST = 2**63 - 1  # of the integers of torch and numpy
_LEAST, _MOST = 1e-35, 1e35  # of positive numbers


def positive(name: str, value: Any) -> float:
    """Returns the value if it is a positive number that float32 holds with room to spare; otherwise UserError."""
    try:
        good = math.isfinite(value) and value > 0
    except (TypeError, ValueError, OverflowError, RuntimeError):  # RuntimeError: a tensor of several numbers
        good = False
    if not good:
        raise UserError(f"{name} {shown(value)} must be a positive number")
    if not _LEAST <= value <= _MOST:
        raise UserError(f"{name} {shown(value)} must lie between {_LEAST:g} and {_MOST:g}")
    return float(value) if not isinstance(value, int | float) else value


def whole_number(name: str, value: Any, *, least: int = 1) -> int:
    """Returns the value as an int if it is a whole number in `least`..LARGEST; otherwise UserError."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise UserError(f"{name} {shown(value)} must be a whole number")
    if number < least:
        raise UserError(f"{name} {shown(number)} must be at least {least}")
    if number > LARGEST:
        raise UserError(f"{name} {shown(number)} must be at most 2**63 - 1")
    return number


def shown(value: Any) -> str:
    """A value for a message of one line: of a long number or text its start, of another long value its type."""
    try:
        text = str(value) if isinstance(value, float) else repr(value)
    except ValueError:  # Python writes no integer of more than 4300 digits
        return f"({type(value).__name__})"
    if len(text) < 60:
        return text
    return f"{text[:40]}..." if isinstance(value, int | str | Path) else f"({type(value).__name__})"
