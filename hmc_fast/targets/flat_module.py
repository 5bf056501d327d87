"""A module as a function of one row of a flat buffer: parameters of all chains in one tensor `(C, D)`.

The model sees views of a row through `torch.func.functional_call`. The views are made with `torch.split`,
whose backward is one concatenation: the gradient comes back as one flat tensor, without the zero-filled
copy per parameter that slices would cost.
"""

import copy
import fnmatch
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parameter import UninitializedParameter

from ..errors import UserError

__all__ = ["FlatModel", "check_model"]


def check_model(model: nn.Module) -> None:
    """Refuses what has no fixed density, with the cure in the message.

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
                f"{where} drops units at random (p = {dropout}), so the posterior has no fixed density: "
                "remove it or call model.eval()"
            )
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for name, parameter in parameters.items():
        if isinstance(parameter, UninitializedParameter):
            raise UserError(
                f"parameter {name!r} is lazy and has no shape yet: run the model once on an example before "
                "it is sampled"
            )
        if parameter.dtype not in (torch.float32, torch.float64):
            raise UserError(
                f"parameter {name!r} has dtype {parameter.dtype}: the flat buffer holds float32 or float64, "
                "so call model.float()"
            )
    if not parameters:
        raise UserError(f"{type(model).__name__} has no parameter that requires a gradient: nothing to sample")
    if len({p.dtype for p in parameters.values()}) > 1:
        raise UserError(f"{type(model).__name__} mixes float32 and float64 parameters: call model.float()")


class FlatModel:
    """`model` as `outputs = flat(row, x)`, `row (D,)`.

    Keeps a copy of the module: the caller's is never changed. Parameters with `requires_grad=False` and
    buffers are constants; tied parameters are counted once. Order: `model.named_parameters()`.

    Attributes:
        names, shapes, sizes: of the parameters, in the order of the buffer. num_params: D.
    """

    def __init__(self, model: nn.Module, device: torch.device | str | None = None) -> None:
        check_model(model)
        self.module = copy.deepcopy(model)
        if device is not None:
            self.module.to(device)
        named = [(name, p) for name, p in self.module.named_parameters() if p.requires_grad]
        self.names = [name for name, _ in named]
        self.shapes = [p.shape for _, p in named]
        self.sizes = [p.numel() for _, p in named]
        self.num_params = sum(self.sizes)
        self.dtype = named[0][1].dtype
        self.device = named[0][1].device
        self.initial = self.flatten(dict(named)).clone()  # (D,) the module's own values
        self.module.requires_grad_(False)

    def __call__(self, row: Tensor, x: Tensor, *, channels_last: bool = False) -> Tensor:
        """Outputs of the model with the parameters `row (D,)` at the inputs `x (B, ...)`.

        channels_last: hand kernels of convolutions over in that layout, which the rest then follows.
        """
        parameters = self.views(row)
        if channels_last:
            for name, parameter in parameters.items():
                if parameter.ndim == 4:
                    parameters[name] = parameter.contiguous(memory_format=torch.channels_last)
        return torch.func.functional_call(self.module, parameters, (x,))

    def views(self, row: Tensor) -> dict[str, Tensor]:
        """Named parameters as views of `row (D,)`."""
        parts = row.split(self.sizes)
        return {name: part.view(shape) for name, part, shape in zip(self.names, parts, self.shapes, strict=True)}

    def flatten(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The flat row `(D,)` of named tensors, e.g. a `state_dict()`; further names are ignored."""
        missing = [name for name in self.names if name not in parameters]
        if missing:
            raise UserError(f"weights lack parameter {missing[0]!r}: they belong to another model")
        for name, shape in zip(self.names, self.shapes, strict=True):
            if parameters[name].shape != shape:
                raise UserError(
                    f"weights hold {name!r} with shape {tuple(parameters[name].shape)}, the model wants "
                    f"{tuple(shape)}: they belong to another model"
                )
        tensors = [parameters[name].detach().to(self.device, self.dtype).reshape(-1) for name in self.names]
        return torch.cat(tensors)

    def set_weights(self, model: nn.Module, row: Tensor) -> None:
        """Writes a draw `row (D,)` (any float dtype) into a module of the same architecture."""
        target = dict(model.named_parameters())
        with torch.no_grad():
            for name, view in self.views(row).items():
                target[name].copy_(view)

    def fan_in(self) -> Tensor:
        """Fan-in of every element `(D,)`: inputs that a weight sums over; 1 for vectors such as biases."""
        fans = [math.prod(shape[1:]) if len(shape) > 1 else 1 for shape in self.shapes]
        return torch.cat([torch.full((size,), float(fan)) for size, fan in zip(self.sizes, fans, strict=True)])

    def matching(self, pattern: str) -> list[int]:
        """Positions in `names` of the parameter group `pattern`, a shell pattern such as "*.bias".

        Raises:
            UserError: the pattern matches no parameter.
        """
        found = [i for i, name in enumerate(self.names) if fnmatch.fnmatchcase(name, pattern)]
        if not found:
            raise UserError(
                f"parameter group {pattern!r} matches nothing: the model has {', '.join(self.names[:8])}"
                + (", ..." if len(self.names) > 8 else "")
            )
        return found
