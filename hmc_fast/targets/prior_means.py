"""Means of priors, in whatever form a user has them: a number, a tensor, or values by parameter name."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import UserError
from .flat_module import FlatModel

__all__ = ["copied_mean", "mean_in_words", "mean_of"]


def copied_mean(mean: Any) -> Any:
    """None, a number, a tensor, or a dict of tensors by parameter name."""
    if isinstance(mean, nn.Module):
        mean = mean.state_dict()
    if isinstance(mean, Mapping):
        if not all(isinstance(value, Tensor | np.ndarray) for value in mean.values()):
            raise UserError("prior mean is a dict of other things than tensors: give a module's state_dict()")
        copied: Any = {str(name): torch.as_tensor(value).detach().clone() for name, value in mean.items()}
    elif isinstance(mean, Tensor | np.ndarray):
        copied = torch.as_tensor(mean).detach().clone()
    elif mean is None or (isinstance(mean, int | float) and not isinstance(mean, bool)):
        copied = mean
    else:
        what = f"the class {mean.__name__}" if isinstance(mean, type) else f"a {type(mean).__name__}"
        raise UserError(f"prior mean is {what}: give a number, a tensor, a module or its state_dict()")
    for name, value in copied.items() if isinstance(copied, dict) else [("", copied)]:
        if value is not None and not bool(torch.isfinite(torch.as_tensor(value)).all()):
            where = f" of {name!r}" if name else ""
            raise UserError(f"prior mean{where} contains NaN or infinity: give finite values")
    return copied


def mean_in_words(mean: Any) -> str:
    """Of a copied mean, for a run's settings."""
    if isinstance(mean, dict):
        return f"tensors of {len(mean)} names"
    return f"tensor {tuple(mean.shape)}" if isinstance(mean, Tensor) and mean.ndim else f"{float(mean):g}"


def mean_of(mean: Any, flat: FlatModel, index: int) -> Tensor:
    """The mean of parameter `index`, `(size,)`.

    Raises:
        UserError: it lacks the parameter, or has another shape.
    """
    name, shape, size = flat.names[index], tuple(flat.shapes[index]), flat.sizes[index]
    if isinstance(mean, dict):
        if name not in mean:
            known = ", ".join(list(mean)[:4]) + (", ..." if len(mean) > 4 else "")
            raise UserError(
                f"prior mean has nothing for parameter {name!r}, only {known}: rename its entries, or give this "
                "parameter another prior by PerGroup"
            )
        mean = mean[name]
        if mean.shape != shape:
            raise UserError(
                f"prior mean has shape {tuple(mean.shape)} for parameter {name!r}, which has {shape}: give this "
                "parameter another prior by PerGroup, or a mean of its shape"
            )
    mean = torch.as_tensor(0.0 if mean is None else mean).to(flat.device, flat.dtype)
    if mean.shape == shape:
        return mean.reshape(-1)
    if mean.ndim == 0:
        return mean.expand(size)
    if mean.shape == (flat.num_params,):
        return mean.split(flat.sizes)[index]
    raise UserError(
        f"prior mean has shape {tuple(mean.shape)}, but parameter {name!r} has {shape}: give one value for each of "
        f"all {flat.num_params} parameters, that parameter's shape (by PerGroup), or a state_dict()"
    )
