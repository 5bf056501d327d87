"""The share of the training data on which members are judged while they train."""

from collections.abc import Iterable

import torch
from torch import Tensor

from ...compute.random_streams import HELD_OUT
from ...dynamics.minibatches import permutation
from ...errors import UserError
from ...targets.posterior import Posterior

__all__ = ["HeldOut", "split"]


def split(num_data: int, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Rows to train on and rows held out, int64, each in ascending order: a function of the seed, the same for all
    members, so that their scores compare.

    Raises:
        UserError: too few examples to hold any out.
    """
    number = max(1, round(share * num_data)) if share else 0
    if number >= num_data:
        raise UserError(f"held_out {share} of {num_data} examples leaves none to train on: give 0, or more data")
    order = permutation(seed, 0, 1, num_data, torch.device("cpu"), stream=HELD_OUT)[0]
    return order[number:].sort().values, order[:number].sort().values


class HeldOut:
    """Rows that no gradient sees. In memory they are copied once; streamed ones are read for every evaluation."""

    def __init__(self, target: Posterior, rows: Tensor) -> None:
        self._target, self._chunks = target, [part.tolist() for part in rows.split(target.micro_batch_size)]
        self._copies = None if target.stream is not None else [target.on_rows(chunk) for chunk in self._chunks]

    def losses(self, theta: Tensor) -> Tensor:
        """Mean negative log likelihood of every member, float64 `(C,)`, on the device."""
        total, count = torch.zeros(len(theta), dtype=torch.float64, device=theta.device), 0
        for part in self._parts():
            log_lik = theta.new_empty(len(theta), part.num_data)
            part.log_likelihood(theta, log_lik)
            total, count = total - log_lik.double().sum(1), count + part.num_data
        return total / count

    def accuracies(self, theta: Tensor) -> Tensor | None:
        """Share of right classes of every member, float64 `(C,)`; None unless that is the task."""
        if self._target.task != "classification":
            return None
        right, count = torch.zeros(len(theta), dtype=torch.float64, device=theta.device), 0
        for part in self._parts():
            is_right = (part.predict(theta, part.x).argmax(-1) == part.y).double().flatten(1).mean(1)
            right, count = right + is_right * part.num_data, count + part.num_data
        return right / count

    def _parts(self) -> Iterable[Posterior]:
        return self._copies or (self._target.on_rows(chunk) for chunk in self._chunks)
