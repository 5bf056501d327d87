"""A finished run: draws, trace, averaged predictions, and the queries on them."""

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..arguments import whole_number
from ..errors import UserError
from ..samplers.protocol import Sampler
from ..targets.base import Target
from . import arviz_export, diagnosis
from .bias_certificate import BiasCertificate, bias_certificate, refuse_tested
from .diagnosis import Sentence
from .diagnostics import ess_bulk, ess_tail, mcse_mean, rhat
from .model_average import Prediction
from .predicted import checked_levels, predicted
from .run_diagnostics import RunDiagnostics
from .trace import Plan, Trace

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Run"]

# Number of weights whose R-hat and ESS `summary` reports: an evenly spread sample represents the rest.
_SUMMARY_WEIGHTS = 1000


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A finished run.

    Attributes:
        draws: `(S, C, D)` in draw_dtype; a memory-mapped `.npy` file if the run had a directory.
        test: the average prediction at the test inputs, or None.
        curve: float64 `(S, 2 + 2C)`, see `StreamedAverage.curve`; None without test inputs.
        function_draws: float32 `(C, S, Q)`, predictions of each draw at the first test points.
        history: the trace as arrays, one per column.
        rounding: how many values overflowed, and how many became subnormal, in the stored draws.
        rounding_effect: the largest change of a prediction that storing the last state makes, see `Loop`.
        ended_early: why there are fewer draws than asked for, a sentence; else empty.
        final_state: of a sampler without a Metropolis test, the tensors of its state after the last iteration.
    """

    target: Target
    sampler: Sampler
    plan: Plan
    seed: int
    draws: np.ndarray
    test: Prediction | None
    curve: np.ndarray | None
    function_draws: np.ndarray
    history: Trace
    rounding: tuple[int, int]
    seconds: float
    rounding_effect: float = 0.0
    ended_early: str = ""
    final_state: dict[str, Tensor] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def num_chains(self) -> int:
        return int(self.draws.shape[1])

    @property
    def gradients(self) -> int:
        """Gradient evaluations summed over chains, on the full data or on minibatches."""
        return int(self.history.leapfrog_steps.sum())

    @property
    def trace(self) -> "pd.DataFrame":
        """One row per chain and iteration; see `Trace` for the columns."""
        return self.history.frame(self.plan.burn_in)

    @property
    def acceptance_rate(self) -> float | None:
        """Fraction of proposals accepted after burn-in; None without a Metropolis test."""
        if not self.sampler.has_metropolis_test:
            return None
        return float(self.history.accepted[self.plan.burn_in :].mean())

    @property
    def divergences(self) -> int:
        """Number of divergent proposals after burn-in."""
        return int(self.history.divergent[self.plan.burn_in :].sum())

    @cached_property
    def diagnostics(self) -> RunDiagnostics:
        """E-BFMI, temperatures, divergent iterations, R-hat of all weights, and more."""
        return RunDiagnostics(self)

    def diagnosis(self) -> list[Sentence]:
        """One sentence per problem, with its number and a remedy; a single sentence if there is none."""
        return diagnosis.sentences(self.diagnostics.evidence)

    def predict(
        self, inputs: Any, *, quantiles: "float | Sequence[float] | None" = None, batch_size: int = 1024
    ) -> Prediction:
        """The predictions at `inputs (T, ...)` averaged over all draws; memory grows with `batch_size`, not with
        the number of draws.

        quantiles: levels in [0, 1], Q of them, for `prediction.quantiles (Q, T, ...)`: exact ones over the draws of
            all chains, linearly interpolated; of a regression those of the mean, without noise. They take up to a
            quarter of a gigabyte, and fewer inputs at a time if that many draws need more.

        Raises:
            UserError: the target is a bare density, which has no predictions, or a level outside [0, 1].
        """
        levels = None if quantiles is None else checked_levels(quantiles)
        inputs = self.target.inputs(inputs)
        return predicted(self.target, self.draws, inputs, levels, whole_number("batch_size", batch_size))

    def summary(self) -> "pd.DataFrame":
        """Mean, sd, Monte Carlo standard error, bulk and tail ESS, and R-hat of the predictions (if the run had
        test inputs), of the test log likelihood of single draws, and of weights: at most 1,000 predictions, at the
        first test points, and 1,000 weights, evenly spread."""
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

    def bias_certificate(self, test: Any = None, *, iterations: int | None = None) -> BiasCertificate:
        """What the step size does to the results, by coupled chains at this step size and at half of it, which
        continue the run; `print` it. Three times the gradients of as many iterations.

        test: inputs `(T, ...)`, or (inputs, labels `(T,)`), whose predictions are compared; None: parameters alone.
        iterations: of each chain; None: as many as the run had after burn-in. A quarter is discarded.

        Raises:
            UserError: a sampler with a Metropolis test, which has no such bias; a run that ended early; fewer than
                8 iterations, or a chain that is lost.
        """
        refuse_tested(self.sampler)
        if self.ended_early:
            raise UserError(f"there is no state to continue from. {self.ended_early}")
        if iterations is None:
            iterations = max(8, len(self.history) - self.plan.burn_in)
        whole_number("iterations", iterations, least=8)
        theta = torch.from_numpy(np.array(self.draws[-1])).to(self.target.device, self.target.dtype)
        return bias_certificate(
            self.target, self.sampler, self.final_state, theta, test=test, iterations=iterations, seed=self.seed
        )

    def to_arviz(self) -> Any:
        """An `arviz.InferenceData`: parameters by name, function values, and sample statistics.

        Raises:
            UserError: arviz is not installed.
        """
        return arviz_export.inference_data(self)
