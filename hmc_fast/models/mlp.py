"""Fully connected networks."""

from collections.abc import Sequence

from torch import nn

from .norms import activation_layer

__all__ = ["mlp", "uci_mlp"]


def mlp(in_features: int, hidden: Sequence[int], out_features: int, activation: str = "tanh") -> nn.Module:
    """Flattens its input `(B, ...)`; outputs `(B, out_features)`."""
    layers: list[nn.Module] = [nn.Flatten()]
    for width in hidden:
        layers += [nn.Linear(in_features, width), activation_layer(activation)]
        in_features = width
    return nn.Sequential(*layers, nn.Linear(in_features, out_features))


def uci_mlp(in_features: int, activation: str = "relu") -> nn.Module:
    """One hidden layer of 50 units, two outputs (mean, raw standard deviation): the UCI network in the code of
    Izmailov et al. 2021."""
    return mlp(in_features, (50,), 2, activation)
