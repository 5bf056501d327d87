"""The gradient of the log likelihood for every chain, in micro-batches: it dominates the cost of sampling.

    chain_batching   all C chains in
    "vmap"           one batched pass (convolutions become grouped ones)
    "loop"           C passes, one after the other
    "streams"        C passes on parallel CUDA streams; in a graph, parallel branches

The gradient is one flat tensor, because the views of a row come from `torch.split`, whose backward is a single
concatenation.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from . import batches
from .batches import Inputs, Part
from .compilation import compile_function
from .precision import Precision, arithmetic

__all__ = ["ChainBatching", "GradientPass"]

ChainBatching = Literal["vmap", "loop", "streams"]

# Parallel branches: enough to fill a GPU that a single branch would not, few enough that their activations fit.
_MAX_STREAMS = 8


class _Pass(NamedTuple):
    """The static properties of a micro-batch, to which a compiled function is specialised."""

    batched: bool  # all chains at once, theta (C, D); else a single one, (D,)
    shared: bool  # all chains use the same examples, x (B, ...); else their own, (C, B, ...)
    scale: float  # of the gradient: N/B
    accumulate: bool  # add to the gradient; else overwrite it


class GradientPass:
    """Gradients of `log_prob`, summed over examples, eager or compiled.

    Args:
        log_prob: `(row (D,), x (B, ...), y (B, ...)) -> (B,)`; x may be a dict or tuple of tensors.
        micro_batch_size: examples per forward and backward pass.
        precision: of the gradient; see `precision.py`.
        half_vectors: when compiled; see `compile_function`.
    """

    def __init__(
        self,
        log_prob: Callable[[Tensor, Any, Tensor], Tensor],
        chain_batching: ChainBatching,
        *,
        micro_batch_size: int,
        precision: Precision = "fp32",
        half_vectors: bool = False,
    ) -> None:
        self.log_prob, self.chain_batching = log_prob, chain_batching
        self.micro_batch_size, self.precision = micro_batch_size, precision
        self.half_vectors = half_vectors
        self._compiled: dict[Any, Callable[..., None]] = {}
        self._weights: dict[Any, Tensor] = {}
        self._streams: list[torch.cuda.Stream] = []

    def __call__(
        self,
        theta: Tensor,
        parts: Iterable[Part],
        grad: Tensor,
        log_lik: Tensor,
        *,
        shared: bool = True,
        scale: float = 1.0,
        compiled: bool = False,
    ) -> None:
        """Overwrites `grad (C, D)` with `scale` times the gradient of the sum over all examples of `parts`, and
        `log_lik (C, B)` with their unscaled values.

        shared: all chains use the same examples, `(B, ...)`; else each its own, `(C, B, ...)`.
        compiled: through `torch.compile`, one function per shape. An incomplete last micro-batch is too rare to be
        worth its own compilation and stays eager.
        """
        count = log_lik.shape[1]
        size = min(count, self.micro_batch_size)
        traced = torch.compiler.is_compiling()  # as part of a larger function, in float32: no precision flag to set
        with nullcontext() if traced else arithmetic(self.precision, theta.device):
            for part, x, y in parts:
                how = _Pass(self.chain_batching == "vmap", shared, scale, accumulate=part.start > 0)
                run = self._traced if traced else self._eager
                if compiled and not traced and part.stop - part.start == size:
                    run = self._specialised
                self._chains(run, how, theta, x, y, grad, log_lik[:, part] if size < count else log_lik)

    def log_likelihood(self, theta: Tensor, parts: Iterable[Part], log_lik: Tensor) -> None:
        """Writes each example's value, `(C, N)`, in full precision and without a gradient."""
        function = self.log_prob
        if self.chain_batching == "vmap":
            function = _over_chains(function, shared=True)
        with torch.no_grad(), arithmetic("fp32", theta.device):
            for part, x, y in parts:
                if self.chain_batching == "vmap":
                    log_lik[:, part] = function(theta, x, y)
                else:
                    for chain, row in enumerate(theta):
                        log_lik[chain, part] = function(row, x, y)

    def functional(self, *, batched: bool, shared: bool, scale: float) -> Callable[..., tuple[Tensor, Tensor]]:
        """`(theta, x, y) -> (gradient, values)` without autograd's tape, so that it can be traced as one graph."""

        def total(row: Tensor, x: Any, y: Tensor) -> tuple[Tensor, Tensor]:
            values = self.log_prob(row, x, y)
            return values.sum() * scale, values

        gradient = torch.func.grad(total, has_aux=True)
        return _over_chains(gradient, shared=shared) if batched else gradient

    def _chains(
        self,
        run: Callable[..., None],
        how: _Pass,
        theta: Tensor,
        x: Inputs,
        y: Tensor,
        grad: Tensor,
        log_lik: Tensor,
    ) -> None:
        """One micro-batch for all chains: one call of `run` if they are batched, else one call per chain."""
        if how.batched:
            run(how, theta, x, y, grad, log_lik)
            return
        alone = how._replace(shared=True)
        current = torch.cuda.current_stream(theta.device) if self.chain_batching == "streams" else None
        for chain in range(len(theta)):
            own_x, own_y = (x, y) if how.shared else (batches.rows(x, chain), y[chain])
            with nullcontext() if current is None else self._branch(chain, current):
                run(alone, theta[chain], own_x, own_y, grad[chain], log_lik[chain])
        if current is not None:
            for stream in self._streams[: len(theta)]:
                current.wait_stream(stream)

    def _branch(self, chain: int, current: torch.cuda.Stream) -> AbstractContextManager[object]:
        """The chain's stream, made to wait for earlier work on the current one."""
        if len(self._streams) < _MAX_STREAMS:
            self._streams.append(torch.cuda.Stream(current.device))
        stream = self._streams[chain % _MAX_STREAMS]
        stream.wait_stream(current)
        return torch.cuda.stream(stream)

    def _eager(self, how: _Pass, theta: Tensor, x: Inputs, y: Tensor, grad: Tensor, log_lik: Tensor) -> None:
        # Autograd, not torch.func.grad, which takes up to twice as long in eager mode (ResNet-20, 2 cores).
        with torch.enable_grad():
            rows = theta.detach().requires_grad_()
            function = _over_chains(self.log_prob, shared=how.shared) if how.batched else self.log_prob
            values = function(rows, x, y)
            if theta.is_cuda:  # weighted where autograd begins: the same bits from three launches fewer
                (gradient,) = torch.autograd.grad(values, rows, self._weights_of(values, how.scale))
            else:  # to check such weights, torch imports sympy, for which a short run would wait
                (gradient,) = torch.autograd.grad(values.sum() * how.scale, rows)
        _write(how, grad, log_lik, gradient, values.detach())

    def _weights_of(self, values: Tensor, scale: float) -> Tensor:
        """Kept, which saves another launch; before a graph is captured, it runs and so allocates them."""
        key = values.shape, values.dtype, scale
        if key not in self._weights:
            self._weights[key] = torch.full_like(values, scale, requires_grad=False)
        return self._weights[key]

    def _traced(self, how: _Pass, theta: Tensor, x: Inputs, y: Tensor, grad: Tensor, log_lik: Tensor) -> None:
        function = self.functional(batched=how.batched, shared=how.shared, scale=how.scale)
        _write(how, grad, log_lik, *function(theta, x, y))

    def _specialised(self, how: _Pass, theta: Tensor, x: Inputs, y: Tensor, grad: Tensor, log_lik: Tensor) -> None:
        key = (how, theta.shape, repr(batches.shapes(x)), y.shape, log_lik.stride())
        if key not in self._compiled:

            def run(theta: Tensor, x: Inputs, y: Tensor, grad: Tensor, log_lik: Tensor) -> None:
                self._traced(how, theta, x, y, grad, log_lik)

            self._compiled[key] = compile_function(run, cpu=not theta.is_cuda, half_vectors=self.half_vectors)
        with torch.no_grad():
            self._compiled[key](theta, x, y, grad, log_lik)


def _over_chains(function: Callable[..., Any], *, shared: bool) -> Callable[..., Any]:
    return torch.func.vmap(function, in_dims=(0, None, None) if shared else (0, 0, 0))


def _write(how: _Pass, grad: Tensor, log_lik: Tensor, gradient: Tensor, values: Tensor) -> None:
    if how.accumulate:
        grad.add_(gradient)
    else:
        grad.copy_(gradient)
    log_lik.copy_(values)
