"""A function over buffers at fixed addresses as a CUDA graph: recorded on its first call, replayed from then on."""

import gc
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import UserError

__all__ = ["Captured", "Graph", "Pool", "graph_pool"]

Graph = Literal["auto", True, False]
Pool = Any  # torch's handle, whose type differs between versions

_WARM_UP_CALLS = 3  # torch's advice: libraries choose algorithms and allocate on the first calls


def graph_pool(device: torch.device, graph: Graph) -> Pool | None:
    """Memory shared by graphs that never run at the same time and keep nothing between replays: for the steps of a
    trajectory, several GB of activations once, not once per graph."""
    if graph is False or device.type != "cuda":
        return None
    with torch.cuda.device(device):
        return torch.cuda.graph_pool_handle()


class Captured:
    """`function`, which returns nothing, a tensor or a tuple of tensors; a call returns copies of them.

    Args:
        name: of what is captured, for messages.
        buffers: every tensor that the function writes; recording saves and restores them.
        graph: True captures or raises UserError; "auto" warns, and calls the function, if it cannot be captured.
        pool: see `graph_pool`.
    """

    def __init__(
        self,
        function: Callable[[], Any],
        name: str,
        buffers: Callable[[], Sequence[Tensor]],
        graph: Graph,
        pool: Pool | None,
    ) -> None:
        self._function, self._name, self._buffers = function, name, buffers
        self._wanted, self._pool = graph, pool
        self._graph: torch.cuda.CUDAGraph | None = None
        self._outputs: Any = None

    def __call__(self) -> Any:
        if self._wanted:
            self._record()
        if self._graph is None:
            return self._function()
        self._graph.replay()
        if isinstance(self._outputs, tuple):
            return tuple(output.clone() for output in self._outputs)
        return None if self._outputs is None else self._outputs.clone()

    @property
    def recorded(self) -> bool:
        return self._graph is not None

    def _record(self) -> None:
        """Captures the function without advancing the chains: the buffers are restored after the warm-up calls."""
        required, self._wanted = self._wanted is True, False
        buffers = self._buffers()
        device, saved = buffers[0].device, [buffer.clone() for buffer in buffers]
        try:
            with torch.cuda.device(device):
                self._graph, self._outputs = _captured(self._function, self._pool)
        except RuntimeError as error:  # what CUDA raises when an operation cannot be captured
            reason = str(error).strip().split("\n")[0]
            message = f"{self._name} cannot be captured in a CUDA graph ({reason})"
            if required:
                raise UserError(f"{message}: use graph='auto' or False to run without a graph") from error
            warnings.warn(f"{message}: it runs without one, which is slower", stacklevel=3)
        finally:
            torch.cuda.synchronize(device)
            for buffer, values in zip(buffers, saved, strict=True):
                buffer.copy_(values)


def _captured(function: Callable[[], Any], pool: Pool | None) -> tuple[torch.cuda.CUDAGraph, Any]:
    """A graph of `function` on the current device, and what the function returned. Calls it a few times.

    Raises:
        RuntimeError: from the operation that cannot be captured.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP_CALLS):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    gc.collect()
    torch.cuda.empty_cache()  # of activations, which the graph allocates for itself
    graph = torch.cuda.CUDAGraph()
    collecting = gc.isenabled()
    gc.disable()  # a collection may free tensors in the midst of a capture
    try:
        with torch.cuda.stream(stream):
            graph.capture_begin(pool)
            try:
                outputs = function()
            except BaseException:
                with suppress(RuntimeError):  # it repeats that the capture failed, not why
                    graph.capture_end()
                raise
            graph.capture_end()
    finally:
        if collecting:
            gc.enable()
    return graph, outputs
