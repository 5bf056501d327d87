"""Element-wise operations: their expressions, in the type in which torch computes them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .arrays import Access
from .operations import C_TYPES, COMPARISONS, EXPRESSIONS, OF_INTEGERS, literal, power
from .scope import Call, Scope, Untranslatable

__all__ = ["elementwise", "fill", "write"]

# Arguments that are used above, or that the result's layout and type show.
_WITHOUT_EFFECT = (
    *("alpha", "value", "exponent", "memory_format", "non_blocking", "dtype", "layout", "device", "pin_memory"),
    *("size", "shape", "self", "out"),
)


def elementwise(scope: Scope, call: Call) -> None:
    operands = call.operands
    template = EXPRESSIONS.get(call.name) or COMPARISONS.get(call.name)
    if call.name == "pow":
        template = "powF({0}, {1})" if isinstance(operands[1], Access) else power(operands[1])
    if template is None or call.arguments.get("rounding_mode") is not None:
        raise Untranslatable(f"operation {call.name}")
    for name, place in (("alpha", "{0}" if call.name == "rsub" else "{1}"), ("value", "{1}")):
        if (factor := call.arguments.get(name, 1)) != 1 and name in call.arguments:
            template = template.replace(place, f"{literal(factor, call.result.dtype)} * {place}")
    if call.name == "copy":
        operands = operands[1:]
    number = sum(f"{{{place}}}" in template for place in range(3))
    further = list(call.arguments.items())[number + (call.name == "copy") :]
    if any(name not in _WITHOUT_EFFECT and value is not None for name, value in further):
        raise Untranslatable(f"operation {call.name} with {', '.join(name for name, _ in further)}")
    write(scope, call.result, template, operands[:number], where=call.name == "where")


def fill(scope: Scope, call: Call) -> None:
    """full, zeros, ones, fill_ and zero_."""
    if call.name.startswith("ones"):
        value: Any = 1
    elif call.name == "scalar_tensor":
        value = call["s"]
    else:
        value = next((call[name] for name in ("fill_value", "value") if name in call.arguments), 0)
    write(scope, call.result, "{0}", [value])


def write(scope: Scope, result: Access, template: str, operands: list[Any], *, where: bool = False) -> None:
    """result = template(operands). operands: arrays or Python numbers. where: the first one is a condition."""
    arrays = [operand for operand in operands if isinstance(operand, Access)]
    kind = result.dtype
    if arrays and (template in COMPARISONS.values() or template == "{0}"):
        kind = _promoted(operands)
    if kind == torch.bool and "~" in template:
        template = "!{0}"
    if "F(" in template and not kind.is_floating_point:
        if template not in OF_INTEGERS:
            raise Untranslatable(f"{template} of {kind}")
        template = OF_INTEGERS[template]
    costly = "F(" in template and "fabsF" not in template
    template = template.replace("F(", "f(" if kind == torch.float32 else "(")

    def expression(names: list[str]) -> str:
        given, found = iter(names), []
        for place, operand in enumerate(operands):
            if not isinstance(operand, Access):
                found.append(literal(operand, kind))
                continue
            name = next(given)
            as_it_is = operand.dtype == kind or (where and place == 0)
            found.append(name if as_it_is else f"(({C_TYPES[kind]}){name})")
        text = template.format(*found)
        return f"(({text}) != 0)" if result.dtype == torch.bool else text

    scope.add(result, arrays, expression, costly=costly)


def _promoted(operands: Sequence[Any]) -> torch.dtype:
    """The type in which torch computes with these."""
    like = [
        torch.empty((1,) if o.shape else (), dtype=o.dtype, device="meta") if isinstance(o, Access) else o
        for o in operands
    ]
    kind = like[0]
    for other in like[1:]:
        kind = torch.empty((1,), dtype=torch.result_type(kind, other), device="meta")
    assert isinstance(kind, Tensor)
    return kind.dtype
