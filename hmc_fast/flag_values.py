"""The values of settings: read from a command line, or from JSON, and refused where no setting can have them."""

import argparse
import difflib
from collections.abc import Callable, Iterable
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from .arguments import LARGEST, shown

__all__ = ["did_you_mean", "fits", "kind_of", "reader"]

_LONGEST_NAME, _LONGEST_PATH = 255, 4000  # bytes, on the usual file systems, with room for names in a folder
_MEANT = {int: "a whole number", float: "a number"}


def kind_of(annotation: Any) -> Any:
    """The type of a setting, without None."""
    if get_origin(annotation) in (Union, UnionType):
        (annotation,) = (kind for kind in get_args(annotation) if kind is not NoneType)
    return annotation


def reader(kind: Any) -> Callable[[str], Any]:
    """Converts an argument to its type; an error names the type that was expected."""

    def read(text: str) -> Any:
        if get_origin(kind) is Literal:
            choices = get_args(kind)
            if text not in choices:
                hint = did_you_mean(text, choices) or f": use one of {', '.join(choices)}"
                raise argparse.ArgumentTypeError(f"{shown(text)} is unknown{hint}")
            return text
        if "\0" in text or not _is_utf8(text):
            raise argparse.ArgumentTypeError(f"{shown(text)} holds a character that no name has: leave it out")
        if kind is Path and (
            len(text.encode()) > _LONGEST_PATH
            or any(len(part.encode()) > _LONGEST_NAME for part in Path(text).parts)
        ):
            raise argparse.ArgumentTypeError(
                f"{shown(text)} is longer than {_LONGEST_PATH} bytes, or has a name longer than {_LONGEST_NAME}: "
                "choose a shorter path"
            )
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{shown(text)} is not {_MEANT[kind]}") from None
        if kind is int and abs(value) > LARGEST:
            raise argparse.ArgumentTypeError(f"{shown(text)} must lie between -2**63 and 2**63, exclusive")
        return value

    return read


def fits(value: Any, annotation: Any) -> bool:
    """Whether a value from JSON may be that of a setting with this annotation; a path is a string there."""
    kind = kind_of(annotation)
    if value is None:
        return kind is not annotation
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if kind in (str, Path):
        return isinstance(value, str) and "\0" not in value and _is_utf8(value)
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    if isinstance(value, int):
        return abs(value) <= LARGEST
    return isinstance(value, float) and kind is float


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint with the closest known word; empty if none is close."""
    near = difflib.get_close_matches(word[:100], list(known), n=1)  # slow for a long word
    return f"; did you mean {near[0]}?" if near else ""


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # bytes of an argument that are no text
        return False
    return True
