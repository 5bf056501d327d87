"""Compiles a recording, loops included, into one C++ function for a CPU.

A trajectory is then a single call: between its steps there is neither Python nor a call into torch's dispatcher.

Loops become `while_loop`, whose body must be a function of what it carries from one iteration to the next. Those
are the buffers that the body writes, except scratch: what it overwrites before reading it, and what is overwritten
again after the loop before anybody reads it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .compilation import cpu_options
from .recording import Loop, Operation, Recording, Value, numbers

__all__ = ["can_compile_loops", "compile_recording"]

_OVERWRITING = ("aten.copy_.default", "aten.zero_.default", "aten.fill_.Scalar", "aten.fill_.Tensor")


def can_compile_loops() -> bool:
    """Whether this version of torch has loops to compile."""
    try:
        from torch._higher_order_ops.while_loop import while_loop_op  # noqa: F401
    except ImportError:
        return False
    return True


def compile_recording(recording: Recording) -> Callable[[], Any]:
    """The recording as one compiled function without arguments. Raises whatever the compiler raises."""
    import torch._inductor
    from torch._guards import TracingContext, tracing
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    given, tensors = list(recording.buffers), [_plain(buffer) for buffer in recording.buffers.values()]
    _refuse_shared_memory(recording)
    loops = [
        _WhileLoop(step, recording, index)
        for index, step in enumerate(recording.operations)
        if isinstance(step, Loop)
    ]
    tensors += [loop.repeats for loop in loops]

    def program(*inputs: Tensor) -> list[Tensor]:
        values = dict(zip(given, inputs, strict=False))
        next_loop = zip(loops, inputs[len(given) :], strict=True)
        for step in recording.operations:
            if isinstance(step, Loop):
                loop, repeats = next(next_loop)
                loop.run(values, repeats)
            else:
                _run(step, values)
        return [values[number] for number in numbers(recording.result)]

    with torch.no_grad():
        graph = make_fx(program, tracing_mode="fake")(*tensors)
        for module in graph.modules():
            for node in getattr(module, "graph", torch.fx.Graph()).nodes:
                node.meta.clear()  # fake tensors of other modes
        fake = FakeTensorMode(shape_env=ShapeEnv(), static_shapes=True)
        examples: list[Any] = [fake.from_tensor(tensor, static_shapes=True) for tensor in tensors]
        with tracing(TracingContext(fake)):
            compiled: Any = torch._inductor.compile(graph, examples, options=cpu_options())
    return lambda: recording.returned(compiled(*tensors))


def _plain(buffer: Tensor) -> Tensor:
    """The same memory with the strides of a new tensor: one row may have any first stride."""
    return buffer.view(-1).view(buffer.shape) if buffer.is_contiguous() else buffer


def _run(step: Operation, values: dict[int, Any]) -> None:
    args, kwargs = pytree.tree_map_only(Value, lambda v: values[v.number], (step.args, step.kwargs))
    _assign(step.result, step.function(*args, **kwargs), values)


def _assign(names: Any, result: Any, values: dict[int, Any]) -> None:
    if isinstance(names, Value):
        values[names.number] = result
    elif isinstance(names, (tuple, list)):
        for name, item in zip(names, result, strict=True):
            _assign(name, item, values)


def _refuse_shared_memory(recording: Recording) -> None:
    """A graph has no notion of two inputs that share memory, of which one is written."""
    written = recording.written()
    for number, buffer in recording.buffers.items():
        root = recording.roots[number]
        assert root == number or root not in written, f"two views of one buffer {tuple(buffer.shape)}, one written"


class _WhileLoop:
    """A loop of `recording`, as a graph of its body and the buffers that it carries."""

    def __init__(self, loop: Loop, recording: Recording, index: int) -> None:
        body = loop.body
        _refuse_shared_memory(body)
        self.body, self.repeats = body, loop.repeats.tensor
        number_of = {id(buffer): number for number, buffer in recording.buffers.items()}
        self.outer = {number: number_of[id(buffer)] for number, buffer in body.buffers.items()}
        written = body.written()
        self.carried = [
            number
            for number, buffer in body.buffers.items()
            if number in written
            and (
                _read_first(body, 0, buffer, default=False)
                or _read_first(recording, index + 1, buffer, default=True)
            )
        ]
        self.others = [number for number in body.buffers if number not in self.carried]
        self.graph = self._graph()

    def run(self, values: dict[int, Any], repeats: Any) -> None:
        """Adds the loop to the graph being traced. It runs at least once (`recording.repeat`): otherwise it would
        return what it was given, and the compiler, unaware that both share memory, would overwrite one before it
        has read the other."""
        from torch._higher_order_ops.while_loop import while_loop_op

        carried = [values[self.outer[number]] for number in self.carried]
        others = [values[self.outer[number]] for number in self.others]

        def go_on(count: Tensor, *rest: Tensor) -> Tensor:
            return count < rest[len(carried)]

        count = torch.zeros((), dtype=torch.int64)
        state = while_loop_op(go_on, self.graph, (count, *carried), (repeats, *others))
        for buffer, final in zip(carried, state[1:], strict=True):
            buffer.copy_(final)

    def _graph(self) -> torch.fx.GraphModule:
        """`(count, *carried, repeats, *others) -> (count + 1, *carried)`, without side effects."""
        from torch.fx.experimental.proxy_tensor import make_fx

        body, carried, scratch = self.body, self.carried, self.body.written() - set(self.carried)

        def iteration(count: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
            values: dict[int, Any] = dict(zip(carried, (tensor.clone() for tensor in inputs), strict=False))
            for number, tensor in zip(self.others, inputs[len(carried) + 1 :], strict=True):
                values[number] = tensor.clone() if number in scratch else tensor
            for step in body.operations:
                assert isinstance(step, Operation), "loops are not nested"
                _run(step, values)
            return (count + 1, *(values[number] for number in carried))

        inputs = [_plain(body.buffers[number]) for number in carried]
        others = [_plain(body.buffers[number]) for number in self.others]
        counter, repeats = torch.zeros((), dtype=torch.int64), torch.zeros((), dtype=torch.int64)
        functional = torch.func.functionalize(iteration, remove="mutations")
        graph = make_fx(functional, tracing_mode="fake")(counter, *inputs, repeats, *others)
        _simplify(graph)
        return graph


def _simplify(graph: torch.fx.GraphModule) -> None:
    """Removes the copies that functionalization leaves: nothing is written any more."""
    aten = torch.ops.aten
    results = set(next(node for node in graph.graph.nodes if node.op == "output").args[0])
    for node in list(graph.graph.nodes):
        if node.target is aten.detach.default or (
            node.target is aten.clone.default and node.args[0].op == "placeholder" and node not in results
        ):
            source = node.args[0]
        elif node.target is aten.copy.default and _layout(node.args[0]) == _layout(node.args[1]):
            source = node.args[1]
            if node in results and source.op == "placeholder":
                continue
        else:
            continue
        node.replace_all_uses_with(source)
        graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _layout(node: torch.fx.Node) -> Any:
    tensor = node.meta["val"]
    return tensor.shape, tensor.stride(), tensor.dtype


def _read_first(recording: Recording, start: int, buffer: Tensor, *, default: bool) -> bool:
    """Whether, from operation `start` on, the buffer is read before it is overwritten as a whole; `default` if
    neither happens. A loop that touches it counts as reading."""
    roots = recording.roots
    number = next((n for n, other in recording.buffers.items() if other is buffer), None)
    for step in recording.operations[start:]:
        if isinstance(step, Loop):  # whose body has numbers of its own
            if any(other is buffer for other in step.body.buffers.values()):
                return True
            continue
        if step.view or number not in {roots[n] for n in step.values()}:
            continue
        overwrites = str(step.function) in _OVERWRITING and step.args[0] == Value(number)
        return not (overwrites and number not in {roots[v.number] for v in step.args[1:] if isinstance(v, Value)})
    return default
