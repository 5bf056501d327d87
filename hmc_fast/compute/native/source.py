"""A recording as one C function.

Shapes, strides and memory are known, so that an operation is a nest of loops over constants:

    element-wise     operations over the same elements share a nest; what only they read is never stored
    sum, maximum     accumulated in double
    matrix product   vectors of eight, or of four doubles (`preamble.h`)
    loop             a loop, around all that

A view is nothing but other strides over the same memory.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import torch
from torch import Tensor

from ..recording import Layout, Loop, Operation, Recording, Repeats, Value, numbers
from .operations import C_TYPES, COMPARISONS, EXPRESSIONS, literal, power

__all__ = ["Program", "Untranslatable", "supported", "translate"]


class Untranslatable(Exception):
    """The recording contains what has no translation; the message names it."""


@dataclass(frozen=True)
class Access:
    """An array as one operation sees it. memory: the name of the pointer to it."""

    memory: str
    layout: Layout

    @property
    def shape(self) -> tuple[int, ...]:
        return self.layout.shape

    @property
    def c_type(self) -> str:
        return C_TYPES[self.layout.dtype]

    def strides(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Over the elements of `shape`, to which this array is broadcast."""
        own, missing = self.layout, len(shape) - len(self.shape)
        pairs = zip(own.shape, own.strides, strict=True)
        return (0,) * missing + tuple(0 if size == 1 else stride for size, stride in pairs)

    def place(self, shape: Sequence[int]) -> tuple[Any, ...]:
        """The same for two accesses that see the same number at every element of `shape`."""
        return self.memory, self.layout.dtype, self.layout.offset, self.strides(shape)

    def squeezed(self, shape: Sequence[int]) -> "Access":
        """Broadcast to `shape`, whose dimensions of one element are left out."""
        pairs = [pair for pair in zip(shape, self.strides(shape), strict=True) if pair[0] != 1]
        own = self.layout
        sizes, strides = tuple(size for size, _ in pairs), tuple(stride for _, stride in pairs)
        return Access(self.memory, Layout(sizes, strides, own.offset, own.dtype, own.nbytes))

    def at(self, shape: Sequence[int], indices: Sequence[str]) -> str:
        """The element at `indices` of `shape`."""
        return self.element(self.strides(shape), indices)

    def element(self, strides: Sequence[int], indices: Sequence[str]) -> str:
        terms = [
            f"{i} * {stride}" if stride != 1 else i for i, stride in zip(indices, strides, strict=True) if stride
        ]
        terms += [str(self.layout.offset)] if self.layout.offset or not terms else []
        return f"(({self.c_type} *){self.memory})[{' + '.join(terms)}]"


@dataclass
class Nest:
    """Element-wise operations over the same elements. lines: (result, operands, expression over operands)."""

    shape: tuple[int, ...]
    lines: list[tuple[Access, list[Access], Callable[[list[str]], str]]] = field(default_factory=list)

    @property
    def reads(self) -> set[str]:
        return {access.memory for _, operands, _ in self.lines for access in operands}

    @property
    def writes(self) -> set[str]:
        return {result.memory for result, _, _ in self.lines}

    def takes(self, result: Access, operands: list[Access]) -> bool:
        """Whether a further operation sees every array that is written as it was written: element by element."""
        if result.shape != self.shape:
            return False
        lines = [*((r, o) for r, o, _ in self.lines), (result, operands)]
        written = {r.memory for r, _ in lines}
        places = {a.place(self.shape) for r, o in lines for a in (r, *o) if a.memory in written}
        return len(places) == len(written)


@dataclass
class Block:
    """Anything else: C text, and the memory that it reads and writes."""

    text: list[str]
    reads: set[str]
    writes: set[str]


@dataclass(frozen=True)
class Program:
    """C source of `void run(char **memory, char *workspace, int64_t count, int64_t **repeats, char **results)`.

    memory: of the buffers, in the order of `buffers`. workspace: bytes that the function needs. repeats: of each of
    `loops`, one number per iteration of the whole. results: of the recording, stacked over iterations. work:
    multiplications, or as much, in one round of every loop.
    """

    source: str
    buffers: list[Tensor]
    workspace: int
    loops: list[Repeats]
    results: list[Layout]
    work: int


def translate(recording: Recording, preamble: str) -> Program:
    """Raises Untranslatable."""
    return _Translation(recording).program(preamble)


def supported(function: Any) -> bool:
    """Whether the operation has a translation; others must be replaced by simpler ones."""
    return _name(function) in EXPRESSIONS.keys() | COMPARISONS.keys() | _SPECIAL.keys() | {"pow"}


def _name(function: Any) -> str:
    """Without the mark of an operation in place: both compute the same."""
    name = function._opname
    return name if name.startswith("__") or not name.endswith("_") else name[:-1]


class _Translation:
    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.memory: dict[int, str] = {}  # of buffers, by storage
        self.buffers: list[Tensor] = []
        self.temporaries: dict[str, int] = {}  # bytes
        self.loops: list[Repeats] = []
        self.labels = count()
        self.work = 0

    def program(self, preamble: str) -> Program:
        units = self.units(self.recording)
        results = [
            self.access(self.recording, number, self.recording.layouts) for number in numbers(self.recording.result)
        ]
        for place, result in enumerate(results):
            units.append(_result(place, result))
        body = self.text(units, {result.memory for result in results}, "        ")
        workspace, lines = 0, []
        for name, size in self.temporaries.items():
            lines.append(f"    char *restrict {name} = workspace + {workspace};")
            workspace += -(-max(size, 1) // 64) * 64
        lines = [f"    char *restrict b{i} = memory[{i}];" for i in range(len(self.buffers))] + lines
        source = "\n".join(
            [
                preamble,
                "void run(char **memory, char *workspace, int64_t count, int64_t **repeats, char **results) {",
                *lines,
                "    for (int64_t iteration = 0; iteration < count; iteration++) {",
                *body,
                "    }",
                "}",
                "",
            ]
        )
        return Program(
            source, self.buffers, workspace, self.loops, [result.layout for result in results], self.work
        )

    # --- memory ---

    def access(self, recording: Recording, number: int, layouts: dict[int, Layout]) -> Access:
        layout = layouts[number]
        if layout.dtype not in C_TYPES:
            raise Untranslatable(f"numbers of type {layout.dtype}")
        root = recording.roots[number]
        if root in recording.buffers:
            storage = recording.buffers[root].untyped_storage()
            if storage._cdata not in self.memory:
                self.memory[storage._cdata] = f"b{len(self.buffers)}"
                self.buffers.append(recording.buffers[root])
            return Access(self.memory[storage._cdata], layout)
        name = f"t{root}"
        self.temporaries.setdefault(name, layout.nbytes)
        return Access(name, layout)

    def temporary(self, shape: tuple[int, ...], dtype: torch.dtype) -> Access:
        """A new dense array."""
        strides, size = [], 1
        for length in reversed(shape):
            strides.append(size)
            size *= length
        nbytes = size * dtype.itemsize
        name = f"s{next(self.labels)}"
        self.temporaries[name] = nbytes
        return Access(name, Layout(shape, tuple(reversed(strides)), 0, dtype, nbytes))

    # --- operations ---

    def units(self, recording: Recording) -> list[Any]:
        """Nests, blocks and loops, in an order that does what the recording does."""
        units: list[Any] = []
        for step in recording.operations:
            if isinstance(step, Loop):
                self.loops.append(step.repeats)
                units.append((len(self.loops) - 1, self.units(step.body)))
            elif step.writes or any(recording.roots[number] == number for number in numbers(step.result)):
                self.operation(recording, step, units)  # anything else is a view
        return units

    def operation(self, recording: Recording, step: Operation, units: list[Any]) -> None:
        name = _name(step.function)
        if name in _SPECIAL:
            _SPECIAL[name](self, recording, step, units)
            return
        template = EXPRESSIONS.get(name) or COMPARISONS.get(name)
        if name == "pow":
            template = power(step.args[1]) if not isinstance(step.args[1], Value) else "powF({0}, {1})"
        if template is None or step.kwargs.get("rounding_mode") is not None:
            raise Untranslatable(f"operation {step.function}")
        (number,) = numbers(step.result)
        result = self.access(recording, number, step.layouts)
        operands = list(step.args)
        alpha, value = step.kwargs.get("alpha", 1), step.kwargs.get("value", 1)
        if alpha != 1:
            template = template.replace("{1}", f"{literal(alpha, result.layout.dtype)} * {{1}}")
        if value != 1:
            template = template.replace("{1}", f"{literal(value, result.layout.dtype)} * {{1}}")
        if name == "copy":
            operands = operands[1:2]
        elif template == "{0}":
            operands = operands[:1]
        self.elementwise(recording, step, template, result, operands, units, where=name == "where")

    def elementwise(
        self,
        recording: Recording,
        step: Operation,
        template: str,
        result: Access,
        operands: list[Any],
        units: list[Any],
        *,
        where: bool = False,
    ) -> None:
        """result = template(operands), which are values or Python numbers."""
        accesses = [self.access(recording, o.number, step.layouts) if isinstance(o, Value) else o for o in operands]
        kind = result.layout.dtype
        arrays = [a for a in accesses if isinstance(a, Access)]
        if arrays and (template in COMPARISONS.values() or template == "{0}"):
            kind = _promoted(accesses)
        if kind == torch.bool and template in EXPRESSIONS.values() and "~" in template:
            template = "!{0}"
        if "F(" in template and not kind.is_floating_point:
            if template not in _OF_INTEGERS:
                raise Untranslatable(f"{template} of {kind}")
            template = _OF_INTEGERS[template]
        template = template.replace("F(", "f(" if kind == torch.float32 else "(")

        def expression(values: list[str]) -> str:
            given, found = iter(values), []
            for place, access in enumerate(accesses):
                if not isinstance(access, Access):
                    found.append(literal(access, kind))
                elif where and place == 0:
                    found.append(next(given))
                else:
                    given_value = next(given)
                    found.append(
                        given_value if access.layout.dtype == kind else f"(({C_TYPES[kind]}){given_value})"
                    )
            text = template.format(*found)
            return f"(({text}) != 0)" if result.layout.dtype == torch.bool and kind != torch.bool else text

        self.add(result, arrays, expression, units)

    def add(
        self, result: Access, operands: list[Access], expression: Callable[[list[str]], str], units: list[Any]
    ) -> None:
        """Adds an element-wise operation to the last nest that it may join."""
        shape = result.shape
        self.work += math.prod(shape)
        result, operands = result.squeezed(shape), [operand.squeezed(shape) for operand in operands]
        for operand in operands:
            if operand.memory == result.memory and operand.place(result.shape) != result.place(result.shape):
                copy = self.temporary(result.shape, operand.layout.dtype)
                self.add(copy, [operand], lambda values: values[0], units)
                operands = [copy if other is operand else other for other in operands]
        reads = {operand.memory for operand in operands}
        for unit in reversed(units):
            if isinstance(unit, Nest) and unit.takes(result, operands):
                unit.lines.append((result, operands, expression))
                return
            read, written = _touched(unit)
            if written & (reads | {result.memory}) or result.memory in read:
                break
        units.append(Nest(result.shape, [(result, operands, expression)]))

    # --- text ---

    def text(self, units: list[Any], used: set[str], indent: str) -> list[str]:
        """Lines of C. used: temporary memory that is read afterwards; what nobody reads is left out."""
        used, reversed_parts = set(used), []
        for unit in reversed(units):
            if isinstance(unit, tuple):
                place, inner = unit
                part = [
                    f"{indent}for (int64_t l{place} = 0, n = repeats[{place}][iteration]; l{place} < n; l{place}++) {{",
                    *self.text(inner, set(), indent + "    "),
                    f"{indent}}}",
                ]
            elif isinstance(unit, Block):
                if not (unit.writes & used or any(name.startswith("b") for name in unit.writes)):
                    continue
                part = [indent + line for line in unit.text]
                used |= unit.reads
            else:
                part = self.nest(unit, used, indent)
            reversed_parts.append(part)
        return [line for part in reversed(reversed_parts) for line in part]

    def nest(self, nest: Nest, used: set[str], indent: str) -> list[str]:
        """Adds what it reads to `used`."""
        shape, stored = nest.shape, used | {memory for memory in nest.writes if memory.startswith("b")}
        needed, wanted, stores, seen = [], set(stored), set(), set()
        for line in reversed(nest.lines):
            result, operands, _ = line
            if result.memory in wanted:
                needed.append(line)
                wanted |= {operand.memory for operand in operands}
                if result.memory in stored and result.place(shape) not in seen:  # not overwritten in the same nest
                    stores.add(len(needed) - 1)
                    seen.add(result.place(shape))
        used |= {operand.memory for _, operands, _ in needed for operand in operands}
        lines: list[str] = []
        accesses = {a for result, operands, _ in needed for a in (result, *operands)}
        sizes, strides = _collapsed(shape, accesses)
        names: dict[tuple[Any, ...], str] = {}
        indices = [f"i{d}" for d in range(len(sizes))]
        inner = indent + "    " * len(sizes)
        for place, (result, operands, expression) in reversed(list(enumerate(needed))):
            values = []
            for access in operands:
                key = access.place(shape)
                if key not in names:
                    names[key] = f"v{next(self.labels)}"
                    element = access.element(strides[access], indices)
                    lines.append(f"{inner}const {access.c_type} {names[key]} = {element};")
                values.append(names[key])
            name = f"v{next(self.labels)}"
            lines.append(f"{inner}const {result.c_type} {name} = {expression(values)};")
            for key in [key for key in names if key[0] == result.memory]:
                del names[key]
            names[result.place(shape)] = name
            if place in stores:
                lines.append(f"{inner}{result.element(strides[result], indices)} = {name};")
        if not lines:
            return []
        opening, closing = _loops(sizes, indices, indent)
        return [f"{indent}{{", *opening, *lines, *closing, f"{indent}}}"]


_OF_INTEGERS = {
    EXPRESSIONS["abs"]: "{0} < 0 ? -{0} : {0}",
    EXPRESSIONS["remainder"]: "({0} % {1} + {1}) % {1}",
}


def _promoted(operands: Sequence[Any]) -> torch.dtype:
    """The type in which torch computes with these."""
    like = [
        torch.empty((1,) if o.shape else (), dtype=o.layout.dtype, device="meta") if isinstance(o, Access) else o
        for o in operands
    ]
    kind = like[0]
    for other in like[1:]:
        kind = torch.empty((1,), dtype=torch.result_type(kind, other), device="meta")
    assert isinstance(kind, Tensor)
    return kind.dtype


def _touched(unit: Any) -> tuple[set[str], set[str]]:
    """The memory that a unit reads, and that it writes."""
    if isinstance(unit, tuple):
        inner = [_touched(part) for part in unit[1]]
        return set().union(*(reads for reads, _ in inner)), set().union(*(writes for _, writes in inner))
    return unit.reads, unit.writes


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


def _loops(sizes: Sequence[int], indices: Sequence[str], indent: str) -> tuple[list[str], list[str]]:
    """Opening and closing lines of a nest; the innermost loop is vectorised."""
    opening, closing = [], []
    for depth, (size, index) in enumerate(zip(sizes, indices, strict=True)):
        inner = indent + "    " * depth
        if depth == len(sizes) - 1:
            opening.append("#pragma omp simd")
        opening.append(f"{inner}for (int64_t {index} = 0; {index} < {size}; {index}++) {{")
        closing.append(f"{inner}}}")
    return opening, closing[::-1]


def _result(place: int, value: Access) -> Block:
    """Copies a result to its place among those of all iterations, dense."""
    shape = value.shape
    indices = [f"i{d}" for d in range(len(shape))]
    size, strides = 1, []
    for length in reversed(shape):
        strides.append(size)
        size *= length
    to = " + ".join(["iteration * " + str(size), *(f"{i} * {s}" for i, s in zip(indices, reversed(strides)))])
    loops = [f"for (int64_t {i} = 0; {i} < {n}; {i}++)" for i, n in zip(indices, shape)]
    text = " ".join([*loops, f"(({value.c_type} *)results[{place}])[{to}] = {value.at(shape, indices)};"])
    return Block([text], {value.memory}, {"b-result"})


# --- operations that are not element by element ---


def _fill(t: _Translation, recording: Recording, step: Operation, units: list[Any]) -> None:
    """full, zeros, ones, fill_ and zero_, whose value is at another place in each."""
    name, (number,) = _name(step.function), numbers(step.result)
    value: Any = 1 if name.startswith("ones") else 0
    if name in ("full", "full_like", "new_full", "fill"):
        value = step.args[1] if name != "new_full" else step.args[2]
    elif name == "scalar_tensor":
        value = step.args[0]
    t.elementwise(recording, step, "{0}", t.access(recording, number, step.layouts), [value], units)


def _nothing(t: _Translation, recording: Recording, step: Operation, units: list[Any]) -> None:
    """Memory whose contents do not matter."""


def _arange(t: _Translation, recording: Recording, step: Operation, units: list[Any]) -> None:
    (number,) = numbers(step.result)
    result = t.access(recording, number, step.layouts)
    start, pace = 0, 1
    if len(step.args) > 1:
        start, pace = step.args[0], step.args[2] if len(step.args) > 2 else 1
    dtype = result.layout.dtype
    text = f"{result.at(result.shape, ['i'])} = {literal(start, dtype)} + i * {literal(pace, dtype)};"
    units.append(Block([f"for (int64_t i = 0; i < {result.shape[0]}; i++) {text}"], set(), {result.memory}))


def _join(t: _Translation, recording: Recording, step: Operation, units: list[Any]) -> None:
    """cat and stack: copies into parts of the result."""
    (number,) = numbers(step.result)
    result, stacked = t.access(recording, number, step.layouts), _name(step.function) == "stack"
    rank = len(result.shape)
    dim = (step.args[1] if len(step.args) > 1 else step.kwargs.get("dim", 0)) % rank
    begin = 0
    for given in step.args[0]:
        part = t.access(recording, given.number, step.layouts)
        length = 1 if stacked else part.shape[dim]
        layout = result.layout
        shape = list(layout.shape)
        shape[dim] = length
        offset = layout.offset + begin * layout.strides[dim]
        strides = layout.strides
        if stacked:  # without the new dimension
            del shape[dim]
            strides = strides[:dim] + strides[dim + 1 :]
        place = Access(result.memory, Layout(tuple(shape), strides, offset, layout.dtype, layout.nbytes))
        kind = place.c_type
        t.add(place, [part], lambda values, kind=kind: f"({kind}){values[0]}", units)
        begin += length


def _part_backward(t: _Translation, recording: Recording, step: Operation, units: list[Any]) -> None:
    """slice_backward and select_backward: zero except for one part."""
    (number,) = numbers(step.result)
    result, grad = t.access(recording, number, step.layouts), t.access(recording, step.args[0].number, step.layouts)
    layout, dim = result.layout, step.args[2] % len(result.shape)
    t.elementwise(recording, step, "{0}", result, [0], units)
    start, pace = step.args[3], step.args[5] if len(step.args) > 5 else 1
    start += layout.shape[dim] if start < 0 else 0
    strides = list(layout.strides)
    if _name(step.function) == "select_backward":
        del strides[dim]
    else:
        strides[dim] *= pace
    offset = layout.offset + start * layout.strides[dim]
    part = Access(result.memory, Layout(grad.shape, tuple(strides), offset, layout.dtype, layout.nbytes))
    t.add(part, [grad], lambda values: values[0], units)


def _reduce(t: _Translation, recording: Recording, step: Operation, units: list[Any]) -> None:
    """sum, mean, amax and amin, over some or all dimensions."""
    name, (number,) = _name(step.function), numbers(step.result)
    result, given = (
        t.access(recording, number, step.layouts),
        t.access(recording, step.args[0].number, step.layouts),
    )
    rank = len(given.shape)
    dims = step.args[1] if len(step.args) > 1 and isinstance(step.args[1], (list, tuple)) else None
    reduced = {d % rank for d in dims} if dims else set(range(rank))
    own = iter(result.layout.strides)
    keeps_rank = len(result.shape) == rank
    strides = tuple(next(own) if keeps_rank or d not in reduced else 0 for d in range(rank))
    layout = Layout(tuple(1 if d in reduced else n for d, n in enumerate(given.shape)), strides, *_where(result))
    kept = Access(result.memory, layout)
    indices = [f"i{d}" for d in range(rank)]
    outer = [d for d in range(rank) if d not in reduced and given.shape[d] > 1]
    inner = [d for d in sorted(reduced) if given.shape[d] > 1]
    floating = given.layout.dtype.is_floating_point
    kind = "double" if floating else "int64_t"
    start = {"amax": "-INFINITY", "amin": "INFINITY"}.get(name, "0")
    value = given.at(given.shape, indices)
    accumulate = {
        "amax": "acc = {v} > acc || {v} != {v} ? {v} : acc;",
        "amin": "acc = {v} < acc || {v} != {v} ? {v} : acc;",
    }
    if name in accumulate and not floating:
        raise Untranslatable(f"{name} of integers")
    line = accumulate.get(name, "acc += {v};")
    scale = 1
    for d in reduced:
        scale *= given.shape[d]
    final = f"acc / {scale}" if name == "mean" else "acc"
    text = ["{"]
    # The dimension with neighbouring elements goes innermost; if it is kept, so are its sums.
    wide = outer and inner and given.strides(given.shape)[outer[-1]] == 1 and given.shape[outer[-1]] <= 4096
    loop = "for (int64_t {i} = 0; {i} < {n}; {i}++)"
    loops = lambda ds: [loop.format(i=indices[d], n=given.shape[d]) for d in ds]  # noqa: E731
    store = f"{kept.at(given.shape, indices)} = {final};"
    if wide:
        last = outer[-1]
        n, i = given.shape[last], indices[last]
        text += [*loops(outer[:-1]), "{", f"{kind} sums[{n}];", f"{loop.format(i=i, n=n)} sums[{i}] = {start};"]
        text += [*loops(inner), "{", "#pragma omp simd", f"{loop.format(i=i, n=n)} {{"]
        text += [
            f"{kind} acc = sums[{i}];",
            f"const {given.c_type} v = {value};",
            line.format(v="v"),
            f"sums[{i}] = acc;",
        ]
        text += ["}", "}", f"{loop.format(i=i, n=n)} {{ const {kind} acc = sums[{i}]; {store} }}", "}"]
    else:
        text += [*loops(outer), "{", f"{kind} acc = {start};"]
        simd = ["#pragma omp simd reduction(+:acc)"] if inner and line == "acc += {v};" else []
        text += [*loops(inner[:-1]), "{", *simd, *loops(inner[-1:])]
        text += ["{", f"const {given.c_type} v = {value};", line.format(v="v"), "}", "}", store, "}"]
    units.append(Block([*text, "}"], {given.memory}, {kept.memory}))


def _where(access: Access) -> tuple[int, torch.dtype, int]:
    return access.layout.offset, access.layout.dtype, access.layout.nbytes


def _product(t: _Translation, recording: Recording, step: Operation, units: list[Any]) -> None:
    """mm, bmm, mv and dot."""
    (number,) = numbers(step.result)
    a, b = (t.access(recording, v.number, step.layouts) for v in step.args[:2])
    c = t.access(recording, number, step.layouts)
    if c.layout.dtype not in (torch.float32, torch.float64):
        raise Untranslatable(f"matrix product of {c.layout.dtype}")
    batch, (m, k), n = a.shape[0] if len(a.shape) == 3 else 1, a.shape[-2:], b.shape[-1]
    t.work += batch * m * n * k

    def strides(access: Access) -> tuple[int, int, int]:
        own = tuple(0 if size == 1 else s for size, s in zip(access.shape, access.layout.strides, strict=True))
        return own if len(own) == 3 else (0, *own)  # type: ignore[return-value]

    (ab, ai, ak), (bb, bk, bj), (cb, ci, cj) = strides(a), strides(b), strides(c)
    if n == 1 and ab == 0 and batch > 1:  # one matrix times several vectors is one product
        batch, n, bj, cj = 1, batch, bb, cb
    if m == 1 and bb == 0 and batch > 1:
        batch, m, ai, ci = 1, batch, ab, cb
    kind = a.c_type
    named = (("a", a), ("b", b), ("c", c))
    lines = [f"{kind} *{name} = ({kind} *){x.memory} + {x.layout.offset};" for name, x in named]
    loop = [] if batch == 1 else [f"for (int64_t g = 0; g < {batch}; g++, a += {ab}, b += {bb}, c += {cb})"]
    call = _product_call(t, a.layout.dtype, (m, n, k), ("a", ai, ak), ("b", bj, bk), (ci, cj))
    units.append(Block(["{", *lines, *loop, *call, "}"], {a.memory, b.memory}, {c.memory}))


def _product_call(
    t: _Translation,
    dtype: torch.dtype,
    sizes: tuple[int, int, int],
    a: tuple[str, int, int],
    b: tuple[str, int, int],
    c: tuple[int, int],
) -> list[str]:
    """C (m, n) = A (m, k) B (k, n), computed in vectors of neighbours: within k, if one factor is a vector, or over
    the columns of C. a, b: name, stride over m or n, stride over k. c: strides over m and n."""
    (m, n, k), kind = sizes, C_TYPES[dtype]
    width = 32 // dtype.itemsize

    def cost(m: int, n: int, a: tuple[str, int, int], b: tuple[str, int, int], c: tuple[int, int]) -> float:
        """About how many vector operations."""
        if n == 1 and a[2] == 1:
            return m * k / width
        copies = 0 if b[1] == 1 and n >= width else k * max(n, width)
        return m * k * math.ceil(n / width) + copies + (0 if c[1] == 1 else m * n)

    if cost(n, m, b, a, c[::-1]) < cost(m, n, a, b, c):
        m, n, a, b, c = n, m, b, a, c[::-1]  # the transpose
    pack = []
    if n == 1 and a[2] == 1:
        if b[2] != 1 and k > 1:
            panel = t.temporary((k,), dtype)
            vector = f"({kind} *){panel.memory}"
            pack = [f"for (int64_t p = 0; p < {k}; p++) ({vector})[p] = {b[0]}[p * {b[2]}];"]
        else:
            vector = b[0]
        return ["{", *pack, f"dots_{kind}({m}, {k}, {a[0]}, {a[1]}, {vector}, c, {c[0]});", "}"]
    name, row = b[0], b[2]
    if b[1] != 1 or n < width:
        row = max(n, width)
        panel = t.temporary((k, row), dtype)
        name = f"({kind} *){panel.memory}"
        element = f"j < {n} ? {b[0]}[p * {b[2]} + j * {b[1]}] : 0"
        loops = f"for (int64_t p = 0; p < {k}; p++) for (int64_t j = 0; j < {row}; j++)"
        pack = [f"{loops} ({name})[p * {row} + j] = {element};"]
    call = f"product_{kind}({m}, {n}, {k}, {a[0]}, {a[1]}, {a[2]}, {name}, {row}, c, {c[0]}, {c[1]});"
    return ["{", *pack, call, "}"]


def _gather(t: _Translation, recording: Recording, step: Operation, units: list[Any]) -> None:
    """out[.., i, ..] = x[.., index[.., i, ..], ..], and scatter_add, its transpose."""
    name, (number,) = _name(step.function), numbers(step.result)
    result = t.access(recording, number, step.layouts)
    x, index = (
        t.access(recording, step.args[0].number, step.layouts),
        t.access(recording, step.args[2].number, step.layouts),
    )
    dim = step.args[1] % max(1, len(index.shape))
    indices = [f"i{d}" for d in range(len(index.shape))]
    loops = [f"for (int64_t {i} = 0; {i} < {n}; {i}++)" for i, n in zip(indices, index.shape, strict=True)]
    chosen = [index.at(index.shape, indices) if d == dim else i for d, i in enumerate(indices)]
    if name == "gather":
        text = f"{result.at(index.shape, indices)} = {x.at(x.shape, chosen)};"
        units.append(Block([*loops, text], {x.memory, index.memory}, {result.memory}))
        return
    source = t.access(recording, step.args[3].number, step.layouts)
    if x.memory != result.memory:
        t.add(result, [x], lambda values: values[0], units)
    text = f"{result.at(result.shape, chosen)} += {source.at(source.shape, indices)};"
    units.append(Block([*loops, text], {source.memory, index.memory, result.memory}, {result.memory}))


def _index(t: _Translation, recording: Recording, step: Operation, units: list[Any]) -> None:
    """x[.., indices, ..]: elements of x by neighbouring dimensions of integers."""
    (number,) = numbers(step.result)
    result, x = t.access(recording, number, step.layouts), t.access(recording, step.args[0].number, step.layouts)
    given = [None if i is None else t.access(recording, i.number, step.layouts) for i in step.args[1]]
    dims = [d for d, index in enumerate(given) if index is not None]
    chosen = [index for index in given if index is not None]
    first, rank = dims[0], max(len(index.shape) for index in chosen)
    if dims != list(range(first, first + len(dims))) or any(i.layout.dtype == torch.bool for i in chosen):
        raise Untranslatable("indexing by masks, or by dimensions apart")
    indices = [f"i{d}" for d in range(len(result.shape))]
    middle, shape = indices[first : first + rank], result.shape[first : first + rank]
    into = list(indices[:first])
    for index, size in zip(chosen, x.shape[first:], strict=False):
        element = index.at(shape, middle)
        into.append(f"({element} < 0 ? {element} + {size} : {element})")
    into += indices[first + rank :]
    loops = [f"for (int64_t {i} = 0; {i} < {n}; {i}++)" for i, n in zip(indices, result.shape, strict=True)]
    text = f"{result.at(result.shape, indices)} = {x.at(x.shape, into)};"
    units.append(Block([*loops, text], {x.memory, *(index.memory for index in chosen)}, {result.memory}))


_SPECIAL: dict[str, Callable[[_Translation, Recording, Operation, list[Any]], None]] = {
    **dict.fromkeys(("full", "full_like", "new_full", "fill", "zero", "zeros", "zeros_like", "new_zeros"), _fill),
    **dict.fromkeys(("ones", "ones_like", "new_ones", "scalar_tensor"), _fill),
    **dict.fromkeys(("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "detach"), _nothing),
    **dict.fromkeys(("squeeze", "unsqueeze", "t", "transpose"), _nothing),  # in place; otherwise they are views
    "arange": _arange,
    **dict.fromkeys(("cat", "stack"), _join),
    **dict.fromkeys(("slice_backward", "select_backward"), _part_backward),
    **dict.fromkeys(("sum", "mean", "amax", "amin"), _reduce),
    **dict.fromkeys(("mm", "bmm"), _product),
    **dict.fromkeys(("gather", "scatter_add"), _gather),
    "index": _index,
}
