"""The schedule of adaptation: Stan's three phases of burn-in (Stan reference manual, "HMC algorithm parameters").

    fast | slow 25 | slow 50 | slow 100 | ... | fast

The first phase finds the typical set. The slow windows, each twice as long as the one before, learn the metric. The
last phase settles the step size.
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
        """Stan's lengths, or 15, 75 and 10 % of a burn-in that is too short for them."""
        first, last, base = _FIRST, _LAST, _BASE
        if burn_in < first + last + base:
            first, last = int(0.15 * burn_in), int(0.1 * burn_in)
            base = burn_in - first - last
        ends, end, length, stop = [], first, base, burn_in - last
        while end < stop:
            # a window extends to the end if the next one, twice as long, would not fit
            end = stop if end + length + 2 * length > stop else end + length
            ends.append(end)
            length *= 2
        return cls(first, tuple(ends))

    def is_slow(self, iteration: int) -> bool:
        """Whether this iteration is in a slow window, so that its draws update the metric."""
        return bool(self.ends) and self.first <= iteration < self.ends[-1]

    def closes(self, iteration: int) -> bool:
        """Whether a slow window ends with this iteration."""
        return iteration + 1 in self.ends
