"""Networks of the presets, and `build`, which makes one that fits a data set."""

import torch
from torch import nn

from ..datasets import Dataset
from ..errors import UserError
from ..importing import import_object
from .lenet import lenet5
from .mlp import mlp, uci_mlp
from .resnet import resnet20

__all__ = ["build", "lenet5", "mlp", "resnet20", "uci_mlp"]

MODELS = ("mlp", "lenet", "resnet20", "uci-mlp")


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

    name: mlp, lenet, resnet20, uci-mlp, or `module:callable`, called with the data set.

    Raises:
        UserError: an unknown name or option, or a network that does not take the data's shape or does not
            give one output per class.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
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
    if width is not None and width < 1:
        raise UserError(f"width {width} must be at least 1")
    shape = tuple(dataset.x_train.shape[1:])
    outputs = dataset.num_classes or 2
    if ":" in name:
        model = import_object(name, "model")(dataset)
        if not isinstance(model, nn.Module):
            raise UserError(f"model {name!r} returned a {type(model).__name__}: it must return a torch module")
        return model
    if name in ("lenet", "resnet20") and len(shape) != 3:
        raise UserError(f"model {name!r} takes images; {dataset.name} has examples of shape {shape}")
    if name == "mlp":
        return mlp(dataset.x_train[0].numel(), hidden, outputs, activation or "tanh")
    if name == "uci-mlp":
        return uci_mlp(dataset.x_train[0].numel(), activation or "relu")
    if name == "lenet":
        if shape[1] != shape[2] or shape[1] < 16:
            raise UserError(f"model 'lenet' takes square images of 16 pixels or more, not {shape[1]} x {shape[2]}")
        return lenet5(shape[0], outputs, shape[1], activation or "relu")
    if name == "resnet20":
        return resnet20(outputs, width or 8, shape[0], activation or "relu", norm or "frn")
    raise UserError(f"model {name!r} is unknown: use one of {', '.join(MODELS)} or module:callable")


def _check_shapes(name: str, model: nn.Module, dataset: Dataset) -> None:
    """One example through the model, in evaluation mode so that no running statistic changes."""
    modes = {module: module.training for module in model.modules()}
    example = dataset.x_train[:1]
    try:
        with torch.no_grad():
            outputs = model.eval()(example)
    except (RuntimeError, ValueError, IndexError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(
            f"model {name!r} does not take examples of shape {tuple(example.shape[1:])} "
            f"from {dataset.name}: {reason}"
        ) from error
    finally:
        for module, mode in modes.items():
            module.training = mode
    if dataset.num_classes and tuple(outputs.shape) != (1, dataset.num_classes):
        raise UserError(
            f"model {name!r} gives outputs of shape {tuple(outputs.shape)} for one example of {dataset.name}: "
            f"it must give (1, {dataset.num_classes}), one per class"
        )
