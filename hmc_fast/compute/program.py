"""The ways to run a function over buffers at fixed addresses.

    eager      called
    traced     recorded once, below autograd and vmap, then replayed: the same operations without their overhead
    compiled   through torch.compile
    loop       recorded, then compiled, with `repeat` as a loop: a whole trajectory is one call. As C (native/)
               where every operation has a translation and that is fast, else by torch's compiler (looping.py)

All write the same buffers with the same random numbers; the last two round differently.
"""

import warnings
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from .compilation import compile_function
from .looping import compile_recording
from .native import NativeProgram, native_program
from .recording import Repeats, is_recording, record

__all__ = ["Path", "Program", "several"]

Path = Literal["eager", "traced", "compiled", "loop"]


class Program:
    """`function`, prepared on its first call. On a CPU, unless eager.

    Called while another program is being recorded, it becomes part of that one.

    Raises:
        UserError: the function cannot be recorded; see `record`.
    """

    def __init__(self, function: Callable[[], Any], path: Path) -> None:
        self._function, self._path = function, path
        self._variants: list[tuple[Callable[[], bool], Callable[[], Any]]] = []

    def __call__(self) -> Any:
        if is_recording():
            return self._function()
        with torch.no_grad():
            for suits, run in self._variants:
                if suits():
                    return run()
            self._variants.append(self._prepared())
            return self._variants[-1][1]()

    def _prepared(self) -> tuple[Callable[[], bool], Callable[[], Any]]:
        """When it may run, and what runs then."""
        if self._path == "eager":
            return _always, self._function
        if self._path == "compiled":
            return _always, compile_function(self._function, cpu=True)
        if self._path == "loop" and (native := native_program(self._function)) is not None:
            return _always, native
        recording = record(self._function)
        if self._path == "traced" or recording.exceptional:
            return recording.suits, recording.replay()
        try:
            return recording.suits, compile_recording(recording)
        except Exception as error:  # the compiler's own errors, of many types
            reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
            warnings.warn(f"runs traced, not compiled, which is slower: {reason}", stacklevel=3)
            return recording.suits, recording.replay()

    def several(self, number: int, rounds: dict[Repeats, Tensor]) -> tuple[Tensor, ...] | None:
        """See `several`; None if this program has to be called once for each."""
        if not self._variants:
            with torch.no_grad():
                self._variants.append(self._prepared())
        run = self._variants[0][1]
        return run.iterations(rounds, number) if isinstance(run, NativeProgram) else None


def several(
    function: Callable[[], tuple[Tensor, ...]], number: int, rounds: dict[Repeats, Tensor]
) -> tuple[Tensor, ...]:
    """The results of `number` calls, stacked: one call of machine code if `function` is a program that has some.

    rounds: int64 `(number,)`, how often each call goes round a loop, for those loops whose number varies.
    """
    if isinstance(function, Program) and (results := function.several(number, rounds)) is not None:
        return results
    each = []
    for index in range(number):
        for repeats, numbers in rounds.items():
            repeats.set(int(numbers[index]))
        each.append(function())
    return tuple(torch.stack(results) for results in zip(*each, strict=True))


def _always() -> bool:
    return True
