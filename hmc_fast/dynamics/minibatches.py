"""Minibatches without replacement, drawn on the device from counters.

Each chain reads its own endless sequence of permutations of the data; batch k is positions [k B, (k+1) B). Every
example appears once per epoch, and every batch has the same shape, as a captured step requires. Each position is
uniform over the data, so N/B times a batch's sum is an unbiased estimate of the full sum. Chains draw
independently, because shared batches would correlate them.

In a symmetric sweep the batches of an epoch are read forwards and then backwards: over the two epochs, the errors
of first order that a step makes on one batch cancel.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ..compute.random_streams import PERMUTATION
from ..errors import UserError
from ..kernels import ops
from ..kernels.ops import Counter
from ..targets.base import Target
from ..targets.reading import Reader

__all__ = ["Minibatches", "StreamedMinibatches", "SymmetricMinibatches", "minibatches", "permutation"]


def permutation(
    seed: int, epoch: int, num_chains: int, num_data: int, device: torch.device, *, stream: int = PERMUTATION
) -> Tensor:
    """Random permutations of 0..N-1, int64 `(C, N)`: a stable sort of 62 random bits per datum."""
    # torch.full, not torch.tensor: a copy from the host would wait for the device
    counter = Counter(seed, stream, torch.full((1,), epoch, device=device))
    high, low, _, _ = ops.philox(counter, num_chains, num_data)
    return torch.argsort((high >> 1 << 31) | (low >> 1), dim=1, stable=True)


class Minibatches:
    """Indices of minibatch `step` for every chain: a function of (seed, step), so checkpoints need not store them.

    Attributes:
        target: what evaluates them, if made by `minibatches`.

    Raises:
        UserError: a batch size that is not in 1..N.
    """

    target: Target

    def __init__(self, num_data: int, batch_size: int, num_chains: int, seed: int, device: torch.device) -> None:
        if not 1 <= batch_size <= num_data:
            raise UserError(f"batch size {batch_size} must lie between 1 and the {num_data} data points")
        self.num_data, self.batch_size, self.num_chains = num_data, batch_size, num_chains
        self.seed, self.device = seed, device
        self._epoch = -2
        self._window = torch.empty(num_chains, 2 * num_data, dtype=torch.int64, device=device)

    def read(self, step: Tensor, out: Tensor) -> None:
        """Writes the indices of `step (1,)`, read on the device, to `out (C, B)`. Call `advance` first."""
        ops.read_window(self._window, step, self.num_data, out)

    def advance(self, step: int) -> int:
        """Moves the window to the epochs that `step` reads, a no-op except once per epoch. Returns for how many
        steps, this one included, it may stay there."""
        epoch = step * self.batch_size // self.num_data
        self._advance(epoch)
        return -(-((epoch + 1) * self.num_data) // self.batch_size) - step

    def _advance(self, epoch: int) -> None:
        if epoch == self._epoch:
            return
        first, second = self._window.split(self.num_data, dim=1)
        if epoch == self._epoch + 1:
            first.copy_(second)
        else:
            first.copy_(self._permutation(epoch))
        second.copy_(self._permutation(epoch + 1))
        self._epoch = epoch

    def _permutation(self, epoch: int) -> Tensor:
        return permutation(self.seed, epoch, self.num_chains, self.num_data, self.device)


class SymmetricMinibatches(Minibatches):
    """Sweeps of two epochs: batches 1 .. m of a permutation, m = ceil(N / B), then m .. 1.

    Where B does not divide N, batch m is filled up from the start of the permutation.
    """

    def __init__(self, num_data: int, batch_size: int, num_chains: int, seed: int, device: torch.device) -> None:
        super().__init__(num_data, batch_size, num_chains, seed, device)
        self._sweep_steps = 2 * -(-num_data // batch_size)
        width = self._sweep_steps * batch_size
        self._window = torch.empty(num_chains, width, dtype=torch.int64, device=device)

    def read(self, step: Tensor, out: Tensor) -> None:
        ops.read_window(self._window, step, self._window.shape[1], out)

    def advance(self, step: int) -> int:
        sweep, done = divmod(step, self._sweep_steps)
        if sweep != self._epoch:
            rows = self._permutation(sweep)
            filled = torch.cat([rows, rows], dim=1)[:, : self._window.shape[1] // 2]
            forwards = filled.unflatten(1, (-1, self.batch_size))
            self._window.copy_(torch.cat([forwards, forwards.flip(1)], dim=1).flatten(1))
            self._epoch = sweep
        return self._sweep_steps - done


class StreamedMinibatches:
    """Minibatches of streamed data, in the same order: `advance` waits for the examples of a step and copies them
    to the buffers of `target`, so that the step itself, which may be a recording, finds them there.

    Args:
        known: what chooses them, on the host; None: `Minibatches` of all data.

    Attributes:
        target: whose gradient on any rows `(C, B)` is that on the minibatch in its buffers.
    """

    def __init__(
        self, target: Target, batch_size: int, num_chains: int, seed: int, known: Minibatches | None = None
    ) -> None:
        assert target.stream is not None
        self._known = known or Minibatches(target.num_data, batch_size, num_chains, seed, torch.device("cpu"))
        self.target, self._buffers = target.on_minibatches(num_chains, batch_size)
        self._stream, self._size, self._step = target.stream, num_chains * batch_size, -2
        self._reader: Reader | None = None

    def read(self, step: Tensor, out: Tensor) -> None:
        """Nothing: the examples themselves are there."""

    def advance(self, step: int) -> int:
        """Returns 1: the examples in the buffers are those of `step` alone."""
        if step != self._step:
            if self._reader is not None and step != self._step + 1:
                self._reader.close()
            if self._reader is None or self._reader.closed:  # at the start of a run, perhaps a resumed one
                self._reader = self._stream.reader(_order(self._known, step), self._size)
            self._step = -2  # until the examples are there
            self._stream.write(next(self._reader), self._buffers)
            self._step = step
        return 1


def _order(batches: Minibatches, step: int) -> Iterator[np.ndarray]:
    """Rows `(C B,)` of this and all later steps."""
    rows = torch.empty(batches.num_chains, batches.batch_size, dtype=torch.int64)
    while True:
        batches.advance(step)
        batches.read(torch.tensor([step]), rows)
        yield rows.flatten().numpy().copy()
        step += 1


def minibatches(
    target: Target, batch_size: int, num_chains: int, seed: int, *, symmetric: bool = False
) -> Minibatches | StreamedMinibatches:
    """Minibatches of a target's data, with the target that evaluates them.

    symmetric: in sweeps of two epochs, see `SymmetricMinibatches`.

    Raises:
        UserError: a batch size that is not in 1..N.
    """
    kind = SymmetricMinibatches if symmetric else Minibatches
    if target.stream is not None:
        known = kind(target.num_data, batch_size, num_chains, seed, torch.device("cpu"))
        return StreamedMinibatches(target, batch_size, num_chains, seed, known)
    made = kind(target.num_data, batch_size, num_chains, seed, target.device)
    made.target = target
    return made
