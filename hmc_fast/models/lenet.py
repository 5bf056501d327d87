"""LeNet-5 (LeCun et al. 1998) with max-pooling and a choice of activation: 61,706 parameters for ten classes."""

from torch import nn

from .norms import activation_layer

__all__ = ["lenet5"]


def lenet5(
    in_channels: int = 1, num_classes: int = 10, image_size: int = 28, activation: str = "relu"
) -> nn.Module:
    """Input `(B, in_channels, image_size, image_size)`; 28 pixels are padded to the paper's 32."""
    padding = 2 if image_size == 28 else 0
    side = (((image_size + 2 * padding - 4) // 2) - 4) // 2
    return nn.Sequential(
        nn.Conv2d(in_channels, 6, 5, padding=padding),
        activation_layer(activation),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        activation_layer(activation),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * side * side, 120),
        activation_layer(activation),
        nn.Linear(120, 84),
        activation_layer(activation),
        nn.Linear(84, num_classes),
    )
