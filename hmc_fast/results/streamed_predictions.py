"""Predictions at the test inputs as draws arrive: their average, and values of single draws for diagnostics."""

import numpy as np
import torch
from torch import Tensor

from ..compute.batches import count as count_of
from ..compute.batches import named, rows
from ..errors import UserError
from ..targets.base import Target
from .model_average import StreamedAverage
from .row_files import Rows

__all__ = ["StreamedPredictions"]

# Function values kept per draw for R-hat and ESS: enough test points to represent the rest.
_MAX_FUNCTION_VALUES = 1000
_MAX_CHANGES = 256  # test points at which the effect of rounding is measured
_FUNCTION_WINDOW = 64  # draws whose function values are buffered on the device


class StreamedPredictions:
    """Computes the predictions of every draw, skipping draws in which no chain has moved.

    Args:
        target: computes the predictions. num_chains, num_draws: C, S.
        test: inputs `(T, ...)`, or (inputs, labels), labels `(T,)`.

    Attributes:
        values: where function values go, float32, a row `(C, Q)` per draw; in host memory until replaced.

    Raises:
        UserError: the target has no predictions, or inputs and labels do not fit the data or each other.
    """

    def __init__(
        self, target: Target, test: "Tensor | tuple[Tensor, Tensor]", num_chains: int, num_draws: int
    ) -> None:
        inputs, labels = test if isinstance(test, tuple) and len(test) == 2 else (test, None)
        self.target, self.inputs = target, target.inputs(inputs)
        event = target.predict(target.initial("model", 1, 0), rows(self.inputs, slice(1))).shape[2:]
        points = count_of(self.inputs)
        if labels is not None:
            labels = target.labels(labels, points)
            if target.task == "classification":
                _check_classes(labels, event[0])
        shape = (num_chains, points, *event)
        self.average = StreamedAverage(target.task, shape, labels=labels, num_draws=num_draws, device=target.device)
        # Of a regression the means alone.
        count = min(_MAX_FUNCTION_VALUES, points * (1 if target.task == "regression" else event.numel()))
        self.values = Rows((num_draws, num_chains, count), np.float32)
        self._recent: list[Tensor] = []  # `(C, Q)` each: the latest values, not yet on the host
        self._last = torch.empty(0)  # `(C, T, ...)`: predictions of the latest draw

    @property
    def tested(self) -> list[Tensor]:
        """The tensors of the inputs, and last the labels; empty without labels."""
        labels = self.average.labels
        inputs = [tensor for _, tensor in named(self.inputs)]
        return [*inputs, torch.empty(0) if labels is None else labels]

    @property
    def nbytes(self) -> int:
        """Bytes of the sums and the curve, on the target's device."""
        average = self.average
        return average.sums.nbytes + average.second.nbytes + average.log_density.nbytes + average.curve.nbytes

    def add(self, theta: Tensor, *, moved: bool) -> None:
        """Adds the predictions at `theta (C, D)` to the average. moved: whether any chain has moved since the last
        draw; if not, the last predictions are added again without recomputing them."""
        if not moved and self.average.count:
            self.average.update(self._last)
        elif self.target.predicts_softmax:
            self._last = self.average.update_from_logits(self.target.logits(theta, self.inputs))
        else:
            self._last = self.target.predict(theta, self.inputs)
            self.average.update(self._last)
        values = self._last[..., :1] if self.average.task == "regression" else self._last
        values = values.flatten(1)[:, : self.values.shape[2]]
        self._recent.append(values.to(torch.float32, copy=True))  # a view would keep all predictions alive
        if len(self._recent) == _FUNCTION_WINDOW:
            self.flush()

    def change(self, theta: Tensor, other: Tensor) -> float:
        """The largest change of a prediction from `theta` to `other (C, D)`, at the first test points."""
        inputs = rows(self.inputs, slice(_MAX_CHANGES))
        first, second = (self.target.predict(draw, inputs).double() for draw in (theta, other))
        difference = (first - second).abs()
        if self.average.task == "regression":
            difference = difference[..., 0] / first[..., 1].sqrt()
        return float(difference.max())

    def flush(self) -> None:
        """Moves function values to the host: once per window, so that no iteration waits for its predictions."""
        if self._recent:
            self.values.append(torch.stack(self._recent).cpu().numpy())
            self._recent.clear()

    def score(self) -> float:
        """Accuracy or RMSE of the average so far; NaN without labels or before the first draw."""
        return float(self.average.curve[self.average.count - 1, 0])

    def function_values(self) -> np.ndarray:
        """Predicted values of each draw so far at the first test points, float32 `(C, S, Q)`."""
        self.flush()
        return np.moveaxis(self.values.read(), 0, 1)

    # --- checkpoint ---

    def tensors(self) -> dict[str, Tensor]:
        """All that does not grow with the number of draws."""
        return {
            "average.sums": self.average.sums,
            "average.second": self.average.second,
            "average.log_density": self.average.log_density,
            "average.last": self._last,
        }

    def curve(self, first: int) -> np.ndarray:
        """The curve from draw `first` on, float64 `(draws, 2 + 2C)`."""
        return self.average.curve[first : self.average.count].cpu().numpy()

    def restore(self, tensors: dict[str, Tensor], curve: np.ndarray) -> None:
        """Continues from the `tensors()` and `curve(0)` of an interrupted run; `values` must hold theirs."""
        self.average.sums.copy_(tensors["average.sums"])
        self.average.second.copy_(tensors["average.second"])
        self.average.log_density.copy_(tensors["average.log_density"])
        self._last = tensors["average.last"].to(self.target.device)
        self.average.count = count = len(curve)
        self.average.curve[:count] = torch.tensor(curve)


def _check_classes(labels: Tensor, num_classes: int) -> None:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise UserError(f"test labels range over {low}..{high}: they must be in 0..{num_classes - 1}")
