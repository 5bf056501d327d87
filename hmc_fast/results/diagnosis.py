"""Diagnosis of a run in sentences, each naming a problem, its number and a remedy.

Thresholds: R-hat 1.01 and an ESS of 100 per chain (Vehtari et al. 2021, arXiv:1903.08008), E-BFMI 0.3 (Betancourt
2016, arXiv:1604.00695). The others are our own rules of thumb.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .diagnostics import ess_bulk, ess_tail, mcse_mean, rhat

__all__ = ["SPIKE", "EnergyError", "Evidence", "Sentence", "sentences"]

_RHAT, _RHAT_BAD = 1.01, 1.05
_ESS_PER_CHAIN = 100
_ROUNDING_EFFECT = 1e-2  # of one draw; float16 weights near 1 give some 1e-3, which averages out over draws
SPIKE = 100  # times the median; Gaussian errors reach some 6, those of MCLMC on Gaussians and on digits 4 to 13
_FEWEST_DRAWS = 4  # fewer leave a half-chain without a variance


class Sentence(str):
    """A sentence and its kind: "fine", "warning", or "note" for what is harmless or cannot be assessed."""

    kind: str

    def __new__(cls, text: str, kind: str) -> "Sentence":
        sentence = super().__new__(cls, text)
        sentence.kind = kind
        return sentence


@dataclass(frozen=True)
class EnergyError:
    """Of a sampler without a Metropolis test, whose only safeguard it is. Variances per dimension and step.

    Attributes:
        variance: at least this. asked: what the step size was tuned to, None if it was given.
        spikes: iterations with errors above 100 times the usual, of `iterations`.
        rounding: standard deviation of what rounding in `dtype` adds to an energy.
        num_params: D.
    """

    variance: float
    asked: float | None
    spikes: int
    iterations: int
    rounding: float
    dtype: str
    num_params: int


@dataclass
class Evidence:
    """The numbers that a diagnosis is based on. C chains, S kept draws, Q predicted values, P parameters.

    Attributes:
        potential: `(C, S)`, minus log density over T.
        energy_errors: of the divergent proposals after burn-in. proposals: the number of all proposals after
        burn-in. acceptance_rate, e_bfmi `(C,)`: None without a Metropolis test. kinetic_temperature: `(C, S)`, 2 K
        / D; None without a momentum. function: `(C, S, Q)`, Q = 0 without test inputs. parameters: `(C, S, P)`,
        some of them, which are judged where there are no predictions. test_score: `(C, S)`, log likelihood per test
        example of single draws; None without test labels. weight_rhat: of all parameters, plain split R-hat.
        partial_refreshment: whether the momentum persists, which takes a high acceptance rate. energy_error: None
        with a Metropolis test, or if it is not known. overflowed: stored values beyond draw_dtype, clamped. lost:
        share of parameters whose spread is within its rounding. rounding_effect: largest change of a prediction by
        rounding. ended_early: why there are fewer draws than asked for, a sentence. remark: the sampler's.
    """

    potential: np.ndarray
    energy_errors: np.ndarray
    proposals: int
    acceptance_rate: float | None
    e_bfmi: np.ndarray | None
    kinetic_temperature: np.ndarray | None
    function: np.ndarray
    parameters: np.ndarray
    test_score: np.ndarray | None
    weight_rhat: np.ndarray
    partial_refreshment: bool = False
    energy_error: EnergyError | None = None
    draw_dtype: str = "float32"
    overflowed: int = 0
    lost: float = 0.0
    rounding_effect: float = 0.0
    ended_early: str = ""
    remark: str = ""

    @property
    def has_predictions(self) -> bool:
        return self.function.shape[2] > 0

    @property
    def judged(self) -> np.ndarray:
        """Values by which convergence is judged."""
        return self.function if self.has_predictions else self.parameters

    @cached_property
    def rhat(self) -> np.ndarray:
        """R-hat of those of the values that changed."""
        values = rhat(self.judged)
        return values[np.isfinite(values)]

    @cached_property
    def ess(self) -> float:
        """The smallest bulk ESS of the values that changed."""
        return float(np.nanmin(ess_bulk(self.judged)))


def sentences(run: Evidence) -> list[Sentence]:
    """One sentence per problem; if there is none, one that lists the checks that passed."""
    chains, draws = run.potential.shape
    early = [run.ended_early] if run.ended_early else []
    notes = [run.remark] if run.remark else []
    if draws < _FEWEST_DRAWS:
        few = f"{draws} draws per chain are too few to assess convergence: take at least {_FEWEST_DRAWS}."
        warnings = [Sentence(text, "warning") for text in (*early, *_acceptance(run), *_divergences(run), few)]
        return [*warnings, *(Sentence(text, "note") for text in notes)]
    found = [
        *early,
        *_potentials(run),
        *_acceptance(run),
        *_divergences(run),
        *_e_bfmi(run),
        *_kinetic_temperature(run),
        *_energy_error(run.energy_error),
        *_convergence(run),
        *_rounding(run),
    ]
    notes += _weights(run)
    if chains == 1:
        notes.append(
            "With one chain, only its two halves can be compared: run 4 chains for a stronger convergence check."
        )
    judged = [Sentence(text, "warning") for text in found] or [Sentence(_all_fine(run), "fine")]
    return [*judged, *(Sentence(text, "note") for text in notes)]


def _potentials(run: Evidence) -> Iterator[str]:
    """If the chains have converged, their means differ by less than the spread within a chain."""
    chains = len(run.potential)
    means, spread = run.potential.mean(1), float(np.median(run.potential.std(1, ddof=1)))
    if chains == 1 or not np.isfinite(means).all() or np.ptp(means) <= 3 * spread:
        return
    centre = np.median(means)
    away = np.abs(means - centre) > 3 * spread
    agree = means[~away]
    if away.any() and 2 * len(agree) > chains and np.ptp(agree) <= 3 * spread:
        for chain in np.flatnonzero(away):
            where = "higher" if means[chain] > centre else "lower"
            cure = "run a longer burn-in or drop it" if where == "higher" else "run a longer burn-in for all chains"
            yield (
                f"{len(agree)} of {chains} chains agree in potential energy; chain {chain} is {where} "
                f"(mean {means[chain]:.5g} against {agree.mean():.5g}): {cure}."
            )
    else:
        yield (
            f"The chains' mean potential energies range from {means.min():.5g} to {means.max():.5g}, but the "
            f"standard deviation within a chain is {spread:.2g}: run a longer burn-in."
        )


def _acceptance(run: Evidence) -> Iterator[str]:
    rate = run.acceptance_rate
    if rate is None:
        return

    def error(edge: float) -> float:
        """Two standard errors of a rate at the threshold, so that few proposals raise no false alarm."""
        return float(2 * np.sqrt(edge * (1 - edge) / run.proposals))

    if rate < 0.4 - error(0.4):
        yield f"The acceptance rate is {rate:.2f}, below 0.4: use a smaller step size."
    elif rate > 0.95 + error(0.95) and not run.partial_refreshment:
        yield f"The acceptance rate is {rate:.3f}, above 0.95: a larger step size would save gradients."


def _divergences(run: Evidence) -> Iterator[str]:
    errors = run.energy_errors
    if len(errors):
        finite = errors[np.isfinite(errors)]
        size = f"median energy error {np.median(finite):.3g}" if len(finite) else "no finite energy error"
        if 0 < len(finite) < len(errors):
            size += f", {len(errors) - len(finite)} not finite"
        yield (
            f"{len(errors)} of {run.proposals} proposals after burn-in diverged ({size}): use a smaller step "
            "size or a longer burn-in."
        )


def _e_bfmi(run: Evidence) -> Iterator[str]:
    if run.e_bfmi is None:
        return
    low = np.flatnonzero(run.e_bfmi < 0.3)
    if len(low):
        names = ", ".join(str(chain) for chain in low)
        yield (
            f"E-BFMI is below 0.3 in {'chain' if len(low) == 1 else 'chains'} {names} (smallest "
            f"{run.e_bfmi[low].min():.2f}), so the energy distribution is explored slowly: run a longer burn-in "
            "and more draws, or use a prior with lighter tails."
        )


def _kinetic_temperature(run: Evidence) -> Iterator[str]:
    if run.kinetic_temperature is None or not np.isfinite(run.kinetic_temperature).all():
        return
    mean, error = run.kinetic_temperature.mean(), float(mcse_mean(run.kinetic_temperature[..., None])[0])
    # Allow 1 % for the discretisation error of samplers without a Metropolis test.
    if abs(mean - 1) > max(4 * error, 0.01):
        cure = (
            "the momentum has not reached its stationary distribution, so run a longer burn-in"
            if run.acceptance_rate is not None
            else "use a smaller step size, a larger batch, or a noise estimate"
        )
        yield (
            f"The kinetic temperature is {mean:.3f} with a standard error of {error:.2g}; it should be 1: {cure}."
        )


def _energy_error(error: EnergyError | None) -> Iterator[str]:
    if error is None:
        return
    if error.asked is not None and error.rounding**2 > 0.1 * error.asked * error.num_params:
        enough = 10 * error.rounding**2 / error.num_params
        tuned = (error.asked * error.num_params) ** 0.5
        yield (
            f"Rounding in {error.dtype} changes energies by about {error.rounding:.2g}, and the step size was "
            f"tuned to an error of {tuned:.2g}: use float64, or an energy_variance above {enough:.1g}."
        )
    elif error.asked is not None and error.variance > 2 * error.asked:
        yield (
            f"The energy error has a variance of at least {error.variance:.2g} per dimension and step, "
            f"{_times(error.variance / error.asked)} the {error.asked:.2g} that the step size was tuned to: run a "
            "longer burn-in, or set a smaller step size."
        )
    if error.spikes:
        yield (
            f"The energy error of {error.spikes} of {error.iterations} iterations is more than {SPIKE} times the "
            "usual one, so the step is too coarse in some region: use a smaller step size or energy_variance."
        )


def _convergence(run: Evidence) -> Iterator[str]:
    chains, draws, count = run.judged.shape
    what, single = ("predictions", "prediction") if run.has_predictions else ("parameters", "parameter")
    if count:
        moving = run.rhat
        if len(moving) == 0:
            yield (
                f"No {single} changed in any chain, so convergence cannot be assessed: check the acceptance rate, "
                "and use a smaller step size if it is low."
            )
            return
        worst = moving.max()
        if worst > _RHAT_BAD:
            yield (
                f"R-hat of the {what} reaches {worst:.2f} and is above {_RHAT_BAD} for "
                f"{_share(moving > _RHAT_BAD)} of them: run a longer burn-in, more draws or longer trajectories."
            )
        elif worst > _RHAT:
            yield (
                f"R-hat of the {what} reaches {worst:.3f} and is above {_RHAT} for "
                f"{_share(moving > _RHAT)} of them: take more draws."
            )
        bulk, tail = run.ess, np.nanmin(ess_tail(run.judged))
        needed = _ESS_PER_CHAIN * chains
        if min(bulk, tail) < needed:
            yield (
                f"The smallest effective sample size of the {what} is {bulk:.0f} (tails: {tail:.0f}) of "
                f"{chains * draws} draws, below {needed} ({_ESS_PER_CHAIN} per chain): take about "
                f"{_times(needed / min(bulk, tail))} as many draws."
            )
    if run.test_score is not None:
        value = float(rhat(run.test_score[..., None])[0])
        if value > _RHAT_BAD:
            yield (
                f"R-hat of the test log likelihood of single draws is {value:.2f}, above {_RHAT_BAD}: take more "
                "draws."
            )


def _rounding(run: Evidence) -> Iterator[str]:
    """What storing the draws in draw_dtype has done to them."""
    cure = "use draw_dtype=torch.float32"
    if run.overflowed:
        yield f"{run.overflowed:,} stored values are beyond {run.draw_dtype} and were clamped: {cure}."
    if run.lost:
        yield f"{run.lost:.0%} of the parameters lost their spread when rounded to {run.draw_dtype}: {cure}."
    if run.rounding_effect > _ROUNDING_EFFECT:
        yield (
            f"Rounding the draws to {run.draw_dtype} changes predictions by up to {run.rounding_effect:.2g}, so "
            f"run.predict differs from run.test: {cure}."
        )


def _weights(run: Evidence) -> Iterator[str]:
    moving = run.weight_rhat[np.isfinite(run.weight_rhat)]
    if not run.has_predictions or len(moving) == 0 or moving.max() <= _RHAT_BAD:
        return
    if len(run.rhat) and run.rhat.max() <= _RHAT_BAD:
        yield (
            f"R-hat of the weights reaches {moving.max():.2f} and is above {_RHAT_BAD} for "
            f"{_share(moving > _RHAT_BAD)} of {len(moving):,}, while that of the predictions is at most "
            f"{run.rhat.max():.3f}: symmetries of the network can cause this, and it is harmless for the "
            "predictions; do not interpret individual weights."
        )


def _all_fine(run: Evidence) -> str:
    """Lists the checks that passed."""
    passed = []
    if len(run.rhat):
        what = "predictions" if run.has_predictions else "parameters"
        passed.append(f"R-hat of the {what} is at most {run.rhat.max():.3f}")
        passed.append(f"their smallest effective sample size {run.ess:.0f}")
    if run.acceptance_rate is not None:
        passed.append(f"acceptance {run.acceptance_rate:.2f} without divergences")
    if run.e_bfmi is not None and np.isfinite(run.e_bfmi).any():
        passed.append(f"E-BFMI at least {np.nanmin(run.e_bfmi):.2f}")
    return f"No check found a problem: {', '.join(passed) or 'none of them applies to this run'}."


def _share(mask: np.ndarray) -> str:
    percent = 100 * mask.mean()
    return f"{percent:.0f} %" if percent >= 10 else f"{percent:.2g} %"


def _times(factor: float) -> str:
    return f"{factor:.1f} times" if factor < 10 else f"{factor:.0f} times"
