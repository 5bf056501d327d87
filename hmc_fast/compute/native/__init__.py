"""Recordings of small densities as C: `source.py` writes it, `library.py` compiles it."""

import ctypes
from collections.abc import Callable
from importlib import resources
from typing import Any

import torch
from torch import Tensor

from ..recording import Recording, Repeats, record
from .library import NoCompiler, load
from .source import Untranslatable, supported, translate

_ALIGNMENT = 64  # bytes: a cache line

_MOST_WORK = 4_000_000

__all__ = ["NativeProgram", "native_program"]


def native_program(function: Callable[[], Any]) -> "NativeProgram | None":
    """The function, or None if there is no C compiler, or no translation, or too much work for one thread."""
    try:
        return NativeProgram(record(function, decompose=decompose, every_loop=True))
    except (Untranslatable, NoCompiler):
        return None


def decompose(function: Any) -> Callable[..., Any] | None:
    """Simpler operations for one that has no translation, if torch has them."""
    if supported(function) or function.is_view:
        return None
    from torch._decomp import decomposition_table

    return decomposition_table.get(function)


class NativeProgram:
    """A recording as one call of machine code.

    Raises:
        Untranslatable, NoCompiler.
    """

    def __init__(self, recording: Recording) -> None:
        program = translate(recording, resources.files(__package__).joinpath("preamble.h").read_text())
        if program.work > _MOST_WORK:
            raise Untranslatable(f"{program.work:,} operations, which several threads do faster")
        self._run, self._loops, self._returned = load(program.source), program.loops, recording.returned
        self._buffers = program.buffers  # kept, and with them their addresses
        self._memory = _addresses([buffer.untyped_storage().data_ptr() for buffer in program.buffers])
        self._workspace = torch.zeros(program.workspace + _ALIGNMENT, dtype=torch.uint8)
        start = self._workspace.data_ptr()
        self._aligned = ctypes.c_void_p(start + -start % _ALIGNMENT)
        self._alike: dict[Any, list[int]] = {}  # places of the results that share shape and dtype
        for place, layout in enumerate(program.results):
            self._alike.setdefault((layout.shape, layout.dtype), []).append(place)
        self._num_results = len(program.results)

    def __call__(self) -> Any:
        """The recorded function, once."""
        return self._iterate((), _addresses([loop.tensor.data_ptr() for loop in self._loops]))

    def iterations(self, repeats: dict[Repeats, Tensor], count: int) -> Any:
        """The recorded function `count` times, with its results stacked. repeats: int64 `(count,)` of the loops whose
        number changes."""
        each = [repeats[loop] if loop in repeats else torch.full((count,), loop.number) for loop in self._loops]
        return self._iterate((count,), _addresses([numbers.data_ptr() for numbers in each]))

    def _iterate(self, stacked: tuple[int, ...], repeats: Any) -> Any:
        results: list[Any] = [None] * self._num_results
        pointers = [0] * self._num_results
        for (shape, dtype), places in self._alike.items():
            together = torch.empty((len(places), *stacked, *shape), dtype=dtype)
            start, size = together.data_ptr(), together.nbytes // len(places)
            for index, (place, result) in enumerate(zip(places, together.unbind(), strict=True)):
                results[place], pointers[place] = result, start + index * size
        self._run(self._memory, self._aligned, ctypes.c_int64(*stacked or (1,)), repeats, _addresses(pointers))
        return self._returned(results)


def _addresses(pointers: list[int]) -> Any:
    return (ctypes.c_void_p * len(pointers))(*pointers)
