"""A recording as one C function.

Shapes, strides and memory are known, so that an operation is a nest of loops over constants:

    element-wise     operations over the same elements share a nest (`units.py`)
    sum, maximum     accumulated in double (`reductions.py`)
    matrix product   tiles of C in registers (`products.py`)
    loop             a loop, around all that

A view is nothing but other strides over the same memory.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..recording import Layout, Loop, Recording, Repeats, numbers
from . import indexing, products
from .allocation import TEMPORARY, allocate
from .arrays import Access, dense, loops
from .elementwise import elementwise, fill
from .operations import COMPARISONS, EXPRESSIONS
from .reductions import accumulate, reduce
from .scope import Call, Memory, Scope, Untranslatable
from .units import Block, Rounds, parts

__all__ = ["ALIGNMENT", "Program", "supported", "translate"]

ALIGNMENT = 64  # bytes: a cache line


@dataclass(frozen=True)
class Program:
    """C source of `void run(char **memory, char *workspace, int64_t count, int64_t **repeats, char **results,
    int threads)`.

    memory: of the buffers, in the order of `buffers`. workspace: bytes that the function needs, aligned to a cache
    line. repeats: of each of `loops`, one number per iteration of the whole. results: of the recording, stacked
    over iterations. work: multiplications, or as much, in one round of every loop.
    """

    source: str
    buffers: list[Tensor]
    workspace: int
    loops: list[Repeats]
    results: list[Layout]
    work: int


def translate(recording: Recording, preamble: str) -> Program:
    """Raises Untranslatable."""
    scope, loops = Scope(Memory()), []  # type: ignore[var-annotated]
    _translate(recording, scope, loops)
    results = [scope.memory.access(recording, number, recording.layouts) for number in numbers(recording.result)]
    scope.units += [_copied(place, result) for place, result in enumerate(results)]
    _refuse_overlap(scope.memory)
    found = parts(scope.units, set(), " " * 8)
    slots, sizes = allocate(found, scope.memory.temporaries)
    body = [TEMPORARY.sub(lambda name: slots[name[0]], line) for _, lines in found for line in lines]
    workspace, pointers = 0, [f"char *restrict b{i} = memory[{i}];" for i in range(len(scope.memory.buffers))]
    for place, size in enumerate(sizes):
        pointers.append(f"char *restrict m{place} = workspace + {workspace};")
        workspace += -(-max(size, 1) // ALIGNMENT) * ALIGNMENT
    source = [
        f"#define VECTOR_BYTES {products.VECTOR_BYTES}",
        f"#define PANEL_DEPTH {products.PANEL_DEPTH}",
        preamble,
        "void run(char **memory, char *workspace, int64_t count, int64_t **repeats, char **results, int threads) {",
        *("    " + pointer for pointer in pointers),
        "    for (int64_t iteration = 0; iteration < count; iteration++) {",
        *body,
        "    }",
        "}\n",
    ]
    buffers = list(scope.memory.buffers.values())
    return Program("\n".join(source), buffers, workspace, loops, [r.layout for r in results], scope.work)


def supported(function: Any) -> bool:
    """Whether the operation has a translation; others must be replaced by simpler ones."""
    return _name(function) in EXPRESSIONS.keys() | COMPARISONS.keys() | _SPECIAL.keys() | {"pow"}


def _name(function: Any) -> str:
    """Without the mark of an operation in place: both compute the same."""
    name = str(function._opname)
    if function.namespace != "aten":
        return _PRIMS.get(name, f"{function.namespace}.{name}")
    return name if name.startswith("__") or not name.endswith("_") else name[:-1]


def _translate(recording: Recording, scope: Scope, loops: list[Repeats]) -> None:
    for step in recording.operations:
        if isinstance(step, Loop):
            loops.append(step.repeats)
            body, place = Scope(scope.memory), len(loops) - 1
            _translate(step.body, body, loops)
            scope.units.append(Rounds(place, body.units))
            scope.work += body.work
        elif step.writes or any(recording.roots[number] == number for number in numbers(step.result)):
            name = _name(step.function)
            translated = _SPECIAL.get(name, elementwise)
            if translated is not None:
                translated(scope, Call.of(step, name, recording, scope.memory))
        # anything else is a view


def _copied(place: int, value: Access) -> Block:
    """Copies a result to its place among those of all iterations, dense."""
    shape, to = value.shape, dense(value.shape, value.dtype)
    indices = [f"i{d}" for d in range(len(shape))]
    begin = f"iteration * {to.nbytes // value.dtype.itemsize}"
    index = " + ".join([begin, *(f"{i} * {stride}" for i, stride in zip(indices, to.strides, strict=True))])
    text = f"(({value.c_type} *)results[{place}])[{index}] = {value.at(shape, indices)};"
    return Block([" ".join([*loops(shape, indices), text])], {value.memory}, {"b-result"})


def _refuse_overlap(memory: Memory) -> None:
    """The compiler is told that no two pointers lead to the same memory."""
    end = 0
    for address, buffer in sorted(memory.buffers.items()):
        if address < end:
            raise Untranslatable("two buffers that share memory")
        end = address + buffer.untyped_storage().nbytes()


_PRIMS = {"copy_to": "copy", "fmod": "fmod"}  # which torch's decompositions call under another name

_SPECIAL: dict[str, Callable[[Scope, Call], None] | None] = {
    **dict.fromkeys(("full", "full_like", "new_full", "fill", "zero", "zeros", "zeros_like", "new_zeros"), fill),
    **dict.fromkeys(("ones", "ones_like", "new_ones", "scalar_tensor"), fill),
    # memory whose contents do not matter, or that is only seen in another way
    **dict.fromkeys(("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "detach"), None),
    **dict.fromkeys(("squeeze", "unsqueeze", "t", "transpose"), None),  # in place; otherwise they are views
    "arange": indexing.arange,
    **dict.fromkeys(("cat", "stack"), indexing.join),
    **dict.fromkeys(("slice_backward", "select_backward"), indexing.part_backward),
    **dict.fromkeys(("gather", "scatter", "scatter_add"), indexing.gather),
    "flip": indexing.flip,
    "index": indexing.index,
    **dict.fromkeys(("index_put", "_index_put_impl"), indexing.index_put),
    **dict.fromkeys(("sum", "mean", "prod", "amax", "amin"), reduce),
    **dict.fromkeys(("cumsum", "cumprod"), accumulate),
    **dict.fromkeys(("mm", "bmm"), products.product),
}
