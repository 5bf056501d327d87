"""Gradient of one micro-batch for every chain: the one thing that costs.

    chain_batching   all C chains in
    "vmap"           one batched pass (convolutions become grouped ones)
    "loop"           C passes, one after the other
    "streams"        C passes on parallel CUDA streams; in a graph, parallel branches

The gradient comes back as one flat tensor, since the views of a row are a `torch.split`, whose backward is a
single concatenation.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from .compilation import compile_function

__all__ = ["ChainBatching", "GradientPass"]

ChainBatching = Literal["vmap", "loop", "streams"]

# Branches that run at once: more than a GPU fills with one, few enough that their activations fit.
_MAX_STREAMS = 8


class GradientPass:
    """Adds one micro-batch to the gradient, eagerly or compiled.

    Args:
        log_prob: `(row (D,), x (B, ...), y (B, ...)) -> (B,)`.
        compiled: through `torch.compile`, one function per shape.
    """

    def __init__(
        self,
        log_prob: Callable[[Tensor, Tensor, Tensor], Tensor],
        chain_batching: ChainBatching,
        *,
        compiled: bool = False,
    ) -> None:
        self.log_prob, self.chain_batching, self.compiled = log_prob, chain_batching, compiled
        self._functions: dict[Any, Callable[..., None]] = {}
        self._streams: list[torch.cuda.Stream] = []

    def __call__(
        self,
        theta: Tensor,
        x: Tensor,
        y: Tensor,
        grad: Tensor,
        log_lik: Tensor,
        *,
        shared: bool,
        scale: float,
        accumulate: bool,
        compiled: bool,
    ) -> None:
        """Writes (`accumulate`: adds) scale times the gradient of the summed log likelihood.

        Args:
            theta, grad: `(C, D)`. log_lik: `(C, B)`, overwritten, unscaled.
            x, y: `(B, ...)` if `shared` by all chains, else `(C, B, ...)`.
            compiled: False stays eager, for a shape that is too rare to pay for its compilation.
        """
        if self.chain_batching == "vmap":
            self._one(theta, x, y, grad, log_lik, shared, scale, True, accumulate, compiled)
            return
        current = torch.cuda.current_stream(theta.device) if self.chain_batching == "streams" else None
        for chain in range(len(theta)):
            chosen = (x, y) if shared else (x[chain], y[chain])
            with self._branch(chain, current):
                rows = theta[chain], *chosen, grad[chain], log_lik[chain]
                self._one(*rows, True, scale, False, accumulate, compiled)
        if current is not None:
            for stream in self._streams[: len(theta)]:
                current.wait_stream(stream)

    def _branch(self, chain: int, current: "torch.cuda.Stream | None") -> Any:
        """The chain's stream, joined to what came before on the current one."""
        if current is None:
            return torch.cuda.stream(None)  # no stream: does nothing
        if len(self._streams) < _MAX_STREAMS:
            self._streams.append(torch.cuda.Stream(current.device))
        stream = self._streams[chain % _MAX_STREAMS]
        stream.wait_stream(current)
        return torch.cuda.stream(stream)

    def _one(
        self,
        theta: Tensor,
        x: Tensor,
        y: Tensor,
        grad: Tensor,
        log_lik: Tensor,
        shared: bool,
        scale: float,
        batched: bool,
        accumulate: bool,
        compiled: bool,
    ) -> None:
        """All chains, `(C, D)`, if `batched`; else one, `(D,)`."""
        if torch.compiler.is_compiling():  # traced into a whole unit (gradient_step.py)
            gradient, values = self.functional(shared, scale, batched)(theta, x, y)
            _write(grad, log_lik, gradient, values, accumulate)
            return
        if compiled and self.compiled:
            key = (theta.shape, x.shape, log_lik.stride(), shared, scale, accumulate)
            if key not in self._functions:
                gradient_of = self.functional(shared, scale, batched)

                def add(theta: Tensor, x: Tensor, y: Tensor, grad: Tensor, log_lik: Tensor) -> None:
                    gradient, values = gradient_of(theta, x, y)
                    _write(grad, log_lik, gradient, values, accumulate)

                self._functions[key] = compile_function(add, cpu=not theta.is_cuda)
            with torch.no_grad():
                self._functions[key](theta, x, y, grad, log_lik)
            return
        # Autograd, not torch.func.grad, which takes up to twice as long eagerly (ResNet-20, 2 cores).
        with torch.enable_grad():
            rows = theta.detach().requires_grad_()
            function = self._batched(self.log_prob, shared) if batched else self.log_prob
            values = function(rows, x, y)
            (gradient,) = torch.autograd.grad(values.sum() * scale, rows)
        _write(grad, log_lik, gradient, values.detach(), accumulate)

    def functional(self, shared: bool, scale: float, batched: bool) -> Callable[..., Any]:
        """The same without autograd's tape, as a function that can be traced whole."""

        def total(row: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            values = self.log_prob(row, x, y)
            return values.sum() * scale, values

        gradient = torch.func.grad(total, has_aux=True)
        return self._batched(gradient, shared) if batched else gradient

    @staticmethod
    def _batched(function: Callable[..., Any], shared: bool) -> Callable[..., Any]:
        return torch.func.vmap(function, in_dims=(0, None, None) if shared else (0, 0, 0))


def _write(grad: Tensor, log_lik: Tensor, gradient: Tensor, values: Tensor, accumulate: bool) -> None:
    if accumulate:
        grad.add_(gradient)
    else:
        grad.copy_(gradient)
    log_lik.copy_(values)
