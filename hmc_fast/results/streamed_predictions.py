"""Predictions at the test inputs as draws arrive: their average, and values of single draws for diagnostics."""

import numpy as np
import torch
from torch import Tensor

from ..compute.batches import count as count_of
from ..compute.batches import rows
from ..errors import UserError
from ..targets.base import Target
from .model_average import StreamedAverage

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
        self._values = np.empty((num_chains, num_draws, count), np.float32)
        self._recent: list[Tensor] = []  # `(C, Q)` each: the latest values, not yet on the host
        self._last = torch.empty(0)  # `(C, T, ...)`: predictions of the latest draw

    @property
    def nbytes(self) -> int:
        """Bytes of the sums, on the target's device."""
        return self.average.sums.nbytes + self.average.second.nbytes

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
        values = values.flatten(1)[:, : self._values.shape[2]]
        self._recent.append(values.to(torch.float32, copy=True))  # a view would keep all predictions alive
        if len(self._recent) == _FUNCTION_WINDOW:
            self._collect()

    def change(self, theta: Tensor, other: Tensor) -> float:
        """The largest change of a prediction from `theta` to `other (C, D)`, at the first test points."""
        inputs = rows(self.inputs, slice(_MAX_CHANGES))
        first, second = (self.target.predict(draw, inputs).double() for draw in (theta, other))
        difference = (first - second).abs()
        if self.average.task == "regression":
            difference = difference[..., 0] / first[..., 1].sqrt()
        return float(difference.max())

    def _collect(self) -> None:
        """Moves function values to the host: once per window, so that no iteration waits for its predictions."""
        if self._recent:
            first = self.average.count - len(self._recent)
            self._values[:, first : self.average.count] = torch.stack(self._recent, dim=1).cpu().numpy()
            self._recent.clear()

    def score(self) -> float:
        """Accuracy or RMSE of the average so far; NaN without labels or before the first draw."""
        return float(self.average.curve[self.average.count - 1, 0])

    def function_values(self) -> np.ndarray:
        """Predicted values of each draw so far at the first test points, float32 `(C, S, Q)`."""
        self._collect()
        return self._values[:, : self.average.count]

    # --- checkpoint ---

    def tensors(self) -> dict[str, Tensor]:
        return {
            "average.sums": self.average.sums,
            "average.second": self.average.second,
            "average.curve": self.average.curve,
            "average.last": self._last,
            "function_values": torch.from_numpy(self.function_values()),
        }

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Continues from the `tensors()` of an interrupted run."""
        self.average.sums.copy_(tensors["average.sums"])
        self.average.second.copy_(tensors["average.second"])
        self.average.curve.copy_(tensors["average.curve"])
        self._last = tensors["average.last"].to(self.target.device)
        self.average.count = count = tensors["function_values"].shape[1]
        self._values[:, :count] = tensors["function_values"].numpy()


def _check_classes(labels: Tensor, num_classes: int) -> None:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise UserError(f"test labels range over {low}..{high}: they must be in 0..{num_classes - 1}")
