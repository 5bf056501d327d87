"""One gradient and the update around it: the inner step that a sampler repeats thousands of times.

A step consists of functions without arguments over buffers at fixed addresses. Whatever changes between steps (step
size, counters, minibatch) is stored in those buffers, so a step can run in three ways with the same result:

    eager       Python calls, one launch per operation
    captured    one CUDA graph, recorded on the first call and replayed from then on
    a program   on a CPU, traced or compiled (compute/program.py) if the gradient is a single pass. Otherwise the
                gradient compiles its own passes (compute/gradient.py) and only the rest is compiled here; on a
                GPU that rest already consists of fused kernels

Within a recording a step becomes part of it, so that `repeat(step, repeats)` is a loop without Python.

docs/protocol.md shows how a new sampler gets all three.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..compute.capture import Captured, Graph, Pool
from ..compute.operations import WatchingMode, waits_for_value
from ..compute.program import Path, Program
from ..compute.recording import is_recording
from ..errors import UserError
from ..targets.base import Target

__all__ = ["GradientStep", "Graph", "checked_graph", "program", "waiting_operation", "whole"]


def program(target: Target, function: Callable[[], Any], num_chains: int, count: int) -> Program:
    """Work around a gradient on `count` examples, over fixed buffers, by the target's path. On a CPU, dozens of
    small operations cost as much as a few gradients of a small network."""
    path: Path = "eager" if target.device.type != "cpu" else target.path
    if path in ("traced", "loop") and not target.single_pass(num_chains, count):
        path = "eager" if path == "traced" else "compiled"
    return Program(function, path)


def whole(
    target: Target, function: Callable[[], Any], num_chains: int, count: int, *, often: bool = True
) -> Callable[[], Any]:
    """Work that contains gradients on `count` examples: one program if they can be recorded, compiled only if it
    runs often. Otherwise it is called, and each of its parts is a program."""
    recorded = target.path in ("traced", "loop") and target.device.type == "cpu"
    if recorded and target.single_pass(num_chains, count):
        return Program(function, target.path if often else "traced")
    return function


class GradientStep:
    """`prepare`, `gradient`, `update`, in this order, as one step.

    Args:
        gradient: calls `target.log_likelihood_and_grad` on `count` examples, and nothing else.
        buffers: every tensor that the three functions write; recording saves and restores them.
        graph: True captures on a CUDA device or raises UserError; "auto" captures there if possible and warns
            otherwise; False never does. On a CPU there is nothing to capture.
        pool: see `compute/capture.py`.
    """

    def __init__(
        self,
        target: Target,
        gradient: Callable[[], None],
        update: Callable[[], None],
        buffers: Sequence[Tensor],
        *,
        count: int,
        prepare: Callable[[], None] | None = None,
        graph: Graph = False,
        pool: Pool | None = None,
    ) -> None:
        parts = [part for part in (prepare, gradient, update) if part is not None]
        if target.single_pass(len(buffers[0]), count):

            def together() -> None:
                for part in parts:
                    part()

            prepared: list[Callable[[], object]] = [program(target, together, len(buffers[0]), count)]
        else:
            prepared = [
                part if part is gradient else program(target, part, len(buffers[0]), count) for part in parts
            ]

        @torch.no_grad()
        def run() -> None:
            for part in prepared:
                part()

        self._run = run
        self._captured: Captured | None = None
        if graph is False or target.device.type != "cuda":
            return
        # Of no method: no cycle of references keeps a graph in memory.
        if target.stream is not None:  # the gradient waits for the host
            prepared[:] = [
                part if part is gradient else Captured(part, "an update", lambda: buffers, graph, pool)
                for part in prepared
            ]
        else:
            self._captured = Captured(run, "a leapfrog step", lambda: buffers, graph, pool)

    def __call__(self) -> None:
        if self._captured is None or is_recording():
            self._run()
        else:
            self._captured()


class _Watch(WatchingMode):
    """Records the first operation that makes the host wait for a value on the device."""

    found: str | None = None

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if self.found is None and waits_for_value(func, args):
            self.found = str(func).removesuffix(".default")
        return func(*args, **(kwargs or {}))


def waiting_operation(function: Callable[[], object]) -> str | None:
    """The first operation in `function` that a CUDA graph cannot contain, because it reads a value back to the
    host or its shape depends on values; None if there is none. Runs `function` once, on any device.
    """
    with _Watch() as watch:
        function()
    return watch.found


def checked_graph(target: Target, graph: Graph) -> Graph:
    """`graph`, or False with a warning if the model's gradient cannot be captured.

    Raises:
        UserError: graph is True and there is no CUDA device, or the gradient cannot be captured.
    """
    if graph not in ("auto", True, False):
        raise UserError(f"graph {graph!r} is unknown: use 'auto', True or False")
    if graph is True and target.device.type != "cuda":
        raise UserError(f"graph=True needs a CUDA device, not {target.device}: use graph='auto'")
    if graph is False or target.device.type != "cuda":
        return False
    part = target.prepared(path="eager").first_examples(1)
    theta = part.example_row()
    grad, log_lik = torch.empty_like(theta), theta.new_empty(1, part.num_data)
    found = waiting_operation(lambda: part.log_likelihood_and_grad(theta, grad, log_lik))
    if found is None:
        return graph
    message = f"the model calls {found}, which makes the host wait for a value, so no CUDA graph can contain it"
    if graph is True:
        raise UserError(f"{message}; use graph='auto' or False")
    warnings.warn(f"{message}: leapfrog steps run without a graph, which is slower", stacklevel=3)
    return False
