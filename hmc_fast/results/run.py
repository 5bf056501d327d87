"""What a run leaves: draws, trace, averaged predictions, and what can be asked of them."""

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..samplers.protocol import Sampler
from ..targets.base import Target
from . import arviz_export, diagnosis
from .diagnosis import Sentence
from .diagnostics import ess_bulk, ess_tail, mcse_mean, rhat
from .model_average import StreamedAverage, prediction_shape
from .predictions import Classification, Regression
from .run_diagnostics import RunDiagnostics
from .trace import Plan, Trace

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Run"]

# Weights whose R-hat and ESS `summary` reports: a spread-out sample of them, as the rest behave alike.
_SUMMARY_WEIGHTS = 1000


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A finished run.

    Attributes:
        draws: `(S, C, D)` in draw_dtype; a memory-mapped `.npy` when the run had a directory.
        test: the streamed average over the test inputs, or None.
        curve: float64 `(S, 2 + 2C)`, see `StreamedAverage.curve`; None without test inputs.
        function_draws: float32 `(C, S, Q)`, predictions at the first test points, draw by draw.
        history: the trace as arrays, one per column.
        rounding: values of the stored draws that overflowed, and that became subnormal.
    """

    target: Target
    sampler: Sampler
    plan: Plan
    seed: int
    draws: np.ndarray
    test: Classification | Regression | None
    curve: np.ndarray | None
    function_draws: np.ndarray
    history: Trace
    rounding: tuple[int, int]
    seconds: float

    @property
    def num_chains(self) -> int:
        return int(self.draws.shape[1])

    @property
    def gradients(self) -> int:
        """Gradient evaluations, each of one chain, full batch or minibatch."""
        return int(self.history.leapfrog_steps.sum())

    @property
    def trace(self) -> "pd.DataFrame":
        """One row per chain and iteration; the columns are explained at `Trace`."""
        return self.history.frame(self.plan.burn_in)

    @property
    def acceptance_rate(self) -> float | None:
        """Share of accepted proposals after burn-in; None without a Metropolis test."""
        if not self.sampler.has_metropolis_test:
            return None
        return float(self.history.accepted[self.plan.burn_in :].mean())

    @property
    def divergences(self) -> int:
        """Divergent proposals after burn-in."""
        return int(self.history.divergent[self.plan.burn_in :].sum())

    @property
    def diagnostics(self) -> RunDiagnostics:
        """E-BFMI, temperatures, divergent iterations, R-hat of all weights, and more."""
        return RunDiagnostics(self)

    def diagnosis(self) -> list[Sentence]:
        """What looks wrong, one sentence each with its number and a cure; one sentence if nothing does."""
        return diagnosis.sentences(self.diagnostics.evidence())

    def predict(self, inputs: Tensor, *, batch_size: int = 1024) -> Classification | Regression:
        """The average over all draws of the predictions at `inputs (T, ...)`; memory is bounded by
        `batch_size` inputs, not by the number of draws.

        Raises:
            UserError: the target is a bare density, which predicts nothing.
        """
        target = self.target
        inputs = target.inputs(inputs)
        one = target.predict(target.initial("model", 1, 0), inputs[:1])
        shape = (self.num_chains, len(inputs), prediction_shape(one)[2])
        average = StreamedAverage(target.task, shape, device=target.device)
        previous = np.empty(0)
        for draw in self.draws:
            if not np.array_equal(draw, previous):
                theta = torch.from_numpy(np.array(draw)).to(target.device, target.dtype)
                predictions = target.predict(theta, inputs, batch_size=batch_size)
                previous = draw
            average.update(predictions)
        return average.result()

    def summary(self) -> "pd.DataFrame":
        """Mean with its Monte Carlo error, sd, bulk and tail ESS and R-hat: predictions first, if the run had
        test inputs, then the test log likelihood of single draws, then weights (at most 1,000 of the
        predictions and of the weights, evenly spread)."""
        import pandas as pd

        blocks = []
        if self.function_draws.shape[2]:
            blocks.append(("function", np.arange(self.function_draws.shape[2]), self.function_draws))
        if (score := self.diagnostics.test_log_likelihood) is not None:
            blocks.append(("test_log_likelihood", np.arange(1), score[..., None]))
        chosen = np.unique(np.linspace(0, self.draws.shape[2] - 1, _SUMMARY_WEIGHTS).astype(np.int64))
        blocks.append(("weight", chosen, np.moveaxis(self.draws[:, :, chosen], 0, 1)))
        frames = []
        for kind, index, values in blocks:
            values = values.astype(np.float64)
            frames.append(
                pd.DataFrame(
                    {
                        "kind": kind,
                        "index": index,
                        "mean": values.mean((0, 1)),
                        "sd": values.std((0, 1), ddof=1),
                        "mcse_mean": mcse_mean(values),
                        "ess_bulk": ess_bulk(values),
                        "ess_tail": ess_tail(values),
                        "r_hat": rhat(values),
                    }
                )
            )
        return pd.concat(frames, ignore_index=True)

    def to_arviz(self) -> Any:
        """An `arviz.InferenceData`: parameters by name, function values, and sample statistics.

        Raises:
            UserError: arviz is not installed.
        """
        return arviz_export.inference_data(self)
