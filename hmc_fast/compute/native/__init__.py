"""Recordings of small densities as C: `translation.py` writes it, `library.py` compiles it."""

import ctypes
import warnings
from collections.abc import Callable
from importlib import resources
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..recording import Recording, Repeats, Unrecordable, record
from .decompositions import decompose
from .library import NoCompiler, find_compiler, load
from .scope import Untranslatable
from .translation import ALIGNMENT, Program, translate

# Multiplications of one round. 2 cores, vectors of 32 bytes, our time over Inductor's: digits MLP with 4 chains
# (90 million) .8, an MLP 20-256-256-3 on 500 rows (95) 1.1, 784-100-10 on 2,000 (320) 1.1, 256-400-400-10 on 2,000
# (1,400) 1.15: there the time is that of the products, and a library's are better. Inductor takes 17 s to compile,
# gcc 3.
_MOST_WORK = 200_000_000
_BESIDE = 0.01  # relative distance of the second state at which both are compared
_TOLERANCE = 1e-3  # relative to the largest number, or to 1: an energy error may be nothing but rounding

__all__ = ["NativeProgram", "native_program", "native_refusal"]


class WrongResult(Exception):
    """Machine code that does not compute what torch does."""


def native_program(function: Callable[[], Any]) -> "NativeProgram | None":
    """The function, or None if there is no C compiler, or no translation, or it is all large products."""
    try:
        return NativeProgram(record(function, decompose=decompose, every_loop=True))
    except (Untranslatable, NoCompiler, Unrecordable):  # a decomposition may read what the operation does not
        return None
    except Exception as error:  # there is another way to run, so that a fault of ours need not end the run
        message = f"runs without machine code, for a fault of hmc_fast that we would like to hear of: {error!r}"
        warnings.warn(message, stacklevel=4)
        return None


def native_refusal(function: Callable[[], Any]) -> str | None:
    """Why there would be no `native_program`, or None. It takes a tenth of a second where compiling takes one."""
    try:
        find_compiler()
        with torch.no_grad():
            _translated(record(function, decompose=decompose, every_loop=True))
    except Exception as error:  # faults of ours too, of which `native_program` warns
        return str(error)
    return None


def _translated(recording: Recording) -> Program:
    program = translate(recording, resources.files(__package__).joinpath("preamble.h").read_text())
    if program.work > _MOST_WORK:
        raise Untranslatable(f"{program.work:,} multiplications, for which torch's library is faster")
    return program


class NativeProgram:
    """A recording as one call of machine code, which is checked against torch's operations at the present state.

    Raises:
        Untranslatable, NoCompiler, WrongResult.
    """

    def __init__(self, recording: Recording) -> None:
        program = _translated(recording)
        self._run, self._loops, self._returned = load(program.source), program.loops, recording.returned
        self._buffers = program.buffers  # kept, and with them their addresses
        self._memory = _addresses([buffer.untyped_storage().data_ptr() for buffer in program.buffers])
        self._workspace = torch.zeros(program.workspace + ALIGNMENT, dtype=torch.uint8)
        start = self._workspace.data_ptr()
        self._aligned = ctypes.c_void_p(start + -start % ALIGNMENT)
        self._alike: dict[Any, list[int]] = {}  # places of the results that share shape and dtype
        for place, layout in enumerate(program.results):
            self._alike.setdefault((layout.shape, layout.dtype), []).append(place)
        self._num_results = len(program.results)
        self._check(recording)

    def __call__(self) -> Any:
        """The recorded function, once."""
        return self._iterate((), _addresses([loop.tensor.data_ptr() for loop in self._loops]))

    def iterations(self, repeats: dict[Repeats, Tensor], count: int) -> Any:
        """The recorded function `count` times, with its results stacked.

        repeats: int64 `(count,)`, of the loops whose number changes.
        """
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
        self._run(
            self._memory,
            self._aligned,
            ctypes.c_int64(*stacked or (1,)),
            repeats,
            _addresses(pointers),
            torch.get_num_threads(),
        )
        return self._returned(results)

    def _check(self, recording: Recording) -> None:
        """At the present state, and should they differ there, at one beside it: at a mode, say, a gradient is
        nothing but rounding, and what has only its direction differs whoever computes it."""
        difference = self._difference(recording, 0.0)
        if difference and (difference := self._difference(recording, _BESIDE)):
            raise WrongResult(difference)

    def _difference(self, recording: Recording, beside: float) -> str:
        """In words, empty if there is none, after one round of each loop: rounding has no time to grow.

        beside: the relative change of the numbers in all buffers that are written.
        """
        numbers, written = [loop.number for loop in self._loops], recording.written()
        buffers = [recording.buffers[number] for number in written]
        before = [buffer.clone() for buffer in buffers]
        outcomes = []
        try:
            for loop in self._loops:
                loop.set(1)
            for run in (self, recording.replay()):
                for buffer in buffers:
                    if beside and buffer.is_floating_point():
                        waves = torch.cos(torch.arange(buffer.numel(), dtype=torch.float64)).view(buffer.shape)
                        buffer.mul_((1 + beside * waves).to(buffer.dtype))
                results = [leaf for leaf in pytree.tree_leaves(run()) if isinstance(leaf, torch.Tensor)]
                outcomes.append([tensor.clone() for tensor in (*results, *buffers)])
                for buffer, saved in zip(buffers, before, strict=True):
                    buffer.copy_(saved)
        finally:
            for loop, number in zip(self._loops, numbers, strict=True):
                loop.set(number)
        for found, expected in zip(*outcomes, strict=True):
            largest = float(expected.double().nan_to_num(0, 0, 0).abs().max()) if expected.numel() else 0.0
            tolerance = _TOLERANCE * (1 + largest)
            if not torch.allclose(found.double(), expected.double(), rtol=0, atol=tolerance, equal_nan=True):
                difference = (found.double() - expected.double()).abs().max()
                return f"a result of shape {tuple(expected.shape)} differs by {difference:.3g}"
        return ""


def _addresses(pointers: list[int]) -> Any:
    return (ctypes.c_void_p * len(pointers))(*pointers)
