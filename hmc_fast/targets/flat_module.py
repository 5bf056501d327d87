"""A module as a function of one row of a flat buffer, the `(C, D)` tensor of the parameters of all chains.

The model receives views of a row through `torch.func.functional_call`. The views come from `torch.split`, whose
backward is a single concatenation: the gradient is one flat tensor, without the zero-filled copy per parameter that
slicing would cost.
"""

import copy
import fnmatch
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..compute import batches
from ..compute.batches import Inputs
from ..errors import UserError
from .validation import check_model

__all__ = ["FlatModel"]


class FlatModel:
    """`model` as `outputs = flat(row, x)`, `row (D,)`.

    Keeps a copy of the module; the caller's is never modified. Parameters with `requires_grad=False` and buffers
    are constants; tied parameters are counted once. Order: `model.named_parameters()`.

    Args:
        output: of what the model returns, the tensor to use; None: that tensor, its `logits`, or the first of
            several.

    Attributes:
        names, shapes, sizes: of the parameters, in the order of the buffer. num_params: D.
    """

    def __init__(
        self,
        model: nn.Module,
        device: torch.device | str | None = None,
        output: Callable[[Any], Tensor] | None = None,
    ) -> None:
        check_model(model)
        self.output = output
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

    def __call__(self, row: Tensor, x: Inputs, *, channels_last: bool = False) -> Tensor:
        """Outputs of the model with the parameters `row (D,)` at the inputs `x (B, ...)`.

        channels_last: pass convolution kernels in that layout, which the other operations then follow.
        """
        parameters = self.views(row)
        if channels_last:
            for name, parameter in parameters.items():
                if parameter.ndim == 4:
                    parameters[name] = parameter.contiguous(memory_format=torch.channels_last)
        args = () if isinstance(x, dict) else x if isinstance(x, tuple) else (x,)
        returned = torch.func.functional_call(self.module, parameters, args, x if isinstance(x, dict) else {})
        return self.output(returned) if self.output is not None else _tensor(returned)

    def allows_channels_last(self, x: Inputs) -> bool:
        """Whether the model accepts kernels in that layout at `x (B, ...)`, traced without computing anything: a
        `view` of a convolution's output, for example, raises."""
        if all(len(shape) != 4 for shape in self.shapes):
            return False
        from torch._subclasses.fake_tensor import FakeTensorMode

        mode = FakeTensorMode(allow_non_fake_inputs=True)
        row, x = mode.from_tensor(self.initial), batches.each(x, mode.from_tensor)
        try:
            with mode:
                torch.func.grad(lambda row: self(row, x, channels_last=True).sum())(row)
        except Exception:  # of the model's own code, too, which may compute with values
            return False
        return True

    def views(self, row: Tensor) -> dict[str, Tensor]:
        """Named parameters as views of `row (D,)`."""
        parts = row.split(self.sizes)
        return {name: part.view(shape) for name, part, shape in zip(self.names, parts, self.shapes, strict=True)}

    def flatten(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The flat row `(D,)` of named tensors, e.g. a `state_dict()`; other names are ignored."""
        missing = [name for name in self.names if name not in parameters]
        if missing:
            raise UserError(f"weights lack parameter {missing[0]!r}: they belong to another model")
        for name, shape in zip(self.names, self.shapes, strict=True):
            if parameters[name].shape != shape:
                raise UserError(
                    f"weights contain {name!r} with shape {tuple(parameters[name].shape)}, the model expects "
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
        """Fan-in of every element `(D,)`: the number of inputs its unit sums over; 1 for vectors such as biases."""
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
                f"parameter group {pattern!r} matches no parameter: the model has {', '.join(self.names[:8])}"
                + (", ..." if len(self.names) > 8 else "")
            )
        return found


def _tensor(returned: Any) -> Tensor:
    """The outputs among what a model returns. Raises UserError if that is no tensor and has none."""
    found = returned
    if isinstance(returned, Mapping):
        found = returned.get("logits")
    elif not isinstance(returned, Tensor) and hasattr(returned, "logits"):
        found = returned.logits
    elif isinstance(returned, tuple | list) and len(returned):
        found = returned[0]
    if isinstance(found, Tensor):
        return found
    raise UserError(
        f"the model returns a {type(returned).__name__}, in which no outputs were found (a tensor, .logits, or the "
        "first of several): say which with output=lambda returned: ..."
    )
