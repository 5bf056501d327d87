"""Where temporary arrays lie: memory is used again as soon as nobody reads it, while it is still in the cache.

The activations of a small network then stay in the second-level cache; a nest may even overwrite what it reads.
"""

import re
from dataclasses import dataclass

from .units import Nest, Unit

__all__ = ["TEMPORARY", "allocate"]

TEMPORARY = re.compile(r"\b[ts]\d+\b")
_WASTE = 4  # an array takes a free slot of at most this many times its size


@dataclass
class _Slot:
    nbytes: int
    free_from: int  # the first unit that may write other numbers there


def allocate(parts: list[tuple[Unit, list[str]]], nbytes: dict[str, int]) -> tuple[dict[str, str], list[int]]:
    """The slot of every array, and the bytes of every slot.

    parts: the lines of every unit, in order, those within loops too; such an array does not outlast a round.
    nbytes: of the arrays, by name.
    """
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for position, (_, lines) in enumerate(parts):
        for name in TEMPORARY.findall("\n".join(lines)):
            first.setdefault(name, position)
            last[name] = position
    slots: list[_Slot] = []
    chosen: dict[str, int] = {}
    for name in sorted(first, key=first.__getitem__):
        unit, size = parts[first[name]][0], nbytes[name]
        place = _overwritten(unit, name, chosen, last, first[name]) if isinstance(unit, Nest) else None
        if place is None or slots[place].nbytes < size:
            free = [
                index
                for index, slot in enumerate(slots)
                if slot.free_from <= first[name] and size <= slot.nbytes <= _WASTE * size
            ]
            place = max(free, key=lambda index: slots[index].free_from, default=None)  # the latest in the cache
        if place is None:
            place = len(slots)
            slots.append(_Slot(size, 0))
        slots[place].free_from = max(slots[place].free_from, last[name] + 1)
        chosen[name] = place
    return {name: f"m{place}" for name, place in chosen.items()}, [slot.nbytes for slot in slots]


def _overwritten(nest: Nest, name: str, chosen: dict[str, int], last: dict[str, int], position: int) -> int | None:
    """The slot of an array that is read for the last time here, each element before `name`'s is written there."""
    places: dict[str, set[tuple[object, ...]]] = {}
    for result, operands, _ in nest.translated:
        for access in (result, *operands):
            places.setdefault(access.memory, set()).add(access.place(nest.shape)[1:])
    read: list[str] = []  # no later than `name` is written
    for result, operands, _ in nest.translated:
        read += [operand.memory for operand in operands]
        if result.memory == name:
            break
    written = {result.memory for result, _, _ in nest.translated}
    taken = {chosen[other] for other in places if other in chosen and (last[other] > position or other in written)}
    for other in reversed(read):
        ends = other in chosen and other not in written and last[other] == position
        if ends and chosen[other] not in taken and len(places[other]) == 1 and places[other] == places[name]:
            return chosen[other]
    return None
