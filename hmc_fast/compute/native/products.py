"""Matrix products, in the order and orientation that take the fewest vector operations (`preamble.h`)."""

import math
from typing import NamedTuple

import torch

from .arrays import Access
from .operations import C_TYPES
from .scope import Call, Memory, Scope, Untranslatable

__all__ = ["product"]


class Factor(NamedTuple):
    """A pointer; strides along the result, and along the sum."""

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
    if n == 1 and ab == 0 and batch > 1:  # one matrix times several vectors is one product
        batch, n, bj, cj = 1, batch, bb, cb
    if m == 1 and bb == 0 and batch > 1:
        batch, m, ai, ci = 1, batch, ab, cb
    kind = c.c_type
    named = (("a", a), ("b", b), ("c", c))
    pointers = [f"{kind} *{name} = ({kind} *){x.memory} + {x.layout.offset};" for name, x in named]
    loop = [] if batch == 1 else [f"for (int64_t g = 0; g < {batch}; g++, a += {ab}, b += {bb}, c += {cb})"]
    text = _text(scope.memory, c.dtype, (m, n, k), Factor("a", ai, ak), Factor("b", bj, bk), (ci, cj))
    scope.block(["{", *pointers, *loop, *text, "}"], [a, b], c)


def _strides(access: Access) -> tuple[int, int, int]:
    """Over batch, rows and columns."""
    own = access.strides(access.shape)
    return (0,) * (3 - len(own)) + own  # type: ignore[return-value]


def _text(
    memory: Memory, dtype: torch.dtype, sizes: tuple[int, int, int], a: Factor, b: Factor, c: tuple[int, int]
) -> list[str]:
    """C (m, n) = A (m, k) B (k, n), computed in vectors of neighbours: within k, if one factor is a vector, or over
    the columns of C. c: strides over m and n."""
    (m, n, k), kind = sizes, C_TYPES[dtype]
    width = 32 // dtype.itemsize

    def cost(m: int, n: int, a: Factor, b: Factor, c: tuple[int, int]) -> float:
        """About how many vector operations."""
        if n == 1 and a.inner == 1:
            return m * k / width
        copies = 0 if b.along == 1 and n >= width else k * max(n, width)
        return m * k * math.ceil(n / width) + copies + (0 if c[1] == 1 else m * n)

    if cost(n, m, b, a, c[::-1]) < cost(m, n, a, b, c):
        m, n, a, b, c = n, m, b, a, c[::-1]  # the transpose
    if n == 1 and a.inner == 1:
        vector, pack = b.pointer, []
        if b.inner != 1 and k > 1:
            vector = f"({kind} *){memory.temporary((k,), dtype).memory}"
            pack = [f"for (int64_t p = 0; p < {k}; p++) ({vector})[p] = {b.pointer}[p * {b.inner}];"]
        return ["{", *pack, f"dots_{kind}({m}, {k}, {a.pointer}, {a.along}, {vector}, c, {c[0]});", "}"]
    panel, row, pack = b.pointer, b.inner, []
    if b.along != 1 or n < width:
        row = max(n, width)
        panel = f"({kind} *){memory.temporary((k, row), dtype).memory}"
        element = f"j < {n} ? {b.pointer}[p * {b.inner} + j * {b.along}] : 0"
        loops = f"for (int64_t p = 0; p < {k}; p++) for (int64_t j = 0; j < {row}; j++)"
        pack = [f"{loops} ({panel})[p * {row} + j] = {element};"]
    arguments = (m, n, k, *a, panel, row, "c", *c)
    return ["{", *pack, f"product_{kind}({', '.join(map(str, arguments))});", "}"]
