"""Predictions of a Bayesian model average and their scores: one class per task.

Scores are means over the test points; entropies are in nats. Labels that do not fit predictions raise UserError.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import UserError

__all__ = ["Classification", "Raw", "Regression", "agreement", "expected_calibration_error", "total_variation"]


def _labels(labels: Any, points: int) -> np.ndarray:
    """`labels (T,)` as an array, of as many points as were predicted; a column `(T, 1)` is flattened.

    Raises:
        UserError: another shape, which would broadcast.
    """
    values = np.asarray(labels.detach().cpu() if hasattr(labels, "detach") else labels)
    if values.shape == (points, 1):
        values = values[:, 0]
    if values.shape != (points,):
        raise UserError(f"labels have shape {values.shape}, but there are predictions at {points} points")
    return values


def _classes(labels: Any, points: int, num_classes: int) -> np.ndarray:
    values = _labels(labels, points)
    if not (values == np.floor(values)).all() or values.min() < 0 or values.max() >= num_classes:
        raise UserError(
            f"labels range over {values.min()}..{values.max()}: they must be whole numbers in 0..{num_classes - 1}"
        )
    return values.astype(np.int64)


def expected_calibration_error(probs: np.ndarray, labels: np.ndarray, num_bins: int = 20) -> float:
    """ECE over equal-mass bins of the maximum probability, as in Izmailov et al. 2021. `probs (T, K)`."""
    confidence = probs.max(1)
    correct = probs.argmax(1) == labels
    order = np.argsort(confidence, kind="stable")
    bins = np.array_split(order, min(num_bins, len(order)))
    gaps = [len(b) * abs(confidence[b].mean() - correct[b].mean()) for b in bins]
    return float(sum(gaps) / len(order))


def agreement(p: np.ndarray, q: np.ndarray) -> float:
    """Fraction of test points for which `p` and `q (T, K)` predict the same class."""
    return float((p.argmax(1) == q.argmax(1)).mean())


def total_variation(p: np.ndarray, q: np.ndarray) -> float:
    """Mean over test points of half the L1 distance between the class probabilities `p` and `q (T, K)`."""
    return float(0.5 * np.abs(p.astype(np.float64) - q).sum(1).mean())


@dataclass(frozen=True)
class Classification:
    """Class probabilities averaged over draws.

    Attributes:
        probs: `(T, K)`. chain_probs: `(C, T, K)`, each chain's own average.
        aleatoric: `(T,)`, mean entropy of single draws: uncertainty about y given the weights.
        epistemic: `(T,)`, entropy of the average minus aleatoric: disagreement between draws.
        quantiles: `(Q, T, K)`, of the draws' probabilities, if asked for.
    """

    probs: np.ndarray
    chain_probs: np.ndarray
    aleatoric: np.ndarray
    quantiles: np.ndarray | None = None

    @property
    def epistemic(self) -> np.ndarray:
        p = self.probs
        total = -(p * np.log(np.maximum(p, np.finfo(np.float64).tiny))).sum(1)
        return np.maximum(total - self.aleatoric, 0.0)

    def accuracy(self, labels: np.ndarray) -> float:
        return float((self.probs.argmax(1) == self._classes(labels)).mean())

    def nll(self, labels: np.ndarray) -> float:
        """Mean negative log probability of the true class."""
        p = self.probs[np.arange(len(self.probs)), self._classes(labels)]
        return float(-np.log(np.maximum(p, np.finfo(np.float64).tiny)).mean())

    def ece(self, labels: np.ndarray, num_bins: int = 20) -> float:
        return expected_calibration_error(self.probs, self._classes(labels), num_bins)

    def brier(self, labels: np.ndarray) -> float:
        """Mean squared distance between the probabilities and the one-hot label, in [0, 2]."""
        hot = np.eye(self.probs.shape[1])[self._classes(labels)]
        return float(((self.probs - hot) ** 2).sum(1).mean())

    def _classes(self, labels: Any) -> np.ndarray:
        return _classes(labels, *self.probs.shape)


@dataclass(frozen=True)
class Regression:
    """A Gaussian that matches the mean and variance of the predictive mixture over draws.

    Attributes:
        mean, variance: `(T,)`. aleatoric: `(T,)` mean variance of single draws. chain_mean: `(C, T)`.
        quantiles: `(Q, T)`, of the draws' means, without the noise of y, if asked for.
        log_density: `(T,)`, of the test labels that a run was given, under the mixture itself; None without.
    """

    mean: np.ndarray
    variance: np.ndarray
    aleatoric: np.ndarray
    chain_mean: np.ndarray
    quantiles: np.ndarray | None = None
    log_density: np.ndarray | None = None

    @property
    def epistemic(self) -> np.ndarray:
        """Variance of the draws' means, `(T,)`."""
        return np.maximum(self.variance - self.aleatoric, 0.0)

    def rescaled(self, shift: float, scale: float) -> "Regression":
        """Converted to the units of y = shift + scale * standardised y."""
        return Regression(
            self.mean * scale + shift,
            self.variance * scale**2,
            self.aleatoric * scale**2,
            self.chain_mean * scale + shift,
            None if self.quantiles is None else self.quantiles * scale + shift,
            None if self.log_density is None else self.log_density - np.log(scale),
        )

    def rmse(self, y: np.ndarray) -> float:
        return float(np.sqrt(((self.mean - _labels(y, len(self.mean))) ** 2).mean()))

    def log_likelihood(self, y: np.ndarray) -> float:
        """Mean log density of y under the matched Gaussian, as in Izmailov et al. 2021. That of the mixture, which
        MC-dropout's published figures are, is `log_density.mean()`."""
        z2 = (_labels(y, len(self.mean)) - self.mean) ** 2 / self.variance
        return float((-0.5 * (z2 + np.log(2 * np.pi * self.variance))).mean())


@dataclass(frozen=True)
class Raw:
    """The outputs of a model whose likelihood is a function of the user's own, averaged over draws.

    Attributes:
        mean, sd: `(T, ...)`, over draws of all chains. chain_mean: `(C, T, ...)`.
        quantiles: `(Q, T, ...)`, over the same draws, if asked for.
    """

    mean: np.ndarray
    sd: np.ndarray
    chain_mean: np.ndarray
    quantiles: np.ndarray | None = None
