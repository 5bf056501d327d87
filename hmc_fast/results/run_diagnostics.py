"""Diagnostics of a run: energies, temperatures, divergences, and the R-hat of every weight.

Shapes: C chains, I iterations after burn-in, S kept draws, D parameters.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..errors import UserError
from ..kernels import ops
from .diagnosis import SPIKE, EnergyError, Evidence
from .diagnostics import e_bfmi, ess_mean, per_parameter, plain_rhat, spread_evenly
from .draw_precision import lost_coordinates
from .predictions import Classification
from .trace import Trace

if TYPE_CHECKING:
    import pandas as pd

    from .run import Run

__all__ = ["RunDiagnostics"]

_PARAMETERS = 1000  # judged where there are no predictions


@dataclass(frozen=True)
class RunDiagnostics:
    """`run.diagnostics`; everything is computed on access, the evidence once."""

    run: "Run"

    @property
    def potential(self) -> np.ndarray:
        """U = -(log likelihood + log prior) / T of every iteration after burn-in, `(C, I)`; SG samplers:
        estimated on the iteration's minibatches."""
        return np.asarray(-self._sampling.log_density.T / self.run.target.temperature)

    @property
    def e_bfmi(self) -> np.ndarray | None:
        """Energy Bayesian fraction of missing information of each chain `(C,)`, see `diagnostics.e_bfmi`, over all
        iterations after burn-in, kept or not. None without a Metropolis test, without a kinetic energy, or where
        the momentum persists (GHMC), so that energies change slowly by design."""
        kinetic = self._sampling.kinetic_energy.T
        if not self.run.sampler.has_metropolis_test or self._partial_refreshment or np.isnan(kinetic).all():
            return None
        return e_bfmi(self.potential + kinetic)

    @property
    def kinetic_temperature(self) -> np.ndarray | None:
        """2 K / D of each chain `(C,)`, averaged over the kept iterations. Its expected value is 1 for every T,
        because T divides the potential and momenta have unit temperature. None without a momentum."""
        values = self._kinetic_temperatures()
        return None if values is None else values.mean(1)

    def _kinetic_temperatures(self) -> np.ndarray | None:
        kinetic = self.run.history[self._kept].kinetic_energy.T
        return None if np.isnan(kinetic).all() else np.asarray(2 * kinetic / self.run.target.num_params)

    def configurational_temperature(self, num_draws: int = 20) -> np.ndarray:
        """Mean of theta . grad U / D of each chain `(C,)` over at most `num_draws` evenly spread draws.

        Its expected value is 1, by the virial theorem, for any proper density with light enough tails. It takes one
        full-data gradient per chain and draw, at the stored (by default half-precision) draws.

        Raises:
            UserError: num_draws under 1.
        """
        if num_draws < 1:
            raise UserError(f"num_draws {num_draws} must be at least 1")
        draws, target = self.run.draws, self.run.target
        chosen = np.unique(np.linspace(0, len(draws) - 1, num_draws).astype(np.int64))
        total = np.zeros(self.run.num_chains)
        for draw in chosen:
            theta = torch.from_numpy(np.array(draws[draw])).to(target.device, target.dtype)
            with ops.using(target.kernels):
                _, grad = target.potential_and_grad(theta)
            total += (theta.double() * grad.double()).sum(1).cpu().numpy()
        return total / (len(chosen) * target.num_params)

    @property
    def divergent_iterations(self) -> "pd.DataFrame":
        """Chain, iteration and energy error of each divergent proposal after burn-in."""
        trace = self.run.trace
        chosen = (trace["phase"] == "sampling") & (trace["divergent"] == 1)
        return trace.loc[chosen, ["chain", "iteration", "energy_error"]].reset_index(drop=True)

    @property
    def test_log_likelihood(self) -> np.ndarray | None:
        """Mean log likelihood per test example of each single draw, `(C, S)`; None without test labels."""
        if self.run.curve is None or np.isnan(self.run.curve).all():
            return None
        losses = self.run.curve[:, 2 + self.run.num_chains :].T
        return -losses if isinstance(self.run.test, Classification) else losses

    def weights(self) -> "pd.DataFrame":
        """Mean, sd, ESS of the mean and plain split R-hat of *every* parameter, one row each.

        Computed from the stored draws one block of parameters at a time, so memory does not grow with their number.
        R-hat uses the values, not the ranks as in `run.summary`, which would require sorting every parameter.
        """
        import pandas as pd

        def figures(x: np.ndarray) -> np.ndarray:
            return np.stack((x.mean((0, 1)), x.std((0, 1), ddof=1), ess_mean(x), plain_rhat(x)))

        columns = ["mean", "sd", "ess_mean", "r_hat"]
        return pd.DataFrame(per_parameter(figures, self.run.draws).T, columns=columns)

    @cached_property
    def evidence(self) -> Evidence:
        """The input to `run.diagnosis`, kept because it takes seconds. Of long chains, some of the predictions,
        evenly spread, represent the rest."""
        sampling = self._sampling
        return Evidence(
            potential=self.potential[:, np.array(self._kept) - self.run.plan.burn_in],
            energy_errors=sampling.energy_error[(sampling.divergent == 1) & np.isfinite(sampling.accept_prob)],
            proposals=sampling.accepted.size,
            acceptance_rate=self.run.acceptance_rate,
            e_bfmi=self.e_bfmi,
            kinetic_temperature=self._kinetic_temperatures(),
            function=spread_evenly(self.run.function_draws),
            parameters=self._parameters(),
            test_score=self.test_log_likelihood,
            weight_rhat=per_parameter(plain_rhat, self.run.draws),
            partial_refreshment=self._partial_refreshment,
            energy_error=self._energy_error(),
            draw_dtype=str(self.run.draws.dtype),
            overflowed=self.run.rounding[0],
            lost=lost_coordinates(self.run.draws) if sampling.accepted.any() else 0.0,
            rounding_effect=self.run.rounding_effect,
            ended_early=self.run.ended_early,
            remark=getattr(self.run.sampler, "remark", ""),
        )

    def _parameters(self) -> np.ndarray:
        """Of a run without predictions some parameters, evenly spread, `(C, S, P)`."""
        draws = self.run.draws
        count = 0 if self.run.function_draws.shape[2] else min(draws.shape[2], _PARAMETERS)
        chosen = np.linspace(0, draws.shape[2] - 1, count).astype(np.int64)
        return spread_evenly(np.moveaxis(draws[:, :, chosen], 0, 1).astype(np.float64))

    @property
    def _partial_refreshment(self) -> bool:
        return getattr(self.run.sampler, "partial_refreshment", False)

    def _energy_error(self) -> EnergyError | None:
        """Errors are known as sums over an iteration's steps, whose variance is at most steps^2 times a step's."""
        sampler, target, trace = self.run.sampler, self.run.target, self._sampling
        errors = np.abs(trace.energy_error)
        if sampler.has_metropolis_test or not np.isfinite(errors).any():
            return None
        size = np.nanmedian(np.abs(trace.log_density)) / target.temperature
        tuned = getattr(sampler, "adapt", False)
        return EnergyError(
            variance=float(np.nanmean((errors / trace.leapfrog_steps) ** 2) / target.num_params),
            asked=getattr(sampler, "energy_variance", None) if tuned else None,
            spikes=int((errors > SPIKE * np.nanmedian(errors)).any(1).sum()),
            iterations=len(errors),
            # each example's log likelihood is rounded; their sum is not
            rounding=float(torch.finfo(target.dtype).eps * size / target.num_data**0.5),
            dtype=str(target.dtype).removeprefix("torch."),
            num_params=target.num_params,
        )

    @property
    def _sampling(self) -> Trace:
        """The trace after burn-in."""
        return self.run.history[self.run.plan.burn_in :]

    @property
    def _kept(self) -> list[int]:
        return self.run.plan.kept_iterations(self.run.sampler)
