"""Reductions over some or all dimensions, and running ones; accumulated in double."""

import math
from dataclasses import dataclass

from .arrays import Access
from .elementwise import write
from .scope import Call, Scope, Untranslatable
from .units import PARALLEL_OPERATIONS

__all__ = ["accumulate", "reduce"]

_MOST_ON_STACK = 4096  # sums


@dataclass(frozen=True)
class _Accumulation:
    """How numbers v become one, acc. by_column: the step where many are kept side by side. clause: how vectors of
    partial results are joined."""

    kind: str
    begin: str
    step: str
    by_column: str
    total: str = "acc"
    clause: str = ""

    @classmethod
    def of(cls, name: str, given: Access, number: int) -> "_Accumulation":
        kind = "double" if given.dtype.is_floating_point else "int64_t"
        if name in ("amax", "amin"):
            if kind == "int64_t":
                raise Untranslatable(f"{name} of integers")
            # A NaN wins, as in torch; in C a comparison with it is false, and forgets it.
            sign, begin = (">", "-INFINITY") if name == "amax" else ("<", "INFINITY")
            step = f"acc = acc {sign} v ? acc : v; bad |= v != v;"
            by_column = f"acc = v {sign} acc || v != v ? v : acc;"
            clause = f"reduction({name[1:]}:acc) reduction(|:bad)"
            return cls(given.c_type, begin, step, by_column, "bad ? NAN : acc", clause)
        if name == "prod":
            return cls(kind, "1", "acc *= v;", "acc *= v;")
        total = f"acc / {number}" if name == "mean" else "acc"
        return cls(kind, "0", "acc += v;", "acc += v;", total, "reduction(+:acc)")


def reduce(scope: Scope, call: Call) -> None:
    """sum, mean, prod, amax and amin."""
    given, result = call["self"], call.result
    rank, dims = len(given.shape), call.arguments.get("dim")
    if isinstance(dims, int):
        dims = [dims]
    reduced = {d % rank for d in dims} if dims and rank else set(range(rank))
    number = math.prod(given.shape[d] for d in reduced)
    scope.work += math.prod(given.shape)
    accumulation = _Accumulation.of(call.name, given, number)
    scope.block(_loops(given, _kept(given, result, reduced), reduced, accumulation), [given], result)


def accumulate(scope: Scope, call: Call) -> None:
    """cumsum and cumprod."""
    given, result = call["self"], call.result
    shape, indices = given.shape, [f"i{d}" for d in range(len(given.shape))]
    if not shape:
        write(scope, result, "{0}", [given])
        return
    order = [d for d in range(len(shape)) if d != call["dim"] % len(shape)]
    order.append(call["dim"] % len(shape))
    *outer, along = (f"for (int64_t {indices[d]} = 0; {indices[d]} < {shape[d]}; {indices[d]}++)" for d in order)
    kind = "double" if result.dtype.is_floating_point else "int64_t"
    begin, sign = (0, "+=") if call.name == "cumsum" else (1, "*=")
    step = f"{result.at(shape, indices)} = acc {sign} {given.at(shape, indices)};"
    scope.block([*outer, "{", f"{kind} acc = {begin};", f"{along} {step}", "}"], [given], result)


def _kept(given: Access, result: Access, reduced: set[int]) -> Access:
    """The result with the dimensions of what is given, of one element where they are reduced."""
    rank = len(given.shape)
    own, keeps_rank = iter(result.layout.strides), len(result.shape) == rank
    strides = [next(own) if keeps_rank or d not in reduced else 0 for d in range(rank)]
    return result.part([1 if d in reduced else size for d, size in enumerate(given.shape)], strides)


def _loops(given: Access, kept: Access, reduced: set[int], how: _Accumulation) -> list[str]:
    """The dimension with neighbouring elements goes innermost; if it is kept, so are its sums."""
    shape, indices = given.shape, [f"i{d}" for d in range(len(given.shape))]
    outer = [d for d, size in enumerate(shape) if d not in reduced and size != 1]
    inner = [d for d in sorted(reduced) if shape[d] != 1]

    def loops(dims: list[int]) -> list[str]:
        return [f"for (int64_t {indices[d]} = 0; {indices[d]} < {shape[d]}; {indices[d]}++)" for d in dims]

    def shared(dims: list[int]) -> list[str]:
        """Loops of independent rounds, among threads if that pays."""
        wanted = dims and 12 * math.prod(shape) >= PARALLEL_OPERATIONS
        pragma = [f"#pragma omp parallel for collapse({len(dims)}) num_threads(threads)"] if wanted else []
        return [*pragma, *loops(dims)]

    load = f"const {given.c_type} v = {given.at(shape, indices)};"
    store = f"{kept.at(shape, indices)} ="
    last = outer[-1:]
    if last and inner and given.strides(shape)[last[0]] == 1 and shape[last[0]] <= _MOST_ON_STACK:
        (each,), i = loops(last), indices[last[0]]
        return [
            "{",
            *shared(outer[:-1]),
            "{",
            f"{how.kind} sums[{shape[last[0]]}];",
            f"{each} sums[{i}] = {how.begin};",
            *loops(inner),
            "{",
            "#pragma omp simd",
            f"{each} {{ {how.kind} acc = sums[{i}]; {load} {how.by_column} sums[{i}] = acc; }}",
            "}",
            f"{each} {{ const {how.kind} acc = sums[{i}], bad = 0; {store} {how.total}; }}",
            "}",
            "}",
        ]
    return [
        "{",
        *shared(outer),
        "{",
        f"{how.kind} acc = {how.begin};",
        "int bad = 0;",
        *loops(inner[:-1]),
        "{",
        *([f"#pragma omp simd {how.clause}"] if inner and how.clause else []),
        *loops(inner[-1:]),
        f"{{ {load} {how.step} }}",
        "}",
        f"{store} {how.total};",
        "}",
        "}",
    ]
