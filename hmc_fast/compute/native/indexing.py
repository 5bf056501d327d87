"""Operations that move elements: joining, taking parts, choosing by index."""

from typing import Any

import torch

from .arrays import Access, loops
from .elementwise import write
from .operations import literal
from .scope import Call, Scope, Untranslatable

__all__ = ["arange", "flip", "gather", "index", "index_put", "join", "part_backward"]


def arange(scope: Scope, call: Call) -> None:
    start, pace, dtype = call.arguments.get("start", 0), call.arguments.get("step", 1), call.result.dtype
    text = f"{call.result.at(call.result.shape, ['i'])} = {literal(start, dtype)} + i * {literal(pace, dtype)};"
    scope.block([f"for (int64_t i = 0; i < {call.result.shape[0]}; i++) {text}"], [], call.result)


def join(scope: Scope, call: Call) -> None:
    """cat and stack: copies into parts of the result."""
    result, parts = call.result, call["tensors"]
    dim, begin = call["dim"] % len(result.shape), 0
    strides = result.layout.strides
    for part in parts:
        shape, offset = list(result.shape), begin * strides[dim]
        if call.name == "stack":
            place = result.part(shape[:dim] + shape[dim + 1 :], strides[:dim] + strides[dim + 1 :], offset)
            begin += 1
        else:
            if len(part.shape) != len(shape):
                continue  # torch's legacy: (0,) joins anything
            shape[dim] = part.shape[dim]
            place = result.part(shape, strides, offset)
            begin += part.shape[dim]
        write(scope, place, "{0}", [part])


def part_backward(scope: Scope, call: Call) -> None:
    """slice_backward and select_backward: zero except for one part."""
    result, grad = call.result, call["grad_output"]
    dim = call["dim"] % len(result.shape)
    strides, size = list(result.layout.strides), result.shape[dim]
    start = call["index"] if call.name == "select_backward" else call["start"]
    start = start + size if start < 0 else min(start, size)
    offset = start * strides[dim]
    if call.name == "select_backward":
        del strides[dim]
    else:
        strides[dim] *= call["step"]
    write(scope, result, "{0}", [0])
    write(scope, result.part(grad.shape, strides, offset), "{0}", [grad])


def flip(scope: Scope, call: Call) -> None:
    given = call["self"]
    strides, offset = list(given.layout.strides), 0
    for dim in call["dims"]:
        offset += (given.shape[dim] - 1) * strides[dim]
        strides[dim] *= -1
    write(scope, call.result, "{0}", [given.part(given.shape, strides, offset)])


def gather(scope: Scope, call: Call) -> None:
    """out[.., i, ..] = x[.., index[.., i, ..], ..]; scatter and scatter_add, the other way round."""
    x, chosen, result = call["self"], call["index"], call.result
    shape, dim = chosen.shape, call["dim"] % max(1, len(chosen.shape))
    indices = [f"i{d}" for d in range(len(shape))]
    into = [chosen.at(shape, indices) if d == dim else i for d, i in enumerate(indices)]
    if call.name == "gather":
        text = f"{result.at(shape, indices)} = {x.at(x.shape, into)};"
        scope.block([*loops(shape, indices), text], [x, chosen], result)
        return
    if x.memory != result.memory:
        write(scope, result, "{0}", [x])
    if call.arguments.get("reduce") is not None:
        raise Untranslatable(f"{call.name} with reduce")
    source: Any = call.arguments.get("src", call.arguments.get("value"))
    array = isinstance(source, Access)
    value = source.at(source.shape, indices) if array else literal(source, result.dtype)
    text = f"{result.at(result.shape, into)} {'+=' if call.name == 'scatter_add' else '='} {value};"
    scope.block([*loops(shape, indices), text], [source, chosen, result] if array else [chosen, result], result)


def index(scope: Scope, call: Call) -> None:
    """x[.., indices, ..]: elements of x by neighbouring dimensions of integers."""
    x, result = call["self"], call.result
    chosen, into, shape = _chosen(x, call["indices"])
    assert shape == result.shape
    indices = [f"i{d}" for d in range(len(shape))]
    text = f"{result.at(shape, indices)} = {x.at(x.shape, into)};"
    scope.block([*loops(shape, indices), text], [x, *chosen], result)


def index_put(scope: Scope, call: Call) -> None:
    """x[.., indices, ..] = values, or += values."""
    x, result, values = call["self"], call.result, call["values"]
    chosen, into, shape = _chosen(x, call["indices"])
    if x.memory != result.memory:
        write(scope, result, "{0}", [x])
    indices = [f"i{d}" for d in range(len(shape))]
    sign = "+=" if call["accumulate"] else "="
    text = f"{result.at(result.shape, into)} {sign} {values.at(shape, indices)};"
    scope.block([*loops(shape, indices), text], [values, result, *chosen], result)


def _chosen(x: Access, given: list[Access | None]) -> tuple[list[Access], list[str], tuple[int, ...]]:
    """The indices, what they make of i0, i1, .. over the elements chosen, and the shape of those."""
    dims = [d for d, each in enumerate(given) if each is not None]
    chosen = [each for each in given if each is not None]
    first = dims[0]
    if dims != list(range(first, first + len(dims))) or any(each.dtype.itemsize == 1 for each in chosen):
        raise Untranslatable("indexing by masks, or by dimensions apart")
    middle = torch.broadcast_shapes(*(each.shape for each in chosen))
    shape = (*x.shape[:first], *middle, *x.shape[first + len(dims) :])
    indices = [f"i{d}" for d in range(len(shape))]
    into = list(indices[:first])
    for each, size in zip(chosen, x.shape[first:], strict=False):
        element = each.at(middle, indices[first : first + len(middle)])
        into.append(f"({element} < 0 ? {element} + {size} : {element})")
    return chosen, into + indices[first + len(middle) :], shape
