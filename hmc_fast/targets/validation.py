"""Validation before sampling: rejects models without a fixed density, and data that do not fit."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parameter import UninitializedParameter

from ..compute.batches import Inputs, named, rows, shapes
from ..errors import UserError
from .likelihoods import Bernoulli, Categorical, Gaussian, HeteroscedasticGaussian, Likelihood

__all__ = ["check_data", "check_example", "check_model", "fitting_labels", "labels_like", "vmap_refusal"]


def check_model(model: object) -> None:
    """Rejects models without a fixed density; the message names a fix.

    Raises:
        UserError: BatchNorm that uses batch statistics, active dropout, a lazy module, parameters that are
            not float32 or float64 (or a mix), or nothing to sample.
    """
    if not isinstance(model, nn.Module):
        what = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
        raise UserError(f"model is {what}: give an object that is a torch.nn.Module, such as torch.nn.Linear(4, 2)")
    if isinstance(model, torch.jit.ScriptModule):
        raise UserError(
            "the model is a TorchScript module, whose parameters cannot be replaced: give the module that it was "
            "made from"
        )
    for name, module in model.named_modules():
        where = f"{type(module).__name__} at {name or 'the top level'!r}"
        if isinstance(module, _BatchNorm) and (module.training or not module.track_running_stats):
            raise UserError(
                f"{where} normalises with the statistics of the batch, so the likelihood of one example depends "
                "on the others: use FRN or GroupNorm, or call model.eval() to freeze running statistics"
            )
        dropout = module.p if isinstance(module, _DropoutNd) else getattr(module, "dropout", 0.0)
        if module.training and isinstance(dropout, float) and dropout > 0:
            raise UserError(
                f"{where} drops activations at random (p = {dropout}), so the posterior has no fixed density: "
                "remove it or call model.eval()"
            )
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for name, parameter in parameters.items():
        if isinstance(parameter, UninitializedParameter):
            raise UserError(
                f"parameter {name!r} is lazy and has no shape yet: run the model once on an example before sampling"
            )
        if parameter.dtype not in (torch.float32, torch.float64):
            raise UserError(
                f"parameter {name!r} has dtype {parameter.dtype}, but only float32 and float64 can be sampled: "
                "call model.float()"
            )
    if not parameters:
        raise UserError(f"{type(model).__name__} has no parameter that requires a gradient: nothing to sample")
    if len({p.dtype for p in parameters.values()}) > 1:
        raise UserError(f"{type(model).__name__} mixes float32 and float64 parameters: call model.float()")


def fitting_labels(likelihood: Likelihood, y: Tensor) -> Tensor:
    """`y (N,)` as the likelihoods of this package take it: a column `(N, 1)` is flattened, integers are int64.

    Raises:
        UserError: Bernoulli's labels are not 0 and 1, or there are several columns.
    """
    if isinstance(likelihood, Categorical | Bernoulli | Gaussian | HeteroscedasticGaussian):
        name = type(likelihood).__name__
        if y.ndim == 2 and y.shape[1] == 1:
            y = y[:, 0]
        if y.ndim != 1:
            raise UserError(f"y has shape {tuple(y.shape)}: {name} takes one number per example, (N,)")
        if isinstance(likelihood, Bernoulli) and not bool(((y == 0) | (y == 1)).all()):
            low, high = y.min().item(), y.max().item()
            raise UserError(
                f"labels of a Bernoulli likelihood must be 0 or 1, y ranges over {low:g}..{high:g}: encode them, "
                "or use 'categorical'"
            )
    return y if y.is_floating_point() else y.long()


def labels_like(y: Tensor, data: Tensor) -> Tensor:
    """A batch's labels on the device of the data's, in their dtype.

    Raises:
        UserError: they are of another kind or shape.
    """
    if y.shape[1:] != data.shape[1:] or y.is_floating_point() != data.is_floating_point():
        raise UserError(
            f"the batch's y is {y.dtype} {tuple(y.shape)}, but that of the data is {data.dtype} "
            f"{tuple(data.shape)}: give labels of the same kind"
        )
    return y.to(data)


def check_data(x: Inputs, y: Tensor, *, first_row: int = 0) -> None:
    """Rejects data that are empty, differ in length, or contain NaN or infinities.

    first_row: number of the first example, for messages.

    Raises:
        UserError: naming the problem and the row.
    """
    tensors = [*named(x), ("y", y)]
    if len(tensors) == 1 or any(values.ndim == 0 or len(values) == 0 for _, values in tensors):
        raise UserError("the data are empty: X must contain at least one example")
    for name, values in tensors[:-1]:
        if len(values) != len(y):
            raise UserError(f"{name} has {len(values)} examples but y has {len(y)}: the numbers must match")
    for name, values in tensors:
        if values.is_floating_point() and not bool(torch.isfinite(values).all()):
            row = first_row + int(torch.nonzero(~torch.isfinite(values).flatten(1 if values.ndim > 1 else 0))[0, 0])
            raise UserError(f"{name} contains NaN or infinity in row {row}: remove or impute it")


def check_example(
    outputs_of: Callable[[Any], Tensor], likelihood: Likelihood, x: Inputs, y: Tensor, labels: Tensor | None = None
) -> None:
    """Rejects data that the model or the likelihood cannot process, tried on the first example, and labels outside
    the model's classes.

    outputs_of: the model, from inputs `(B, ...)` to outputs. labels: the extreme ones, if not in y.

    Raises:
        UserError: quoting torch's message.
    """
    try:
        outputs = outputs_of(rows(x, slice(1)))
        if isinstance(likelihood, Categorical):
            _check_labels(
                y if labels is None else labels, outputs.shape[-1]
            )  # first: on a GPU an out-of-range label kills the CUDA context
        value = likelihood.log_prob(outputs, y[:1])
    except (RuntimeError, IndexError, TypeError) as error:
        reason = str(error).split("\n")[0]
        cure = ""
        if isinstance(x, Tensor) and not x.is_floating_point():
            cure = f" (X holds {x.dtype}: layers of real numbers need X.float())"
        raise UserError(
            f"the model with the likelihood {type(likelihood).__name__} fails on an example of shape "
            f"{shapes(x)}: {reason}{cure}"
        ) from error
    if not isinstance(value, Tensor):
        raise UserError(f"the likelihood returned a {type(value).__name__}: it must return a tensor, (B,)")
    if value.shape != (1,):
        raise UserError(
            f"the likelihood returned shape {tuple(value.shape)} for one example: it must return one log "
            "likelihood per example, (B,)"
        )


def _check_labels(y: Tensor, classes: int) -> None:
    if y.is_floating_point() or int(y.min()) < 0 or int(y.max()) >= classes:
        raise UserError(
            f"labels must be integers in 0..{classes - 1}, the model's classes; y ranges over "
            f"{y.min().item()}..{y.max().item()} ({y.dtype})"
        )


def vmap_refusal(
    log_prob: Callable[[Tensor, Any, Tensor], Tensor], row: Tensor, x: Inputs, y: Tensor, *, slowly: bool
) -> str | None:
    """Why torch.vmap cannot batch two chains, or None if it can; values and gradients of two examples are tried.

    slowly: operations without a batching rule, which vmap runs once per chain, are no reason.
    """
    both = row.expand(2, -1).clone().requires_grad_()
    own = torch.arange(min(2, len(y)), device=y.device).expand(2, -1)  # the chains' minibatches
    try:
        with _fallback(slowly):
            with torch.no_grad():
                torch.func.vmap(log_prob, in_dims=(0, None, None))(both, rows(x, slice(2)), y[:2])
            with torch.enable_grad():
                values = torch.func.vmap(log_prob)(both, rows(x, own), y[own])
                torch.autograd.grad(values.sum(), both)
    except RuntimeError as error:
        reason = str(error).strip().split("\n")[0][:160]
        operation, _, rest = reason.partition(" hit the vmap fallback")
        return f"no batching rule for {operation}" if rest else reason
    return None


@contextmanager
def _fallback(allowed: bool) -> Iterator[None]:
    """Whether vmap may run what has no batching rule in a loop, with a warning for each operation."""
    functorch: Any = torch._C._functorch  # torch has no public switch
    before = functorch._is_vmap_fallback_enabled()
    functorch._set_vmap_fallback_enabled(allowed)
    try:
        yield
    finally:
        functorch._set_vmap_fallback_enabled(before)
