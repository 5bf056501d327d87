"""Reductions over some or all dimensions, and running ones; accumulated in double."""

import math

from .arrays import Access
from .elementwise import write
from .scope import Call, Scope, Untranslatable
from .units import PARALLEL_OPERATIONS

__all__ = ["accumulate", "reduce"]

# A NaN wins, as in torch; in C a comparison with it is false.
_BEGIN = {"amax": "-INFINITY", "amin": "INFINITY", "prod": "1"}
_ACCUMULATE = {
    "prod": "acc *= v;",
    "amax": "acc = v > acc || v != v ? v : acc;",
    "amin": "acc = v < acc || v != v ? v : acc;",
}
_MOST_ON_STACK = 4096  # sums


def reduce(scope: Scope, call: Call) -> None:
    """sum, mean, prod, amax and amin."""
    given, result = call["self"], call.result
    rank, dims = len(given.shape), call.arguments.get("dim")
    if isinstance(dims, int):
        dims = [dims]
    reduced = {d % rank for d in dims} if dims and rank else set(range(rank))
    floating = given.dtype.is_floating_point
    if call.name in ("amax", "amin") and not floating:
        raise Untranslatable(f"{call.name} of integers")
    scope.work += given.layout.nbytes // given.dtype.itemsize
    total = "acc"
    if call.name == "mean":
        number = 1
        for d in reduced:
            number *= given.shape[d]
        total = f"acc / {number}"
    kind, begin = "double" if floating else "int64_t", _BEGIN.get(call.name, "0")
    step = _ACCUMULATE.get(call.name, "acc += v;")
    scope.block(_loops(given, _kept(given, result, reduced), reduced, kind, begin, step, total), [given], result)


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


def _loops(
    given: Access, kept: Access, reduced: set[int], kind: str, begin: str, step: str, total: str
) -> list[str]:
    """The dimension with neighbouring elements goes innermost; if it is kept, so are its sums."""
    shape, indices = given.shape, [f"i{d}" for d in range(len(given.shape))]
    outer = [d for d, size in enumerate(shape) if d not in reduced and size != 1]
    inner = [d for d in sorted(reduced) if shape[d] != 1]

    def loops(dims: list[int]) -> list[str]:
        return [f"for (int64_t {indices[d]} = 0; {indices[d]} < {shape[d]}; {indices[d]}++)" for d in dims]

    load = f"const {given.c_type} v = {given.at(shape, indices)};"
    store = f"{kept.at(shape, indices)} = {total};"
    last = outer[-1:]
    if last and inner and given.strides(shape)[last[0]] == 1 and shape[last[0]] <= _MOST_ON_STACK:
        (each,), i = loops(last), indices[last[0]]
        return [
            "{",
            *loops(outer[:-1]),
            "{",
            f"{kind} sums[{shape[last[0]]}];",
            f"{each} sums[{i}] = {begin};",
            *loops(inner),
            "{",
            "#pragma omp simd",
            f"{each} {{ {kind} acc = sums[{i}]; {load} {step} sums[{i}] = acc; }}",
            "}",
            f"{each} {{ const {kind} acc = sums[{i}]; {store} }}",
            "}",
            "}",
        ]
    simd = ["#pragma omp simd reduction(+:acc)"] if inner and step == "acc += v;" else []
    parallel = outer and 12 * math.prod(shape) >= PARALLEL_OPERATIONS
    return [
        "{",
        *([f"#pragma omp parallel for collapse({len(outer)}) num_threads(threads)"] if parallel else []),
        *loops(outer),
        "{",
        f"{kind} acc = {begin};",
        *loops(inner[:-1]),
        "{",
        *simd,
        *loops(inner[-1:]),
        f"{{ {load} {step} }}",
        "}",
        store,
        "}",
        "}",
    ]
