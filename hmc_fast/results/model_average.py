"""Streaming Bayesian model averaging: sums per chain, so memory does not grow with the number of draws.

Every kept iteration counts once, including the repeated state after a rejection: without the repeats, the average
would be biased towards states that are left quickly.
"""

import math

import torch
from torch import Tensor

from ..kernels import ops
from ..targets.likelihoods import Task
from .predictions import Classification, Raw, Regression

__all__ = ["Prediction", "StreamedAverage", "gaussian_log_density"]

Prediction = Classification | Raw | Regression


class StreamedAverage:
    """Averages predictions `(C, T, ...)` of C chains at T test points.

    Classification predictions `(C, T, K)` are class probabilities. Regression predictions are (mean, variance),
    `(C, T, 2)`; their mean and second moment are averaged. Those of any shape are averaged as they are.

    Args:
        task: of the likelihood. shape: of one draw's predictions, (C, T, ...).
        labels: `(T,)` on `device`, for the curve; None leaves it empty. num_draws: S, for the curve.

    Attributes:
        sums: float64 `(C, T, ...)`. second: float64 `(C, T)`, sums of entropies (classification) or of variances
            (regression); else `(C, T, ...)`, of squares. log_density: float64 `(C, T)`, of the labels of a
            regression under the sum of the draws' densities; else empty. curve: float64 `(S, 2 + 2C)`: for each
            draw, the scores of the average so far over all chains (accuracy and NLL, or RMSE and mean log
            likelihood), then those of each chain's single draw.
    """

    def __init__(
        self,
        task: Task,
        shape: tuple[int, ...],
        *,
        labels: Tensor | None = None,
        num_draws: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        num_chains = shape[0]
        self.task, self.labels = task, labels
        self.sums = torch.zeros(shape, dtype=torch.float64, device=device)
        self.second = torch.zeros(shape if task == "custom" else shape[:2], dtype=torch.float64, device=device)
        mixture = task == "regression" and labels is not None
        self.log_density = self.second.new_full(shape[:2] if mixture else (0,), -torch.inf)
        self.curve = torch.full((num_draws, 2 + 2 * num_chains), torch.nan, dtype=torch.float64, device=device)
        self.count = 0

    def update(self, predictions: Tensor) -> None:
        """Adds the predictions of one draw of every chain, `(C, T, ...)`."""
        p = predictions.double()
        if self.task == "classification":
            self.sums += p
            self.second += torch.special.entr(p).sum(-1)
        elif self.task == "regression":
            mean, variance = p.unbind(-1)
            self.sums += torch.stack((mean, variance + mean**2), dim=-1)
            self.second += variance
        else:
            self.sums += p
            self.second += p**2
        self._count(p)

    def update_from_logits(self, logits: Tensor) -> Tensor:
        """Adds one draw of class probabilities, the softmax of logits `(C, T, K)`, in one pass over the sums.

        Returns the probabilities, in float32 (float64 for float64 logits), so that `update` can add them again.
        """
        p = torch.empty(logits.shape, dtype=torch.promote_types(logits.dtype, torch.float32), device=logits.device)
        ops.accumulate_softmax(logits, self.sums, self.second, p)
        self._count(p)
        return p

    def _count(self, p: Tensor) -> None:
        """Counts the draw just added, `p (C, T, K)`, and scores it."""
        self.count += 1
        if self.labels is not None and self.task != "custom":
            single = p if self.task == "classification" else torch.stack((p[..., 0], p[..., 1]), dim=-1)
            if self.task == "regression":
                torch.logaddexp(
                    self.log_density, gaussian_log_density(p[..., 0], p[..., 1], self.labels), out=self.log_density
                )
            pooled = self._pooled()[None]
            score, loss = self._scores(torch.cat((pooled, single)), self.labels)  # (1 + C,) each
            self.curve[self.count - 1] = torch.cat((score[:1], loss[:1], score[1:], loss[1:]))

    def _pooled(self) -> Tensor:
        """The average over draws and chains, `(T, K)`: probabilities, or (mean, variance)."""
        average = self.sums.mean(0) / self.count
        if self.task == "regression":
            return torch.stack((average[:, 0], average[:, 1] - average[:, 0] ** 2), dim=-1)
        return average

    def _scores(self, p: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Accuracy and NLL, or RMSE and mean log likelihood, of predictions `(M, T, K)`: `(M,)` each."""
        if self.task == "classification":
            labels = labels.long()
            accuracy = (p.argmax(-1) == labels).double().mean(1)
            tiny = torch.finfo(torch.float64).tiny
            chosen = p[:, torch.arange(p.shape[1], device=p.device), labels]
            return accuracy, -torch.log(chosen.clamp_min(tiny)).mean(1)
        mean, variance = p.unbind(-1)
        return ((labels - mean) ** 2).mean(1).sqrt(), gaussian_log_density(mean, variance, labels).mean(1)

    def result(self) -> Prediction:
        """The average so far."""
        average = (self.sums / self.count).cpu()
        if self.task == "custom":
            mean = average.mean(0)
            variance = (self.second.mean(0) / self.count).cpu() - mean**2
            return Raw(mean.numpy(), variance.clamp(min=0).sqrt().numpy(), average.numpy())
        second = (self.second.mean(0) / self.count).cpu().numpy()
        if self.task == "regression":
            mean, variance = self._pooled().cpu().unbind(-1)
            log_density = None
            if len(self.log_density):
                draws = self.count * len(self.log_density)
                log_density = (torch.logsumexp(self.log_density, 0) - math.log(draws)).cpu().numpy()
            chain_mean = average[..., 0].numpy()
            return Regression(mean.numpy(), variance.numpy(), second, chain_mean, log_density=log_density)
        return Classification(average.mean(0).numpy(), average.numpy(), second)


def gaussian_log_density(mean: Tensor, variance: Tensor, labels: Tensor) -> Tensor:
    """Of labels `(T,)` under Gaussians `(M, T)`: `(M, T)`."""
    return -0.5 * ((labels - mean) ** 2 / variance + torch.log(2 * torch.pi * variance))
