"""Matrix products, in the order and orientation that take the fewest vector operations (`preamble.h`)."""

import math
from typing import NamedTuple

import torch

from .arrays import Access
from .library import processor
from .operations import C_TYPES
from .scope import Call, Memory, Scope, Untranslatable

__all__ = ["product"]


# From this many multiplications on, some 10 us of one thread, a product is shared among threads (1 to 2 us).
_PARALLEL_PRODUCTS = 500_000
PANEL_DEPTH = 256  # rows of B at once: a panel of four vectors then fills 32 kB, or 64 in AVX-512
_SPLIT_FROM, _PARTS = 256, 4  # terms of a sum; parts that it falls into


# Of the vectors of `preamble.h`: processors with AVX-512 multiply twice as many numbers at once.
VECTOR_BYTES = 64 if "avx512f" in processor() else 32


class Factor(NamedTuple):
    """An array of the batch; strides along the result, and along the sum."""

    pointer: str
    along: int
    inner: int


def product(scope: Scope, call: Call) -> None:
    """mm and bmm."""
    (a, b), c = call.operands[:2], call.result
    if c.dtype not in (torch.float32, torch.float64):
        raise Untranslatable(f"matrix product of {c.dtype}")
    batch, (m, k), n = a.shape[0] if len(a.shape) == 3 else 1, a.shape[-2:], b.shape[-1]
    scope.work += batch * m * n * k
    (ab, ai, ak), (bb, bk, bj), (cb, ci, cj) = map(_strides, (a, b, c))
    if k == 1:
        shape = (batch, m, n)
        factors = [a.part(shape, (ab, ai, 0)), b.part(shape, (bb, 0, bj))]
        scope.add(c.part(shape, (cb, ci, cj)), factors, lambda values: f"{values[0]} * {values[1]}")
        return
    if n == 1 and ab == 0 and batch > 1:  # one matrix times several vectors is one product
        batch, n, bj, cj = 1, batch, bb, cb
    if m == 1 and bb == 0 and batch > 1:
        batch, m, ai, ci = 1, batch, ab, cb
    named = (("a", a), ("b", b), ("c", c))
    pointers = [f"{c.c_type} *{name} = ({c.c_type} *){x.memory} + {x.layout.offset};" for name, x in named]
    arrays = Factor(f"a + g * {ab}", ai, ak), Factor(f"b + g * {bb}", bj, bk), Factor(f"c + g * {cb}", ci, cj)
    text = _text(scope.memory, c.dtype, batch, (m, n, k), *arrays)
    scope.block(["{", *pointers, *text, "}"], [a, b], c)


def _strides(access: Access) -> tuple[int, int, int]:
    """Over batch, rows and columns."""
    own = access.strides(access.shape)
    return (0,) * (3 - len(own)) + own  # type: ignore[return-value]


def _text(
    memory: Memory, dtype: torch.dtype, batch: int, sizes: tuple[int, int, int], a: Factor, b: Factor, c: Factor
) -> list[str]:
    """C (m, n) = A (m, k) B (k, n) for g in batch, computed in vectors of neighbours: within k, if one factor is a
    vector, or over the columns of C. Strides of c: over m and n."""
    (m, n, k), kind = sizes, C_TYPES[dtype]
    width = VECTOR_BYTES // dtype.itemsize

    def cost(m: int, n: int, a: Factor, b: Factor, c: Factor) -> float:
        """About how many multiplications of vectors. Moving a number costs as much as three."""
        if n == 1 and a.inner == 1:
            return m * k / width
        copied = 0 if b.along == 1 and n >= width else k * max(n, width)
        scattered = 0 if c.inner == 1 else m * n * (2 * math.ceil(k / PANEL_DEPTH) - 1)
        return m * k * math.ceil(n / width) + 3 * (copied + scattered)

    if cost(n, m, b, a, Factor(c.pointer, c.inner, c.along)) < cost(m, n, a, b, c):
        m, n, a, b, c = n, m, b, a, Factor(c.pointer, c.inner, c.along)  # the transpose
    each = f"for (int64_t g = 0; g < {batch}; g++)"
    if n == 1 and a.inner == 1:
        vector, pack = b.pointer, []
        if b.inner != 1 and k > 1:
            vector = f"({kind} *){memory.temporary((k,), dtype).memory}"
            pack = [f"for (int64_t p = 0; p < {k}; p++) ({vector})[p] = ({b.pointer})[p * {b.inner}];"]
        return [
            f"{each} {{",
            *pack,
            f"dots_{kind}({m}, {k}, {a.pointer}, {a.along}, {vector}, {c.pointer}, {c.along});",
            "}",
        ]
    panel, row, pack = b.pointer, b.inner, []
    if b.along != 1 or n < width:
        row = max(n, width)
        copies = f"({kind} *){memory.temporary((batch, k, row), dtype).memory}"
        panel = f"{copies} + g * {k * row}"
        element = f"j < {n} ? ({b.pointer})[p * {b.inner} + j * {b.along}] : 0"
        loops = f"for (int64_t p = 0; p < {k}; p++) for (int64_t j = 0; j < {row}; j++)"
        pack = [f"{each} {loops} ({panel})[p * {row} + j] = {element};"]
    arguments = (m, n, k, *a, panel, row, *c)
    if batch * m * n * k < _PARALLEL_PRODUCTS:
        return [*pack, f"{each} product_{kind}({', '.join(map(str, arguments))}, 0, 1);"]
    if k >= _SPLIT_FROM and m * n <= k * _SPLIT_FROM:
        return [*pack, *_split(memory, dtype, batch, (m, n, k), a, Factor(panel, 1, row), c)]
    share = "omp_get_thread_num(), omp_get_num_threads()"
    call = f"product_{kind}({', '.join(map(str, arguments))}, {share});"
    return [*pack, "#pragma omp parallel num_threads(threads)", f"{each} {call}"]


def _split(
    memory: Memory, dtype: torch.dtype, batch: int, sizes: tuple[int, int, int], a: Factor, b: Factor, c: Factor
) -> list[str]:
    """A long sum in parts, then the sum of those: the gradient of weights is a sum over examples, and each thread
    finds those in its cache that it wrote there before. The parts do not depend on the number of threads, nor does
    rounding."""
    (m, n, k), kind = sizes, C_TYPES[dtype]
    part = f"({kind} *){memory.temporary((batch, _PARTS, m, n), dtype).memory} + (g * {_PARTS} + q) * {m * n}"
    begin, end = f"{k} * q / {_PARTS}", f"{k} * (q + 1) / {_PARTS}"
    here, there = f"{a.pointer} + {begin} * {a.inner}", f"{b.pointer} + {begin} * {b.inner}"
    arguments = (m, n, f"{end} - {begin}", here, a.along, a.inner, there, b.inner, part, n, 1, 0, 1)
    each = f"for (int64_t g = 0; g < {batch}; g++)"
    parts = " + ".join(f"({part.replace('q)', f'{q})')})[i * {n} + j]" for q in range(_PARTS))
    return [
        "#pragma omp parallel for collapse(2) num_threads(threads)",
        f"{each} for (int64_t q = 0; q < {_PARTS}; q++) product_{kind}({', '.join(map(str, arguments))});",
        f"{each} for (int64_t i = 0; i < {m}; i++) for (int64_t j = 0; j < {n}; j++)",
        f"({c.pointer})[i * {c.along} + j * {c.inner}] = {parts};",
    ]
