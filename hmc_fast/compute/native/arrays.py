"""Arrays as C sees them: a pointer, and how shape and strides lead to an element."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..recording import Layout
from .operations import C_TYPES

__all__ = ["Access", "dense", "loops"]


@dataclass(frozen=True)
class Access:
    """An array as one operation sees it. memory: the name of the pointer to it."""

    memory: str
    layout: Layout

    @property
    def shape(self) -> tuple[int, ...]:
        return self.layout.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.layout.dtype

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

    def part(self, shape: Sequence[int], strides: Sequence[int], offset: int = 0) -> "Access":
        """Some of the elements. offset: from the first one of this array."""
        own = self.layout
        layout = Layout(tuple(shape), tuple(strides), own.offset + offset, own.dtype, own.nbytes)
        return Access(self.memory, layout)

    def squeezed(self, shape: Sequence[int]) -> "Access":
        """Broadcast to `shape`, whose dimensions of one element are left out."""
        pairs = [pair for pair in zip(shape, self.strides(shape), strict=True) if pair[0] != 1]
        return self.part([size for size, _ in pairs], [stride for _, stride in pairs])

    def at(self, shape: Sequence[int], indices: Sequence[str]) -> str:
        """The element at `indices` of `shape`."""
        return self.element(self.strides(shape), indices)

    def element(self, strides: Sequence[int], indices: Sequence[str]) -> str:
        terms = [
            f"{i} * {stride}" if stride != 1 else i for i, stride in zip(indices, strides, strict=True) if stride
        ]
        terms += [str(self.layout.offset)] if self.layout.offset or not terms else []
        return f"(({self.c_type} *){self.memory})[{' + '.join(terms)}]"


def dense(shape: Sequence[int], dtype: torch.dtype) -> Layout:
    """The layout of a new array."""
    strides, size = [], 1
    for length in reversed(shape):
        strides.append(size)
        size *= length
    return Layout(tuple(shape), tuple(reversed(strides)), 0, dtype, size * dtype.itemsize)


def loops(shape: Sequence[int], indices: Sequence[str]) -> list[str]:
    """The heads of loops over all elements."""
    return [f"for (int64_t {i} = 0; {i} < {size}; {i}++)" for i, size in zip(indices, shape, strict=True)]
