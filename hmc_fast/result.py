"""What a run leaves: draws, trace, averaged predictions, and what can be asked of them."""

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .bma import StreamedAverage, prediction_shape
from .diagnostics import ess_bulk, rhat
from .engine.loop import TRACE_COLUMNS, Plan
from .errors import UserError
from .posterior import Posterior
from .predictions import Classification, Regression
from .samplers.base import Sampler
from .target import Target

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Run"]

# Weights whose R-hat and ESS `summary` reports: a spread-out sample of them, as the rest behave alike.
_SUMMARY_WEIGHTS = 1000


@dataclasses.dataclass
class Run:
    """A finished run.

    Attributes:
        draws: `(S, C, D)` in draw_dtype; a memory-mapped `.npy` when the run had a directory.
        test: the streamed average over the test inputs, or None.
        curve: float64 `(S, 2 + 2C)`, see `StreamedAverage.curve`; None without test labels.
        function_draws: float32 `(C, S, Q)`, predictions at the first test points, draw by draw.
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
    rounding: tuple[int, int]
    seconds: float
    _trace: np.ndarray  # (I, C, columns)

    @property
    def num_chains(self) -> int:
        return int(self.draws.shape[1])

    @property
    def gradients(self) -> int:
        """Gradient evaluations, each of one chain, full batch or minibatch."""
        return int(self._trace[:, :, TRACE_COLUMNS.index("leapfrog_steps")].sum())

    @property
    def trace(self) -> "pd.DataFrame":
        """One row per chain and iteration; log_likelihood is the sum over the data (SG samplers: estimated
        on the iteration's minibatches)."""
        import pandas as pd

        iterations, chains, _ = self._trace.shape
        index = np.indices((iterations, chains))
        phase = np.where(index[0].ravel() < self.plan.burn_in, "burn_in", "sampling")
        frame = pd.DataFrame({"chain": index[1].ravel(), "iteration": index[0].ravel(), "phase": phase})
        for column, name in enumerate(TRACE_COLUMNS):
            frame[name] = self._trace[:, :, column].ravel()
        whole = ["accepted", "divergent", "leapfrog_steps"]
        frame[whole] = frame[whole].astype(np.int64)
        return frame

    @property
    def acceptance_rate(self) -> float | None:
        """Share of accepted proposals after burn-in; None without a Metropolis test."""
        if not self.sampler.has_metropolis_test:
            return None
        return float(self._trace[self.plan.burn_in :, :, TRACE_COLUMNS.index("accepted")].mean())

    @property
    def divergences(self) -> int:
        """Divergent proposals after burn-in."""
        return int(self._trace[self.plan.burn_in :, :, TRACE_COLUMNS.index("divergent")].sum())

    def predict(self, inputs: Tensor, *, batch_size: int = 1024) -> Classification | Regression:
        """The average over all draws of the predictions at `inputs (T, ...)`; memory is bounded by
        `batch_size` inputs, not by the number of draws.

        Raises:
            UserError: the target is a bare density, which predicts nothing.
        """
        target = self.target
        if not isinstance(target, Posterior):
            raise UserError("a bare Density predicts nothing: build a Posterior from a model to predict")
        inputs = inputs.to(target.device, target.dtype if inputs.is_floating_point() else None)
        average: StreamedAverage | None = None
        previous: np.ndarray | None = None
        for draw in self.draws:
            if previous is None or not np.array_equal(draw, previous):
                theta = torch.from_numpy(np.array(draw)).to(target.device, target.dtype)
                predictions = target.predict(theta, inputs, batch_size=batch_size)
                previous = draw
            if average is None:
                average = StreamedAverage(
                    target.likelihood.task, prediction_shape(predictions), device=target.device
                )
            average.update(predictions)
        assert average is not None
        return average.result()

    def summary(self) -> "pd.DataFrame":
        """Mean, sd, bulk ESS and R-hat: predictions first, if the run had test inputs, then weights (at most
        1,000 of each, evenly spread)."""
        import pandas as pd

        blocks = []
        if self.function_draws.shape[2]:
            blocks.append(("function", np.arange(self.function_draws.shape[2]), self.function_draws))
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
                        "ess_bulk": ess_bulk(values),
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
        try:
            import arviz
        except ImportError as error:
            raise UserError("to_arviz needs arviz: pip install 'hmc_fast[arviz]'") from error
        draws = np.moveaxis(np.asarray(self.draws, dtype=np.float32), 0, 1)  # (C, S, D)
        posterior: dict[str, np.ndarray] = {}
        if isinstance(self.target, Posterior):
            flat = self.target.flat
            edges = np.cumsum([0, *flat.sizes])
            for name, shape, begin, end in zip(flat.names, flat.shapes, edges[:-1], edges[1:], strict=True):
                posterior[name] = draws[:, :, begin:end].reshape(*draws.shape[:2], *shape)
        else:
            posterior["theta"] = draws
        if self.function_draws.shape[2]:
            posterior["function"] = self.function_draws
        trace = self._trace[self.plan.kept_iterations(self.sampler)]
        stats = {
            "lp": trace[:, :, 0] + trace[:, :, 1],
            "acceptance_rate": trace[:, :, TRACE_COLUMNS.index("accept_prob")],
            "diverging": trace[:, :, TRACE_COLUMNS.index("divergent")].astype(bool),
            "n_steps": trace[:, :, TRACE_COLUMNS.index("leapfrog_steps")].astype(np.int64),
        }
        return arviz.from_dict(
            posterior=posterior, sample_stats={name: np.moveaxis(v, 0, 1) for name, v in stats.items()}
        )
