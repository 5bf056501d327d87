"""A check and what it found."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

__all__ = ["Finding", "NotHere", "Result", "Verdict", "find"]

Verdict = Literal["ok", "FAILED", "slow", "not here"]


class Result(NamedTuple):
    verdict: Verdict
    detail: str


class NotHere(Exception):
    """This machine lacks what the check needs; the message says what."""


@dataclass(frozen=True)
class Finding:
    """verdict: only FAILED means that results may be wrong. seconds: that the check took."""

    name: str
    verdict: Verdict
    detail: str
    seconds: float


def find(name: str, check: Callable[[], Result]) -> Finding:
    """Runs the check. An exception in it is a failure, told by its first line."""
    begin = time.perf_counter()
    try:
        verdict, detail = check()
    except NotHere as missing:
        verdict, detail = "not here", str(missing)
    except Exception as error:  # whatever a broken installation raises
        reason = str(error).strip().split("\n")[0][:200]
        verdict, detail = "FAILED", f"{type(error).__name__}: {reason}"
    return Finding(name, verdict, detail, time.perf_counter() - begin)
