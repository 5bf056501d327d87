"""When to learn what during burn-in: Stan's three phases (Stan reference manual, "HMC algorithm parameters").

    fast | slow 25 | slow 50 | slow 100 | ... | fast

The first phase finds the typical set, the windows in between learn the metric and are doubled each time,
the last phase settles the step size.
"""

from dataclasses import dataclass

__all__ = ["Windows"]

_FIRST, _LAST, _BASE = 75, 50, 25  # Stan's defaults


@dataclass(frozen=True)
class Windows:
    """The slow windows of `burn_in` iterations: they begin at `first` and end before each of `ends`."""

    first: int
    ends: tuple[int, ...]

    @classmethod
    def of(cls, burn_in: int) -> "Windows":
        """Stan's lengths, or 15, 75 and 10 % where burn-in is too short for them."""
        first, last, base = _FIRST, _LAST, _BASE
        if burn_in < first + last + base:
            first, last = int(0.15 * burn_in), int(0.1 * burn_in)
            base = burn_in - first - last
        ends, end, length, stop = [], first, base, burn_in - last
        while end < stop:
            # a window is stretched to the end where the next, twice as long, would not fit
            end = stop if end + length + 2 * length > stop else end + length
            ends.append(end)
            length *= 2
        return cls(first, tuple(ends))

    def is_slow(self, iteration: int) -> bool:
        """Whether draws of this iteration are learned from."""
        return bool(self.ends) and self.first <= iteration < self.ends[-1]

    def closes(self, iteration: int) -> bool:
        """Whether a window ends with this iteration."""
        return iteration + 1 in self.ends
