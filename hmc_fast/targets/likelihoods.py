"""Likelihoods: per-example log probabilities `(B,)` and predictions from a model's outputs.

Values are never averaged or scaled here; posteriors sum them over the data.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UserError

__all__ = [
    "Bernoulli",
    "Categorical",
    "Custom",
    "Gaussian",
    "HeteroscedasticGaussian",
    "Likelihood",
    "resolve",
]

Task = Literal["classification", "regression", "custom"]


@runtime_checkable
class Likelihood(Protocol):
    """What a posterior needs from a likelihood."""

    @property
    def task(self) -> Task:
        """The kind of prediction: class probabilities, mean and variance, or raw outputs."""

    def log_prob(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Log-likelihood of each example, `(B,)`."""

    def predict(self, outputs: Tensor) -> Tensor:
        """Classification: class probabilities `(B, K)`. Regression: mean and variance `(B, 2)`."""


@dataclass(frozen=True)
class Categorical:
    """y in 0..K-1 (int64) given logits `(B, K)`."""

    task: Task = "classification"

    def log_prob(self, outputs: Tensor, y: Tensor) -> Tensor:
        if outputs.shape[:-1] != y.shape:  # gather would silently use only the first rows
            raise UserError(
                f"outputs of shape {tuple(outputs.shape)} for labels of shape {tuple(y.shape)}: a categorical "
                "likelihood needs logits (B, K) for labels (B,)"
            )
        # Inductor turns the backward pass of cross_entropy into a comparison, that of gather into a scatter.
        if torch.compiler.is_compiling():
            return -F.cross_entropy(outputs, y, reduction="none")
        # vmap decomposes cross_entropy in Python: 70 to 130 us per gradient of a small network, and imports sympy.
        return torch.log_softmax(outputs, dim=-1).gather(-1, y.unsqueeze(-1)).squeeze(-1)

    def predict(self, outputs: Tensor) -> Tensor:
        return torch.softmax(outputs, dim=-1)


@dataclass(frozen=True)
class Bernoulli:
    """y in {0, 1} given one logit, `(B,)` or `(B, 1)`. Predicts both classes, `(B, 2)`."""

    task: Task = "classification"

    def log_prob(self, outputs: Tensor, y: Tensor) -> Tensor:
        logit = outputs.reshape(y.shape)
        return -F.binary_cross_entropy_with_logits(logit, y.to(logit.dtype), reduction="none")

    def predict(self, outputs: Tensor) -> Tensor:
        p = torch.sigmoid(outputs.reshape(len(outputs)))
        return torch.stack((1 - p, p), dim=-1)


@dataclass(frozen=True)
class Gaussian:
    """y ~ N(output, noise_std^2), output `(B,)` or `(B, 1)`; noise_std is known, in the units of y.

    Raises:
        UserError: a noise_std that is not positive and finite.
    """

    noise_std: float = 1.0
    task: Task = "regression"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.noise_std) and self.noise_std > 0):
            raise UserError(f"noise_std {self.noise_std} must be a positive number")

    def log_prob(self, outputs: Tensor, y: Tensor) -> Tensor:
        z = (y - outputs.reshape(y.shape)) / self.noise_std
        return -0.5 * z**2 - math.log(self.noise_std) - 0.5 * math.log(2 * math.pi)

    def predict(self, outputs: Tensor) -> Tensor:
        mean = outputs.reshape(len(outputs))
        return torch.stack((mean, torch.full_like(mean, self.noise_std**2)), dim=-1)


@dataclass(frozen=True)
class HeteroscedasticGaussian:
    """y ~ N(outputs[:, 0], softplus(outputs[:, 1])^2): the UCI likelihood in the code of Izmailov et al. 2021.

    min_std bounds the standard deviation from below; without it the likelihood is unbounded.
    """

    min_std: float = 1e-3
    task: Task = "regression"

    def log_prob(self, outputs: Tensor, y: Tensor) -> Tensor:
        std = F.softplus(outputs[..., 1]) + self.min_std
        z = (y - outputs[..., 0]) / std
        return -0.5 * z**2 - torch.log(std) - 0.5 * math.log(2 * math.pi)

    def predict(self, outputs: Tensor) -> Tensor:
        return torch.stack((outputs[..., 0], (F.softplus(outputs[..., 1]) + self.min_std) ** 2), dim=-1)


@dataclass(frozen=True)
class Custom:
    """Any function `(outputs, y) -> (B,)`; predictions are the model's raw outputs, of any shape."""

    function: Callable[[Tensor, Tensor], Tensor]
    task: Task = "custom"

    def log_prob(self, outputs: Tensor, y: Tensor) -> Tensor:
        return self.function(outputs, y)

    def predict(self, outputs: Tensor) -> Tensor:
        return outputs


def resolve(likelihood: "str | Likelihood | Callable[[Tensor, Tensor], Tensor]") -> Likelihood:
    """A likelihood from its name, an object of this module, or a function of `(outputs, y)`.

    Raises:
        UserError: an unknown name, a loss, a class, or what cannot be called.
    """
    named: dict[str, Likelihood] = {
        "categorical": Categorical(),
        "bernoulli": Bernoulli(),
        "gaussian": Gaussian(),
        "heteroscedastic": HeteroscedasticGaussian(),
    }
    if isinstance(likelihood, str):
        if likelihood not in named:
            raise UserError(f"likelihood {likelihood!r} is unknown: use one of {', '.join(named)} or a callable")
        return named[likelihood]
    is_loss = isinstance(likelihood, nn.modules.loss._Loss) or (
        getattr(likelihood, "__module__", None) in ("torch.nn.functional", "torch.nn.modules.loss")
    )
    if is_loss:
        name = getattr(likelihood, "__name__", type(likelihood).__name__)
        raise UserError(
            f"likelihood {name} is a loss of torch, minus a log likelihood and perhaps averaged: use one of "
            f"{', '.join(named)}, or a function of (outputs, y) that returns the log likelihood of each example"
        )
    if isinstance(likelihood, type):
        raise UserError(
            f"likelihood is the class {likelihood.__name__}: give an object, {likelihood.__name__}(...)"
        )
    if isinstance(likelihood, Likelihood):
        return likelihood
    if not callable(likelihood):
        raise UserError(
            f"likelihood is a {type(likelihood).__name__}: use one of {', '.join(named)}, or a function of "
            "(outputs, y)"
        )
    return Custom(likelihood)
