"""What a run leaves: draws, trace, averaged predictions, and what can be asked of them."""

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..engine.loop import TRACE_COLUMNS, Plan
from ..errors import UserError
from ..samplers.protocol import Sampler
from ..targets.base import Target
from ..targets.posterior import Posterior
from . import diagnosis
from .diagnosis import Sentence
from .diagnostics import e_bfmi, ess_bulk, ess_mean, ess_tail, mcse_mean, plain_rhat, rhat
from .model_average import StreamedAverage, prediction_shape
from .predictions import Classification, Regression

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Run"]

# Weights whose R-hat and ESS `summary` reports: a spread-out sample of them, as the rest behave alike.
_SUMMARY_WEIGHTS = 1000

# Parameters whose draws are read at a time from a file that may not fit in memory.
_WEIGHT_BLOCK = 8192


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

    @property
    def divergent_iterations(self) -> "pd.DataFrame":
        """Chain, iteration and energy error of each divergent proposal after burn-in."""
        trace = self.trace
        chosen = (trace["phase"] == "sampling") & (trace["divergent"] == 1)
        return trace.loc[chosen, ["chain", "iteration", "energy_error"]].reset_index(drop=True)

    @property
    def potential(self) -> np.ndarray:
        """U = -(log likelihood + log prior) / T of every iteration after burn-in, `(C, I)`; SG samplers:
        estimated on the iteration's minibatches."""
        trace = self._trace[self.plan.burn_in :]
        return np.asarray(-(trace[:, :, 0] + trace[:, :, 1]).T / self.target.temperature)

    @property
    def e_bfmi(self) -> np.ndarray | None:
        """Energy Bayesian fraction of missing information of each chain `(C,)`, see `diagnostics.e_bfmi`; of
        all iterations after burn-in, thinned or not. None without a Metropolis test, or a momentum drawn anew."""
        kinetic = self._trace[self.plan.burn_in :, :, TRACE_COLUMNS.index("kinetic_energy")].T
        if not self.sampler.has_metropolis_test or np.isnan(kinetic).all():
            return None
        return e_bfmi(self.potential + kinetic)

    @property
    def kinetic_temperature(self) -> np.ndarray | None:
        """2 K / D of each chain `(C,)`, averaged over the kept iterations: momenta are drawn at unit
        temperature whatever T, as the potential is divided by T, so 1 is right. None without a momentum."""
        values = self._kinetic_temperatures()
        return None if values is None else values.mean(1)

    def _kinetic_temperatures(self) -> np.ndarray | None:
        kept = self._trace[self.plan.kept_iterations(self.sampler)]
        kinetic = kept[:, :, TRACE_COLUMNS.index("kinetic_energy")].T
        return None if np.isnan(kinetic).all() else np.asarray(2 * kinetic / self.target.num_params)

    def configurational_temperature(self, num_draws: int = 20) -> np.ndarray:
        """Mean of theta . grad U / D of each chain `(C,)` over at most `num_draws` evenly spread draws.

        1 is right, by the virial theorem, wherever the density falls off fast enough to be proper. Costs one
        full-data gradient per chain and draw, at the stored (by default half-precision) draws.

        Raises:
            UserError: num_draws under 1.
        """
        if num_draws < 1:
            raise UserError(f"num_draws {num_draws} must be at least 1")
        chosen = np.unique(np.linspace(0, len(self.draws) - 1, num_draws).astype(np.int64))
        total = np.zeros(self.num_chains)
        for draw in chosen:
            theta = torch.from_numpy(np.array(self.draws[draw])).to(self.target.device, self.target.dtype)
            _, grad = self.target.potential_and_grad(theta)
            total += (theta.double() * grad.double()).sum(1).cpu().numpy()
        return total / (len(chosen) * self.target.num_params)

    @property
    def test_log_likelihood(self) -> np.ndarray | None:
        """Mean log likelihood per test example of each single draw, `(C, S)`; None without test labels."""
        if self.curve is None or np.isnan(self.curve).all():
            return None
        losses = self.curve[:, 2 + self.num_chains :].T
        return -losses if isinstance(self.test, Classification) else losses

    def weights(self) -> "pd.DataFrame":
        """Mean, sd, ESS of the mean and plain split R-hat of *every* parameter, one row each.

        From the stored draws, a block of parameters at a time, so memory does not grow with them. R-hat is
        that of the values, not of their ranks as in `summary`, which would have to sort every parameter.
        """
        import pandas as pd

        blocks = []
        for begin in range(0, self.draws.shape[2], _WEIGHT_BLOCK):
            values = np.moveaxis(self.draws[:, :, begin : begin + _WEIGHT_BLOCK], 0, 1).astype(np.float64)
            mean, sd = values.mean((0, 1)), values.std((0, 1), ddof=1)
            blocks.append(np.stack((mean, sd, ess_mean(values), plain_rhat(values)), axis=1))
        return pd.DataFrame(np.concatenate(blocks), columns=["mean", "sd", "ess_mean", "r_hat"])

    def diagnosis(self) -> list[Sentence]:
        """What looks wrong, one sentence each with its number and a cure; one sentence if nothing does."""
        kept = np.array(self.plan.kept_iterations(self.sampler)) - self.plan.burn_in
        blocks = range(0, self.draws.shape[2], _WEIGHT_BLOCK)
        weight_rhat = [plain_rhat(np.moveaxis(self.draws[:, :, i : i + _WEIGHT_BLOCK], 0, 1)) for i in blocks]
        evidence = diagnosis.Evidence(
            potential=self.potential[:, kept],
            energy_errors=self.divergent_iterations["energy_error"].to_numpy(),
            proposals=(len(self._trace) - self.plan.burn_in) * self.num_chains,
            acceptance_rate=self.acceptance_rate,
            e_bfmi=self.e_bfmi,
            kinetic_temperature=self._kinetic_temperatures(),
            function=self.function_draws,
            test_score=self.test_log_likelihood,
            weight_rhat=np.concatenate(weight_rhat),
        )
        return diagnosis.sentences(evidence)

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
        """Mean with its Monte Carlo error, sd, bulk and tail ESS and R-hat: predictions first, if the run had
        test inputs, then the test log likelihood of single draws, then weights (at most 1,000 of the
        predictions and of the weights, evenly spread)."""
        import pandas as pd

        blocks = []
        if self.function_draws.shape[2]:
            blocks.append(("function", np.arange(self.function_draws.shape[2]), self.function_draws))
        if (score := self.test_log_likelihood) is not None:
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
