"""Normalisation layers that treat each example independently, and BatchNorm for supervised training."""

import math

import torch
from torch import Tensor, nn

from ..errors import UserError

__all__ = ["ACTIVATIONS", "FilterResponseNorm", "activation_layer", "norm_layer"]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "elu": nn.ELU,
    "softplus": nn.Softplus,
}


class FilterResponseNorm(nn.Module):
    """Filter response normalisation (Singh & Krishnan 2020, arXiv:1911.09737, eq. 1-3) without its thresholded
    activation, as used with swish by Izmailov et al. 2021.

    Divides each channel of each example by its root mean square over space; x is `(B, channels, H, W)`.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.rsqrt(x.square().mean(dim=(2, 3), keepdim=True) + self.eps)
        return x * (scale * self.weight.view(1, -1, 1, 1)) + self.bias.view(1, -1, 1, 1)


def activation_layer(name: str) -> nn.Module:
    """The activation of that name. Raises UserError for an unknown name."""
    if name not in ACTIVATIONS:
        raise UserError(f"activation {name!r} is unknown: use one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()


def norm_layer(name: str, channels: int) -> nn.Module:
    """frn, group (groups of at least 8 channels), batch (for supervised training only) or none.

    Raises:
        UserError: an unknown name.
    """
    if name == "frn":
        return FilterResponseNorm(channels)
    if name == "group":
        return nn.GroupNorm(math.gcd(channels, max(1, channels // 8)), channels)
    if name == "batch":
        return nn.BatchNorm2d(channels)
    if name == "none":
        return nn.Identity()
    raise UserError(f"norm {name!r} is unknown: use frn, group, batch or none")
