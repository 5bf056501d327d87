"""Predictions of a Bayesian model average and their scores: one class per task.

Scores are means over the test points; entropies are in nats.
"""

from dataclasses import dataclass

import numpy as np

__all__ = ["Classification", "Regression", "agreement", "expected_calibration_error", "total_variation"]


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
    """

    probs: np.ndarray
    chain_probs: np.ndarray
    aleatoric: np.ndarray

    @property
    def epistemic(self) -> np.ndarray:
        p = self.probs
        total = -(p * np.log(np.maximum(p, np.finfo(np.float64).tiny))).sum(1)
        return np.maximum(total - self.aleatoric, 0.0)

    def accuracy(self, labels: np.ndarray) -> float:
        return float((self.probs.argmax(1) == np.asarray(labels)).mean())

    def nll(self, labels: np.ndarray) -> float:
        """Mean negative log probability of the true class."""
        p = self.probs[np.arange(len(self.probs)), np.asarray(labels, dtype=np.int64)]
        return float(-np.log(np.maximum(p, np.finfo(np.float64).tiny)).mean())

    def ece(self, labels: np.ndarray, num_bins: int = 20) -> float:
        return expected_calibration_error(self.probs, np.asarray(labels), num_bins)

    def brier(self, labels: np.ndarray) -> float:
        """Mean squared distance between the probabilities and the one-hot label, in [0, 2]."""
        hot = np.eye(self.probs.shape[1])[np.asarray(labels, dtype=np.int64)]
        return float(((self.probs - hot) ** 2).sum(1).mean())


@dataclass(frozen=True)
class Regression:
    """A Gaussian that matches the mean and variance of the predictive mixture over draws.

    Attributes:
        mean, variance: `(T,)`. aleatoric: `(T,)` mean variance of single draws. chain_mean: `(C, T)`.
    """

    mean: np.ndarray
    variance: np.ndarray
    aleatoric: np.ndarray
    chain_mean: np.ndarray

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
        )

    def rmse(self, y: np.ndarray) -> float:
        return float(np.sqrt(((self.mean - np.asarray(y)) ** 2).mean()))

    def log_likelihood(self, y: np.ndarray) -> float:
        """Mean log density of y under the matched Gaussian."""
        z2 = (np.asarray(y) - self.mean) ** 2 / self.variance
        return float((-0.5 * (z2 + np.log(2 * np.pi * self.variance))).mean())
