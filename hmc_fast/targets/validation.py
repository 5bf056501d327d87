"""Validation before sampling: rejects models without a fixed density, and data that do not fit."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parameter import UninitializedParameter

from ..errors import UserError
from .likelihoods import Categorical, Likelihood

__all__ = ["check_data", "check_example", "check_model", "vmap_refusal"]


def check_model(model: nn.Module) -> None:
    """Rejects models without a fixed density; the message names a fix.

    Raises:
        UserError: BatchNorm that uses batch statistics, active dropout, a lazy module, parameters that are
            not float32 or float64 (or a mix), or nothing to sample.
    """
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


def check_data(x: Tensor, y: Tensor) -> None:
    """Rejects data that are empty, differ in length, or contain NaN or infinities.

    Raises:
        UserError: naming the problem and the row.
    """
    if len(x) == 0:
        raise UserError("the data are empty: X must contain at least one example")
    if len(x) != len(y):
        raise UserError(f"X has {len(x)} examples but y has {len(y)}: the numbers must match")
    for name, values in (("X", x), ("y", y)):
        if values.is_floating_point() and not bool(torch.isfinite(values).all()):
            row = int(torch.nonzero(~torch.isfinite(values).flatten(1 if values.ndim > 1 else 0))[0, 0])
            raise UserError(f"{name} contains NaN or infinity in row {row}: remove or impute it")


def check_example(outputs_of: Callable[[Tensor], Tensor], likelihood: Likelihood, x: Tensor, y: Tensor) -> None:
    """Rejects data that the model or the likelihood cannot process, tried on the first example, and labels outside
    the model's classes.

    outputs_of: the model, from inputs `(B, ...)` to outputs.

    Raises:
        UserError: quoting torch's message.
    """
    try:
        outputs = outputs_of(x[:1])
        if isinstance(likelihood, Categorical):
            _check_labels(y, outputs.shape[-1])  # first: on a GPU an out-of-range label kills the CUDA context
        value = likelihood.log_prob(outputs, y[:1])
    except (RuntimeError, IndexError, TypeError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(
            f"the model with the likelihood {type(likelihood).__name__} fails on an example of shape "
            f"{tuple(x[:1].shape)}: {reason}"
        ) from error
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
    log_prob: Callable[[Tensor, Tensor, Tensor], Tensor], row: Tensor, x: Tensor, y: Tensor
) -> str | None:
    """Why torch.vmap cannot evaluate two chains at once, or None if it can; tested on one example."""
    rows = row.expand(2, -1).contiguous()
    try:
        torch.func.vmap(log_prob, in_dims=(0, None, None))(rows, x[:1], y[:1])
    except RuntimeError as error:
        return str(error).strip().split("\n")[0][:160]
    return None
