"""The models and data of the suites. Data are random numbers of the right shape: only cost is measured.

densities.py has the bare densities.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

import hmc_fast
from hmc_fast.models import lenet5, mlp, resnet20

PRIOR_VARIANCE = 0.2


@dataclass(frozen=True)
class Workload:
    """A posterior to be sampled. batch_size: None is full-batch HMC, else SG-HMC.

    step_size: by default so small that a chain stays at the model's own weights.
    """

    name: str
    model: nn.Module
    x: Tensor
    y: Tensor
    likelihood: str
    batch_size: int | None
    num_leapfrog: int  # per timed iteration
    step_size: float = 1e-4

    def target(self, device: torch.device, precision: str = "fp32") -> hmc_fast.Posterior:
        prior = hmc_fast.Normal(PRIOR_VARIANCE)
        return hmc_fast.Posterior(
            self.model, (self.x, self.y), self.likelihood, prior, precision=precision, device=device
        )


class Transformer(nn.Module):
    """Two encoder layers over the eight rows of an 8x8 image."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.layers = nn.ModuleList(Layer(width) for _ in range(2))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x.reshape(-1, 8, 8))
        for layer in self.layers:
            h = layer(h)
        return self.head(h.mean(-2))


class Layer(nn.Module):
    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(-2, -3) for part in self.qkv(self.norm1(x)).chunk(3, -1)
        )
        weights = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1)
        x = x + self.out((weights @ v).transpose(-2, -3).flatten(-2))
        return x + self.down(torch.nn.functional.gelu(self.up(self.norm2(x))))


def _images(n: int, channels: int, side: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (
        torch.rand(n, channels, side, side, generator=generator),
        torch.randint(0, 10, (n,), generator=generator),
    )


def _seeded(make):  # type: ignore[no-untyped-def]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def resnet(width: int = 8, batch_size: int | None = 512, n: int = 60_000) -> Workload:
    x, y = _images(n, 1, 28)
    model = _seeded(lambda: resnet20(width=width))
    name = f"ResNet-20 width {width}, {'full batch' if batch_size is None else f'batch {batch_size}'}"
    # Two steps: blackjax' SG-HMC drops the last step's gradient, and XLA with it all work of a single step.
    return Workload(name, model, x, y, "categorical", batch_size, 2)


def lenet(batch_size: int = 512) -> Workload:
    x, y = _images(60_000, 1, 28)
    return Workload(f"LeNet-5, batch {batch_size}", _seeded(lenet5), x, y, "categorical", batch_size, 4)


def lenet_64() -> Workload:
    """bnn_hmc's case: 64x64x3, N = 5,000, full batch; 55 ms per leapfrog on an A100 there."""
    x, y = _images(5_000, 3, 64)
    model = _seeded(lambda: lenet5(3, 10, 64))
    return Workload("LeNet 64x64x3, full batch of 5,000", model, x, y, "categorical", None, 4)


def digits() -> Workload:
    x, y = _images(1437, 1, 8)
    model = _seeded(lambda: mlp(64, (50, 50), 10))
    return Workload("digits MLP, full batch of 1,437", model, x.flatten(1), y, "categorical", None, 50)


def regression() -> Workload:
    """hamiltorch's case; 404 leapfrog steps a second there, on an RTX 2080 Max-Q."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(400, 1, generator=generator) * 2 - 1
    y = torch.sin(3 * x[:, 0]) + 0.1 * torch.randn(400, generator=generator)
    return Workload(
        "MLP 1-100-100-1, 400 points", _seeded(lambda: mlp(1, (100, 100), 1)), x, y, "gaussian", None, 30
    )


def logistic() -> Workload:
    """24 predictors and an intercept; labels drawn from the model, coefficients from the prior.

    Posterior standard deviations are about .09.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1000, 24, generator=generator)
    logits = x @ torch.randn(24, generator=generator) * PRIOR_VARIANCE**0.5
    y = torch.bernoulli(torch.sigmoid(logits), generator=generator)
    model = _seeded(lambda: mlp(24, (), 1))
    return Workload(
        "logistic regression, 25 dimensions, 1,000 rows", model, x, y, "bernoulli", None, 10, step_size=0.03
    )


def transformer() -> Workload:
    x, y = _images(1437, 1, 8)
    return Workload("small transformer, full batch of 1,437", _seeded(Transformer), x, y, "categorical", None, 5)
