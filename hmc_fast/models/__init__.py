"""Neural networks of the presets, their supervised training, and `build`, which makes one for a data set."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..arguments import shown, whole_number
from ..compute.device import free_memory, human
from ..datasets import Dataset
from ..errors import UserError
from ..user_code import call, import_object
from .lenet import lenet5
from .mlp import mlp, uci_mlp
from .norms import ACTIVATIONS
from .resnet import resnet20

__all__ = ["ACTIVATIONS", "MODELS", "build", "lenet5", "mlp", "resnet20", "uci_mlp"]

_OPTIONS = {
    "mlp": ("width", "activation"),
    "lenet": ("activation",),
    "resnet20": ("width", "activation", "norm"),
    "uci-mlp": ("activation",),
}
MODELS = tuple(_OPTIONS)
_LARGEST_LAYER = {"mlp": 1, "resnet20": 9 * 4**2}  # its weights, in squares of the width


def build(
    name: str,
    dataset: Dataset,
    *,
    width: int | None = None,
    activation: str | None = None,
    norm: str | None = None,
    hidden: tuple[int, ...] = (50, 50),
    seed: int = 0,
) -> nn.Module:
    """A freshly initialised network for `dataset`; the same seed gives the same weights.

    Args:
        name: mlp, lenet, resnet20, uci-mlp, or `module:callable`, which receives the data set if it requires an
            argument.
        width: resnet20: channels of the first stage (8). mlp: units of each hidden layer, overriding `hidden`.
        activation: one of `ACTIVATIONS`; None: tanh for mlp, else relu. Not passed to a callable.
        norm: resnet20: frn (the default), group, batch or none.
        hidden: mlp: units of the hidden layers.

    Raises:
        UserError: an unknown name, an option that the model does not have, or a network that does not accept the
            data's shape or does not return one output per class (regression: a mean, or a mean and a raw standard
            deviation).
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also reseed CUDA's generators
        model = _make(name, dataset, width, activation, norm, hidden)
    _check_shapes(name, model, dataset)
    return model


def _make(
    name: str,
    dataset: Dataset,
    width: int | None,
    activation: str | None,
    norm: str | None,
    hidden: tuple[int, ...],
) -> nn.Module:
    for option, value in (("width", width), ("activation", activation), ("norm", norm)):
        known = _OPTIONS.get(name, ("activation",))  # presets set an activation, which a callable may ignore
        if value is not None and option not in known and (name in MODELS or ":" in name):
            owners = ", ".join(model for model in MODELS if option in _OPTIONS[model])
            raise UserError(f"{option} {value!r} is not an option of model {name!r}: use it with {owners}")
    if width is not None:
        _check_width(name, whole_number("width", width))
    shape = tuple(dataset.x_train.shape[1:])
    outputs = dataset.num_classes or 2
    if ":" in name:
        function = import_object(name, "model")
        model = call(function, name, "model", *([dataset] if _requires_argument(function) else []))
        if not isinstance(model, nn.Module):
            raise UserError(f"model {name!r} returned a {type(model).__name__}: it must return a torch module")
        return model
    if name in ("lenet", "resnet20") and len(shape) != 3:
        raise UserError(f"model {name!r} needs images, but {dataset.name} has examples of shape {shape}: use mlp")
    if name == "mlp":
        hidden = hidden if width is None else (width,) * len(hidden)
        return mlp(dataset.x_train[0].numel(), hidden, outputs, activation or "tanh")
    if name == "uci-mlp":
        return uci_mlp(dataset.x_train[0].numel(), activation or "relu")
    if name == "lenet":
        if shape[1] != shape[2] or shape[1] < 16:
            raise UserError(
                f"model 'lenet' needs square images of at least 16 x 16 pixels, not {shape[1]} x {shape[2]}"
            )
        return lenet5(shape[0], outputs, shape[1], activation or "relu")
    if name == "resnet20":
        return resnet20(outputs, width or 8, shape[0], activation or "relu", norm or "frn")
    raise UserError(f"model {name!r} is unknown: use one of {', '.join(MODELS)} or module:callable")


def _check_width(name: str, width: int) -> None:
    """Refuses a network whose largest layer, its gradient and two moments or momenta do not fit into memory."""
    weights, free = _LARGEST_LAYER[name] * width**2, free_memory(torch.device("cpu"))
    if 4 * 4 * weights > free:
        raise UserError(
            f"width {shown(width)} makes a layer of {weights:.3g} weights, and {human(free)} of memory are free: "
            "choose a smaller width"
        )


def _requires_argument(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind()
    except TypeError:
        return True
    except ValueError:  # some builtins have no signature
        return False
    return False


def _check_shapes(name: str, model: nn.Module, dataset: Dataset) -> None:
    """Runs one example through the model, in evaluation mode so that no running statistic changes."""
    modes = {module: module.training for module in model.modules()}
    example = dataset.x_train[:1]
    try:
        with torch.no_grad():
            outputs = model.eval()(example)
    except Exception as error:  # a user's model may raise anything
        reason = str(error).split("\n")[0] or type(error).__name__
        raise UserError(
            f"model {name!r} does not accept examples of shape {tuple(example.shape[1:])} "
            f"from {dataset.name}: {reason}"
        ) from error
    finally:
        for module, mode in modes.items():
            module.training = mode
    if not isinstance(outputs, torch.Tensor):
        raise UserError(f"model {name!r} returns a {type(outputs).__name__}: it must return one tensor")
    if not dataset.num_classes and tuple(outputs.shape) not in ((1,), (1, 1), (1, 2)):
        raise UserError(
            f"model {name!r} returns outputs of shape {tuple(outputs.shape)} for one example of {dataset.name}: "
            "it must return (1, 1), a mean, or (1, 2), a mean and a raw standard deviation"
        )
    if dataset.num_classes and tuple(outputs.shape) != (1, dataset.num_classes):
        raise UserError(
            f"model {name!r} returns outputs of shape {tuple(outputs.shape)} for one example of {dataset.name}: "
            f"it must return (1, {dataset.num_classes}), one per class"
        )
