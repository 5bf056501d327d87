"""What translating an operation needs: its arguments as arrays, and a place to add units to."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..recording import Layout, Operation, Recording, Value, numbers
from .arrays import Access, dense
from .operations import C_TYPES
from .units import Block, Expression, Nest, Unit

__all__ = ["Call", "Memory", "Scope", "Untranslatable"]


class Untranslatable(Exception):
    """The recording contains what has no translation; the message names it."""


@dataclass
class Memory:
    """All memory that the function uses.

    Attributes:
        buffers: b0, b1, .., by the address of their memory. temporaries: bytes, by name.
    """

    buffers: dict[int, Tensor] = field(default_factory=dict)
    temporaries: dict[str, int] = field(default_factory=dict)
    labels: "count[int]" = field(default_factory=count)

    def access(self, recording: Recording, number: int, layouts: dict[int, Layout]) -> Access:
        layout, root = layouts[number], recording.roots[number]
        if layout.dtype not in C_TYPES:
            raise Untranslatable(f"numbers of type {layout.dtype}")
        if root not in recording.buffers:
            self.temporaries.setdefault(f"t{root}", layout.nbytes)
            return Access(f"t{root}", layout)
        buffer = recording.buffers[root]
        address = buffer.untyped_storage().data_ptr()
        self.buffers.setdefault(address, buffer)
        return Access(f"b{list(self.buffers).index(address)}", layout)

    def temporary(self, shape: Iterable[int], dtype: torch.dtype) -> Access:
        """A new dense array."""
        layout, name = dense(tuple(shape), dtype), f"s{next(self.labels)}"
        self.temporaries[name] = layout.nbytes
        return Access(name, layout)


@dataclass(frozen=True)
class Call:
    """One operation. arguments: by name, those not given too, arrays as `Access`."""

    name: str
    arguments: dict[str, Any]
    result: Access

    @classmethod
    def of(cls, step: Operation, name: str, recording: Recording, memory: Memory) -> "Call":
        def access(value: Value) -> Access:
            return memory.access(recording, value.number, step.layouts)

        args, kwargs = pytree.tree_map_only(Value, access, (step.args, step.kwargs))
        arguments = {a.name: a.default_value for a in step.function._schema.arguments}
        arguments |= dict(zip(arguments, args, strict=False)) | kwargs
        found = numbers(step.result)
        if len(found) != 1:
            raise Untranslatable(f"operation {step.function} of several results")
        return cls(name, arguments, access(Value(found[0])))

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    @property
    def operands(self) -> list[Any]:
        """The arguments in their order."""
        return list(self.arguments.values())


@dataclass
class Scope:
    """The function, or the body of one of its loops, as far as it is translated.

    Attributes:
        work: multiplications, or as much, in one round of every loop.
    """

    memory: Memory
    units: list[Unit] = field(default_factory=list)
    work: int = 0

    def add(self, result: Access, operands: list[Access], expression: Expression, *, costly: bool = False) -> None:
        """result = expression(operands) for every element, in the last nest that may take it.

        costly: a function such as exp, which should run on whole vectors.
        """
        shape = result.shape
        self.work += math.prod(shape)
        result, operands = result.squeezed(shape), [operand.squeezed(shape) for operand in operands]
        touched = {operand.memory for operand in operands} | {result.memory}
        for unit in reversed(self.units):
            if isinstance(unit, Nest) and unit.takes(result, operands, costly=costly):
                unit.operations.append((result, operands, expression))
                return
            if unit.writes & touched or result.memory in unit.reads:
                break
        self.units.append(Nest(result.shape, [(result, operands, expression)]))

    def block(self, text: list[str], reads: Iterable[Access], writes: Access) -> None:
        self.units.append(Block(text, {access.memory for access in reads}, {writes.memory}))
