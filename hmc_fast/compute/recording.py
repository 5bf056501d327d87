"""Functions over buffers at fixed addresses, recorded as plain torch operations.

A gradient through vmap, functional_call and autograd costs more in Python than in arithmetic if the model is small.
Recorded once, below all three, it is a list of operations on the same tensors, which runs as straight-line code
(`Recording.replay`) or is compiled (`looping.py`). Three things are evaluated once instead of every time:

    views of buffers       a buffer never moves, so its view is kept
    unused operations      dropped, unless they write
    Python                 branches, closures, constants: what they read must not change

`repeat` inside a recorded function becomes a loop whose number of iterations is data.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.weak import WeakTensorKeyDictionary

from ..errors import UserError
from .operations import WatchingMode, waits_for_value

__all__ = [
    "Layout",
    "Loop",
    "Operation",
    "Recording",
    "Repeats",
    "Unrecordable",
    "Value",
    "is_recording",
    "numbers",
    "record",
    "repeat",
]


class Unrecordable(UserError):
    """A recording would not do what the function does; the message says why."""


@dataclass(frozen=True)
class Value:
    """A tensor in a recording, by number."""

    number: int


@dataclass(frozen=True)
class Layout:
    """Where in its memory a tensor is. strides, offset: in elements. nbytes: of the memory as a whole."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    dtype: torch.dtype
    nbytes: int

    @classmethod
    def of(cls, tensor: Tensor) -> "Layout":
        storage, offset = tensor.untyped_storage(), int(tensor.storage_offset())
        return cls(tuple(tensor.shape), tensor.stride(), offset, tensor.dtype, storage.nbytes())


class Repeats:
    """How often a loop runs: on the host, for Python, and as a tensor, for a compiled loop.

    varies: whether it changes from call to call.
    """

    def __init__(self, number: int = 0, *, varies: bool = True) -> None:
        self.tensor = torch.tensor(number)
        self.number, self.varies = number, varies

    def set(self, number: int) -> None:
        self.number = number
        self.tensor.fill_(number)


@dataclass
class Operation:
    """One call into torch. Tensors among its arguments and results are `Value`s.

    layouts: of all of them at the time; some operations change one in place.
    """

    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any
    writes: bool
    view: bool  # all results are views of buffers
    layouts: dict[int, Layout]

    def values(self) -> Iterator[int]:
        """The arguments that are tensors."""
        return iter(numbers((self.args, self.kwargs)))


@dataclass
class Loop:
    """`body`, `repeats` times."""

    body: "Recording"
    repeats: Repeats


@dataclass
class Recording:
    """What a function did to its buffers.

    Attributes:
        buffers: tensors that existed before, by number. views: of buffers, made by the function.
        roots: for every value, the number of the one that owns its memory.
        repeats: of every loop, and whether it ran at all; one that did not is left out.
        result: what the function returned, with `Value`s for tensors. layouts: of those.
    """

    operations: list[Operation | Loop] = field(default_factory=list)
    buffers: dict[int, Tensor] = field(default_factory=dict)
    views: dict[int, Tensor] = field(default_factory=dict)
    roots: dict[int, int] = field(default_factory=dict)
    layouts: dict[int, Layout] = field(default_factory=dict)
    repeats: dict[Repeats, bool] = field(default_factory=dict)
    result: Any = None

    def suits(self) -> bool:
        """Whether the loops that are to run now are those that ran when this was recorded."""
        return all((repeats.number > 0) == ran for repeats, ran in self.repeats.items())

    @property
    def exceptional(self) -> bool:
        """Whether a loop is left out that will run another time."""
        return any(repeats.varies and not ran for repeats, ran in self.repeats.items())

    def written(self) -> set[int]:
        """The buffers that the function writes, by number."""
        found = set()
        for step in self.operations:
            if isinstance(step, Loop):
                inner = {id(step.body.buffers[number]) for number in step.body.written()}
                found |= {number for number, buffer in self.buffers.items() if id(buffer) in inner}
            elif step.writes:
                found |= {self.roots[number] for number in _written(step)}
        return found & set(self.buffers)

    def replay(self) -> Callable[[], Any]:
        """The recording as one Python function without arguments."""
        names: dict[str, Any] = {}
        lines = _Source(names).lines(self, "    ")
        returned = ", ".join(f"v{number}" for number in numbers(self.result))
        source = "\n".join(["def replay():", *lines, f"    return [{returned}]"])
        exec(source, names)
        run = names["replay"]
        return lambda: self.returned(run())

    def returned(self, tensors: list[Tensor]) -> Any:
        """What the function would return, given the tensors in it in order."""
        if isinstance(self.result, tuple) and all(type(item) is Value for item in self.result):
            return tuple(tensors)
        each = iter(tensors)
        return pytree.tree_map_only(Value, lambda _: next(each), self.result)


def record(
    function: Callable[[], Any],
    *,
    decompose: Callable[[Any], Callable[..., Any] | None] | None = None,
    every_loop: bool = False,
) -> Recording:
    """Runs `function` once and restores the buffers that it wrote.

    decompose: an operation's replacement by simpler ones, None to keep it. every_loop: record loops that do not run
    now, too.

    Raises:
        Unrecordable: it draws from a torch generator, or its course depends on values of tensors.
    """
    recorder = _Recorder(decompose=decompose, every_loop=every_loop)
    try:
        with torch.no_grad(), recorder:
            result = function()
        recorder.recording.result = pytree.tree_map_only(Tensor, recorder.value, result)
        recorder.recording.layouts = {
            recorder.value(leaf).number: Layout.of(leaf)
            for leaf in pytree.tree_leaves(result)
            if isinstance(leaf, Tensor)
        }
    finally:
        with torch.no_grad():
            for tensor, saved in recorder.saved:
                tensor.copy_(saved)
    return recorder.recording


def repeat(function: Callable[[], object], repeats: Repeats) -> None:
    """Calls `function` `repeats` times, or records the loop."""
    if is_recording():
        _recorders()[-1].loop(function, repeats)
        return
    for _ in range(repeats.number):
        function()


def is_recording() -> bool:
    return bool(_recorders())


# --- recording ---

_thread = threading.local()


def _recorders() -> "list[_Recorder]":
    """The recordings under way in this thread; a loop is recorded within another recording."""
    if not hasattr(_thread, "recorders"):
        _thread.recorders = []
    return _thread.recorders


class _Recorder(WatchingMode):
    def __init__(
        self,
        parent: "_Recorder | None" = None,
        *,
        decompose: Callable[[Any], Callable[..., Any] | None] | None = None,
        every_loop: bool = False,
    ) -> None:
        super().__init__()
        self.recording = Recording()
        self._decompose, self._every_loop = decompose, every_loop
        self.saved: list[tuple[Tensor, Tensor]] = parent.saved if parent else []
        self._parent, self._paused = parent, False
        self._numbers: Any = WeakTensorKeyDictionary()
        self._count: list[int] = parent._count if parent else [0]  # numbers are unique across nested recordings

    def __enter__(self) -> Any:
        _recorders().append(self)
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        _recorders().pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._paused:
            return func(*args, **kwargs)
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise Unrecordable(
                f"the log density draws random numbers ({func}): it must depend on its arguments only"
            )
        if waits_for_value(func, args):
            raise Unrecordable(f"the log density reads a tensor's value ({func}), on which its course may depend")
        if func is torch.ops.aten.lift_fresh.default:  # a literal, which the function may go on to write
            func = torch.ops.aten.clone.default
        if self._decompose is not None and (simpler := self._decompose(func)) is not None:
            with self._entered_again():
                return simpler(*args, **kwargs)
        given, named = pytree.tree_map_only(Tensor, self.value, (args, kwargs))
        writes = func._schema.is_mutable
        step = Operation(func, given, named, result=None, writes=writes, view=False, layouts={})
        self._note_layouts(step, (given, named), (args, kwargs))
        if writes:
            self._save(_written(step))
        result = func(*args, **kwargs)
        step.result = pytree.tree_map_only(Tensor, lambda t: self._output(t, step, args, kwargs), result)
        self._note_layouts(step, step.result, result)
        found = numbers(step.result)
        step.view = not writes and bool(found) and all(self._root(n) in self.recording.buffers for n in found)
        if step.view:
            tensors = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
            self.recording.views.update(zip(found, tensors, strict=True))
        self.recording.operations.append(step)
        return result

    @contextmanager
    def _entered_again(self) -> Iterator[None]:
        """Within its own dispatch a mode is off."""
        super().__enter__()
        try:
            yield
        finally:
            super().__exit__(None, None, None)

    def loop(self, function: Callable[[], object], repeats: Repeats) -> None:
        self.recording.repeats[repeats] = repeats.number > 0
        if repeats.number == 0 and not self._every_loop:
            return
        self._paused = True
        inner = _Recorder(self, decompose=self._decompose)
        try:
            with inner:
                function()
        finally:
            self._paused = False
        for buffer in inner.recording.buffers.values():
            self.value(buffer)  # a buffer of the whole, too
        self.recording.operations.append(Loop(inner.recording, repeats))

    def value(self, tensor: Tensor) -> Value:
        """The tensor's number; one not met before is a buffer."""
        number = self._numbers.get(tensor)
        if number is None:
            parent = self._parent
            if parent is not None and (outer := parent._numbers.get(tensor)) is not None:
                assert parent._root(outer) in parent.recording.buffers, "a loop must only use buffers"
            number = self._new(tensor)
            buffers = self.recording.buffers
            shared = [n for n, other in buffers.items() if _memory(other) == _memory(tensor)]
            self.recording.roots[number] = shared[0] if shared else number
            buffers[number] = tensor
        return Value(number)

    def _note_layouts(self, step: Operation, values: Any, tensors: Any) -> None:
        found = [leaf for leaf in pytree.tree_leaves(tensors) if isinstance(leaf, Tensor)]
        step.layouts |= {n: Layout.of(tensor) for n, tensor in zip(numbers(values), found, strict=True)}

    def _new(self, tensor: Tensor) -> int:
        self._count[0] += 1
        self._numbers[tensor] = self._count[0]
        return self._count[0]

    def _root(self, number: int) -> int:
        return self.recording.roots[number]

    def _output(self, tensor: Tensor, step: Operation, args: Any, kwargs: Any) -> Value:
        known = self._numbers.get(tensor)
        if known is not None:  # an operation in place returns its argument
            return Value(known)
        number = self._new(tensor)
        owners = [
            t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor) and _memory(t) == _memory(tensor)
        ]
        self.recording.roots[number] = self._root(self._numbers[owners[0]]) if owners else number
        return Value(number)

    def _save(self, written: list[int]) -> None:
        for root in {self._root(number) for number in written} & set(self.recording.buffers):
            buffer = self.recording.buffers[root]
            if not any(tensor is buffer for tensor, _ in self.saved):
                self.saved.append((buffer, buffer.clone()))


def _memory(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def numbers(tree: Any) -> list[int]:
    """The values in a tree of arguments or results, in order."""
    return [leaf.number for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Value)]


def _written(step: Operation) -> list[int]:
    """The arguments that the operation writes."""
    found = []
    for position, argument in enumerate(step.function._schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        given = step.args[position] if position < len(step.args) else step.kwargs.get(argument.name)
        found += numbers(given)
    return found


# --- replaying ---


class _Source:
    """Python source of recordings; objects that have no literal are put into `names`."""

    def __init__(self, names: dict[str, Any]) -> None:
        self.names = names

    def lines(self, recording: Recording, indent: str) -> list[str]:
        """Statements in order; a tensor is released after its last use."""
        kept = {f"v{number}": tensor for number, tensor in recording.buffers.items()}
        kept |= {f"v{number}": tensor.detach() for number, tensor in recording.views.items()}
        self.names.update(kept)
        used = set(numbers(recording.result))
        reversed_lines: list[str] = []
        for step in reversed(recording.operations):
            if isinstance(step, Loop):
                repeats = self._name("n", step.repeats)
                body = self.lines(step.body, indent + "    ") or [indent + "    pass"]
                reversed_lines += [*reversed(body), f"{indent}for _ in range({repeats}.number):"]
                continue
            results = numbers(step.result)
            if step.view or not (step.writes or any(number in used for number in results)):
                continue
            arguments = set(step.values())
            released = [f"v{n}" for n in sorted({*arguments, *results} - used) if f"v{n}" not in kept]
            if released:
                reversed_lines.append(f"{indent}{' = '.join(released)} = None")
            used |= arguments
            reversed_lines.append(f"{indent}{self._call(step, kept)}")
        return reversed_lines[::-1]

    def _call(self, step: Operation, kept: dict[str, Tensor]) -> str:
        arguments = [self._expression(argument) for argument in step.args]
        arguments += [f"{name}={self._expression(argument)}" for name, argument in step.kwargs.items()]
        call = f"{self._name('f', step.function)}({', '.join(arguments)})"
        targets = [step.result] if not isinstance(step.result, (tuple, list)) else list(step.result)
        if isinstance(step.result, Value):
            return call if f"v{step.result.number}" in kept else f"v{step.result.number} = {call}"
        names = [f"v{t.number}" if isinstance(t, Value) and f"v{t.number}" not in kept else "_" for t in targets]
        return f"{', '.join(names)}, = {call}" if names else call

    def _expression(self, argument: Any) -> str:
        if isinstance(argument, Value):
            return f"v{argument.number}"
        if isinstance(argument, (list, tuple)):
            return f"[{', '.join(self._expression(item) for item in argument)}]"
        if argument is None or isinstance(argument, (bool, int)):
            return repr(argument)
        return self._name("c", argument)

    def _name(self, kind: str, thing: Any) -> str:
        name = f"{kind}_{len(self.names)}"
        self.names[name] = thing
        return name
