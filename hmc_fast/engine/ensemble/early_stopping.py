"""Early stopping of every member for itself, on the device."""

import torch
from torch import Tensor

__all__ = ["EarlyStopping"]


class EarlyStopping:
    """The best parameters of every member, until it has gone `patience` epochs without a better loss. What comes
    after that changes nothing, so a member is the same however long the others train.

    Attributes:
        best: `(C, D)`. loss: `(C,)` float64, theirs. epoch: `(C,)` int64, the one after which they were reached.
        waited: `(C,)` int64, epochs since then.
    """

    def __init__(self, theta: Tensor, patience: int) -> None:
        self.patience, self.best = patience, theta.clone()
        self.loss = theta.new_full((len(theta),), torch.inf, dtype=torch.float64)
        self.epoch, self.waited = (torch.zeros_like(self.loss, dtype=torch.int64) for _ in range(2))

    @property
    def stopped(self) -> Tensor:
        """`(C,)` bool."""
        return self.waited >= self.patience

    def update(self, theta: Tensor, loss: Tensor, epoch: int) -> None:
        """After an epoch. loss: `(C,)`; NaN is no improvement."""
        stopped = self.stopped
        better = (loss < self.loss) & ~stopped
        self.best.copy_(torch.where(better[:, None], theta, self.best))
        self.loss.copy_(torch.where(better, loss, self.loss))
        self.epoch.copy_(torch.where(better, epoch, self.epoch))
        self.waited.copy_(torch.where(better, 0, self.waited + ~stopped))
