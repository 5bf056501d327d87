"""ResNet-20 (He et al. 2016, arXiv:1512.03385, sec. 4.2) with a choice of width, activation and normalisation."""

from torch import Tensor, nn

from .norms import activation_layer, norm_layer

__all__ = ["resnet20"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution if the shape changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, activation: str, norm: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1)
        self.norm1 = norm_layer(norm, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.norm2 = norm_layer(norm, out_channels)
        self.activation = activation_layer(activation)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride), norm_layer(norm, out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.activation(self.norm1(self.conv1(x)))
        return self.activation(self.norm2(self.conv2(out)) + self.shortcut(x))


class ResNet20(nn.Module):
    """Three stages of three blocks with width, 2 width and 4 width channels; global average pooling."""

    def __init__(self, num_classes: int, width: int, in_channels: int, activation: str, norm: str) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1), norm_layer(norm, width), activation_layer(activation)
        )
        blocks: list[nn.Module] = []
        channels = width
        for stage in range(3):
            for block in range(3):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(BasicBlock(channels, width << stage, stride, activation, norm))
                channels = width << stage
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean(dim=(2, 3)))


def resnet20(
    num_classes: int = 10, width: int = 8, in_channels: int = 1, activation: str = "relu", norm: str = "frn"
) -> nn.Module:
    """Input images `(B, in_channels, H, W)`; convolutions have biases, as in Izmailov et al. 2021."""
    return ResNet20(num_classes, width, in_channels, activation, norm)
