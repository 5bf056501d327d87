"""What a function consists of, and how that reads in C: nests of element-wise loops, blocks, rounds of a loop.

A unit tells which memory it reads and writes. Memory whose name begins with "b" is a buffer, which the caller sees;
anything else is temporary, and what nobody reads of it is not computed.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from .arrays import Access

__all__ = ["PARALLEL_OPERATIONS", "Block", "Expression", "Nest", "Rounds", "Unit", "parts"]

# From this many lines of C on, some 5 us of one thread, a nest is shared among threads (1 to 2 us).
PARALLEL_OPERATIONS = 100_000
_BLOCK = 4096  # elements
_LONG_ROW = 128  # elements, after which the rest of a row does not matter

Expression = Callable[[list[str]], str]  # of the operands' names


@dataclass
class Nest:
    """Element-wise operations over the same elements, in one nest of loops; what only they read is never stored.

    translated: those that `lines` found to be needed.
    """

    shape: tuple[int, ...]
    operations: list[tuple[Access, list[Access], Expression]] = field(default_factory=list)
    translated: list[tuple[Access, list[Access], Expression]] = field(default_factory=list)

    @property
    def reads(self) -> set[str]:
        return {access.memory for _, operands, _ in self.operations for access in operands}

    @property
    def writes(self) -> set[str]:
        return {result.memory for result, _, _ in self.operations}

    def takes(self, result: Access, operands: list[Access], *, costly: bool) -> bool:
        """Whether a further operation sees every array that is written as it was written, element by element; and
        whether it would not lose by it: of short rows that are no whole vectors the rest is computed one by one."""
        if result.shape != self.shape:
            return False
        operations = [*((r, o) for r, o, _ in self.operations), (result, operands)]
        written = {r.memory for r, _ in operations}
        places = {a.place(self.shape) for r, o in operations for a in (r, *o) if a.memory in written}
        if len(places) != len(written):
            return False
        if costly and len(_collapsed(self.shape, (result, *operands))[0]) == 1:
            sizes, _ = _collapsed(self.shape, {a for r, o in operations for a in (r, *o)})
            return len(sizes) == 1 or sizes[-1] >= _LONG_ROW or sizes[-1] % 8 == 0
        return True

    def lines(self, used: set[str], indent: str) -> list[str]:
        needed, stores = self._needed(used)
        self.translated = needed[::-1]
        used |= {operand.memory for _, operands, _ in needed for operand in operands}
        sizes, strides = _collapsed(self.shape, {a for r, o, _ in needed for a in (r, *o)})
        indices, labels = [f"i{d}" for d in range(len(sizes))], count()
        names: dict[tuple[Any, ...], str] = {}  # of the values that are known, by place
        body: list[str] = []
        for place, (result, operands, expression) in reversed(list(enumerate(needed))):
            for access in operands:
                key = access.place(self.shape)
                if key not in names:
                    names[key] = f"v{next(labels)}"
                    element = access.element(strides[access], indices)
                    body.append(f"const {access.c_type} {names[key]} = {element};")
            name = f"v{next(labels)}"
            values = [names[access.place(self.shape)] for access in operands]
            body.append(f"const {result.c_type} {name} = {expression(values)};")
            names[result.place(self.shape)] = name
            if place in stores:
                body.append(f"{result.element(strides[result], indices)} = {name};")
        if not body:
            return []
        opening, closing = _loops(sizes, indices, indent, len(body))
        return [
            f"{indent}{{",
            *opening,
            *(indent + "    " * len(sizes) + line for line in body),
            *closing,
            f"{indent}}}",
        ]

    def _needed(self, used: set[str]) -> tuple[list[tuple[Access, list[Access], Expression]], set[int]]:
        """The operations that matter, last one first, and which of them store their result."""
        stored = used | {memory for memory in self.writes if memory.startswith("b")}
        needed, wanted, stores, seen = [], set(stored), set(), set()
        for operation in reversed(self.operations):
            result, operands, _ = operation
            if result.memory in wanted:
                needed.append(operation)
                wanted |= {operand.memory for operand in operands}
                if result.memory in stored and result.memory not in seen:  # else overwritten in the same nest
                    stores.add(len(needed) - 1)
                    seen.add(result.memory)
        return needed, stores


@dataclass
class Block:
    """Anything else: lines of C, and the memory that they read and write."""

    text: list[str]
    reads: set[str]
    writes: set[str]

    def lines(self, used: set[str], indent: str) -> list[str]:
        if not (self.writes & used or any(name.startswith("b") for name in self.writes)):
            return []
        used |= self.reads
        return [indent + line for line in self.text]


@dataclass
class Rounds:
    """A loop that goes round as often as `repeats[place]` says."""

    place: int
    body: "list[Unit]"

    @property
    def reads(self) -> set[str]:
        return set().union(*(unit.reads for unit in self.body))

    @property
    def writes(self) -> set[str]:
        return set().union(*(unit.writes for unit in self.body))

    def lines(self, indent: str) -> tuple[str, str]:
        index, number = f"l{self.place}", f"repeats[{self.place}][iteration]"
        return f"{indent}for (int64_t {index} = 0, n = {number}; {index} < n; {index}++) {{", f"{indent}}}"


Unit = Nest | Block | Rounds


def parts(units: "list[Unit]", used: set[str], indent: str) -> "list[tuple[Unit, list[str]]]":
    """The lines of C of every unit, those in a loop between its opening and its closing line. used: the temporary
    memory that is read afterwards; what is read here joins it."""
    found: list[tuple[Unit, list[str]]] = []
    for unit in reversed(units):
        if isinstance(unit, Rounds):
            opening, closing = unit.lines(indent)
            body = parts(unit.body, set(), indent + "    ")  # only buffers outlast it
            found = [(unit, [opening]), *body, (unit, [closing]), *found]
        else:
            found = [(unit, unit.lines(used, indent)), *found]
    return found


def _collapsed(
    shape: tuple[int, ...], accesses: Iterable[Access]
) -> tuple[list[int], dict[Access, tuple[int, ...]]]:
    """Sizes and strides with as few dimensions as all accesses allow."""
    accesses = list(accesses)
    sizes: list[int] = []
    strides: dict[Access, list[int]] = {access: [] for access in accesses}
    for d, size in enumerate(shape):
        if size == 1:
            continue
        own = {access: access.strides(shape)[d] for access in accesses}
        if sizes and all(strides[a][-1] == own[a] * size for a in accesses):
            sizes[-1] *= size
            for a in accesses:
                strides[a][-1] = own[a]
            continue
        sizes.append(size)
        for a in accesses:
            strides[a].append(own[a])
    return sizes, {access: tuple(found) for access, found in strides.items()}


def _loops(
    sizes: Sequence[int], indices: Sequence[str], indent: str, operations: int
) -> tuple[list[str], list[str]]:
    """Opening and closing lines of a nest: the innermost loop is vectorised, the others shared among threads."""
    opening, closing = [], []
    parallel = math.prod(sizes) * operations >= PARALLEL_OPERATIONS
    if parallel and len(sizes) == 1:  # in blocks of whole vectors, for the same rounding with any number of threads
        (size,), (index,) = sizes, indices
        opening = [
            "#pragma omp parallel for num_threads(threads)",
            f"{indent}for (int64_t block = 0; block < {size}; block += {_BLOCK}) {{",
            f"{indent}const int64_t end = block + {_BLOCK} < {size} ? block + {_BLOCK} : {size};",
            "#pragma omp simd",
            f"{indent}for (int64_t {index} = block; {index} < end; {index}++) {{",
        ]
        return opening, [f"{indent}}}", f"{indent}}}"]
    if parallel:
        opening.append(f"#pragma omp parallel for collapse({len(sizes) - 1}) num_threads(threads)")
    for depth, (size, index) in enumerate(zip(sizes, indices, strict=True)):
        inner = indent + "    " * depth
        if depth == len(sizes) - 1:
            opening.append("#pragma omp simd")
        opening.append(f"{inner}for (int64_t {index} = 0; {index} < {size}; {index}++) {{")
        closing.append(f"{inner}}}")
    return opening, closing[::-1]
