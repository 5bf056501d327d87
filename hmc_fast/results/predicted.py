"""Predictions at new inputs from the stored draws: their average, and quantiles over draws."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..compute.batches import count, rows
from ..errors import UserError
from ..kernels import ops
from ..targets.base import Target
from .model_average import Prediction, StreamedAverage

__all__ = ["checked_levels", "predicted"]

_QUANTILE_BYTES = 2**28  # of the predictions of all draws at the inputs of one chunk


def checked_levels(quantiles: float | Sequence[float]) -> np.ndarray:
    """`(Q,)`. Raises UserError for anything but numbers in [0, 1]."""
    try:
        levels = np.atleast_1d(np.asarray(quantiles, dtype=np.float64))
    except (TypeError, ValueError):
        levels = np.array([np.nan])
    if levels.ndim != 1 or not len(levels) or not ((levels >= 0) & (levels <= 1)).all():
        raise UserError(f"quantiles {quantiles!r} must be numbers between 0 and 1, such as (0.05, 0.95)")
    return levels


def predicted(
    target: Target, draws: np.ndarray, inputs: Any, levels: np.ndarray | None, batch_size: int
) -> Prediction:
    """The average over `draws (S, C, D)`, with quantiles at `levels` unless None."""
    num_chains, points = draws.shape[1], count(inputs)
    one = target.predict(target.initial("model", 1, 0), rows(inputs, slice(1)))
    event = tuple(one.shape[2:])
    average = StreamedAverage(target.task, (num_chains, points, *event), device=target.device)
    with ops.using(target.kernels):
        if levels is None:
            for predictions in _each_draw(target, draws, inputs, batch_size):
                average.update(predictions)
            return average.result()
        per_input = draws.shape[0] * num_chains * one[0, 0].nbytes
        size = max(1, min(batch_size, _QUANTILE_BYTES // per_input))
        found = []
        for start in range(0, points, size):
            part = slice(start, start + size)
            chunk = rows(inputs, part)
            own = StreamedAverage(target.task, (num_chains, count(chunk), *event), device=target.device)
            values = np.empty((len(draws), num_chains, count(chunk), *event), _numpy_dtype(one))
            for index, predictions in enumerate(_each_draw(target, draws, chunk, size)):
                own.update(predictions)
                values[index] = predictions.cpu().numpy()
            average.sums[:, part], average.second[:, part], average.count = own.sums, own.second, own.count
            values = values[..., 0] if target.task == "regression" else values
            found.append(np.quantile(values, levels, axis=(0, 1)))
    return dataclasses.replace(average.result(), quantiles=np.concatenate(found, axis=1))


def _each_draw(target: Target, draws: np.ndarray, inputs: Any, batch_size: int) -> Iterator[Tensor]:
    """Predictions `(C, T, ...)` of every draw; where no chain moved, the last ones again."""
    previous = np.empty(0)
    for draw in draws:
        if not np.array_equal(draw, previous):
            theta = torch.from_numpy(np.array(draw)).to(target.device, target.dtype)
            predictions = target.predict(theta, inputs, batch_size=batch_size)
            previous = draw
        yield predictions


def _numpy_dtype(tensor: Tensor) -> np.dtype[Any]:
    return np.dtype(str(tensor.dtype).removeprefix("torch."))
