"""Reads and validates the folder of a finished run.

Shapes: C chains, T test points, K classes, n points of the curves against the number of draws.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arguments import shown
from ..checked_files import Unreadable, read_json, read_npz
from ..errors import UserError
from ..flag_values import fits
from . import diagnostics
from .trace import TRACE_COLUMNS

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["RunFolder", "read_run"]

TRACE_NUMBERS = (
    "iteration", "log_likelihood", "log_prior", "energy_error", "accept_prob", "accepted", "divergent",
    "leapfrog_steps",
)  # fmt: skip
METRIC_NUMBERS = (
    "accuracy", "nll", "ece", "brier", "accuracy_single", "nll_single", "rmse", "log_likelihood",
    "acceptance_rate", "divergences", "rhat_function_max", "rhat_function_share_below_1_1",
    "ess_function_min", "chains", "draws", "params", "train_size", "test_size", "gradients",
    "gradients_per_s", "seconds", "draws_bytes", "peak_memory_bytes", "e_bfmi_min",
)  # fmt: skip
LARGEST_SHOWN = 1e100  # sums and axes of larger numbers overflow: in a trace, they are shown as infinite
LARGEST_COUNT = 2**40  # of iterations, or of steps in one
# Each array's shape by axis name; equal names must have equal lengths.
CLASSIFICATION = {
    "probs": "TK", "labels": "T", "epistemic": "T", "aleatoric": "T",
    "curve_draws": "n", "curve_accuracy": "n", "curve_nll": "n", "single_accuracy": "nC", "single_nll": "nC",
}  # fmt: skip
REGRESSION = {
    "mean": "T", "variance": "T", "labels": "T",
    "curve_draws": "n", "curve_rmse": "n", "curve_log_likelihood": "n", "single_rmse": "nC",
}  # fmt: skip


@dataclass(frozen=True)
class RunFolder:
    """A run folder, read and validated."""

    directory: Path
    config: Mapping[str, Any]
    metrics: Mapping[str, Any]  # a number that is missing, null or not finite is absent
    trace: "pd.DataFrame"
    predictions: Mapping[str, np.ndarray]

    @property
    def is_classification(self) -> bool:
        return "probs" in self.predictions

    @property
    def has_mh_test(self) -> bool:
        """Whether there was a Metropolis test: without one, acceptance probabilities are empty."""
        return bool(self.trace["accept_prob"].notna().any())

    @property
    def burn_in_end(self) -> float:
        """First iteration after burn-in; one past the last if there is none."""
        sampling = self.trace.loc[self.trace["phase"] == "sampling", "iteration"]
        return float(sampling.min()) if len(sampling) else float(self.trace["iteration"].max()) + 1

    @property
    def num_chains(self) -> int:
        return int(self.trace["chain"].nunique())

    @property
    def has_energies(self) -> bool:
        """Whether E-BFMI can be computed and says something: a Metropolis test, a momentum that is new in every
        iteration, and at least four iterations."""
        if not self.has_mh_test or "kinetic_energy" not in self.trace or self.config.get("sampler") == "ghmc":
            return False
        energies = self.energies()
        return len(energies) > 3 and bool(np.isfinite(energies).all()) and bool((energies.std(0) > 0).all())

    def energies(self) -> np.ndarray:
        """Potential plus kinetic energy of every iteration after burn-in, `(iterations, C)`."""
        trace, temperature = self.trace, float(self.config.get("temperature") or 1.0)
        total = trace["kinetic_energy"] - (trace["log_likelihood"] + trace["log_prior"]) / temperature
        frame = self.per_chain(total)
        return frame[frame.index >= self.burn_in_end].to_numpy(float)

    def e_bfmi(self) -> np.ndarray:
        """Energy Bayesian fraction of missing information of each chain `(C,)`."""
        return diagnostics.e_bfmi(self.energies().T)

    def gradients_at_draws(self) -> np.ndarray:
        """Gradients of all chains together, burn-in included, up to each draw of the curves, `(n,)`. Draws are
        treated as evenly spaced even if they are not, as with cyclical schedules; NaN without draws."""
        spent = self.trace.groupby("iteration")["leapfrog_steps"].sum().cumsum()
        after = spent[spent.index >= self.burn_in_end].to_numpy(float)
        count = len(self.predictions["curve_draws"])
        if not len(after):
            return np.full(count, np.nan)
        index = np.ceil(len(after) * np.arange(1, count + 1) / count).astype(np.int64) - 1
        return np.asarray(after[index])

    def sampled(self, column: str) -> np.ndarray:
        """One trace column after burn-in, all chains concatenated, float64."""
        return self.trace.loc[self.trace["phase"] == "sampling", column].to_numpy(float)

    def per_chain(self, values: "pd.Series") -> "pd.DataFrame":
        """A column of the trace as (iterations, C), with both axes labelled as in the file."""
        frame = self.trace[["chain", "iteration"]].assign(value=values)
        return frame.pivot(index="iteration", columns="chain", values="value")


def read_run(directory: Path) -> RunFolder:
    """Reads the folder of a finished run; a `UserError` names any missing or damaged file."""
    directory = Path(directory)
    return RunFolder(
        directory=directory,
        config=_read_config(directory / "config.json"),
        metrics=_read_metrics(directory / "metrics.json"),
        trace=_read_trace(directory / "trace.csv"),
        predictions=_read_predictions(directory / "predictions.npz"),
    )


def _damaged(path: Path, what: str) -> UserError:
    return UserError(f"{path} {what}: repeat the run in a new folder with python -m hmc_fast.sample")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except Unreadable as error:
        raise _damaged(path, str(error)) from error


def _read_config(path: Path) -> dict[str, Any]:
    config = _read_json(path)
    for key, kind in (("temperature", float), ("batch_size", int)):
        value = config.get(key)
        if not fits(value, kind | None) or (value is not None and not 0 <= value < math.inf):
            raise _damaged(path, f"contains {shown(value)} as {key!r}")
    return config


def _read_metrics(path: Path) -> dict[str, Any]:
    metrics = {key: value for key, value in _read_json(path).items() if value is not None}
    for key in filter(metrics.__contains__, METRIC_NUMBERS):
        value = metrics[key]
        if not fits(value, float):
            raise _damaged(path, f"contains {shown(value)} as {key!r}, which is not a number")
        if not math.isfinite(value):
            del metrics[key]
        elif abs(value) > LARGEST_SHOWN:
            raise _damaged(path, f"contains {value:.3g} as {key!r}")
    for key in ("diagnosis", "diagnosis_kinds"):
        value = metrics.get(key, [])
        if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
            raise _damaged(path, f"contains {shown(value)} as {key!r}, which is no list of texts")
    return metrics


def _read_trace(path: Path) -> "pd.DataFrame":
    import pandas as pd

    try:
        trace = pd.read_csv(path)
    except OSError as error:
        raise _damaged(path, "is missing or cannot be read") from error
    except ValueError as error:  # pandas' parser errors and undecodable bytes are ValueErrors
        raise _damaged(path, "is not a valid CSV file") from error
    for column in ("chain", "phase", *TRACE_NUMBERS):
        if column not in trace:
            raise _damaged(path, f"lacks the column {column!r}")
    for column in filter(trace.__contains__, dict.fromkeys(("chain", *TRACE_NUMBERS, *TRACE_COLUMNS))):
        try:
            numbers = pd.to_numeric(trace[column], errors="coerce")
        except OverflowError as error:  # an integer beyond all floats
            raise _damaged(path, f"contains a value in the column {column!r} that is not a number") from error
        if numbers.dtype.kind not in "iuf" or not numbers.isna().equals(trace[column].isna()):
            raise _damaged(path, f"contains a value in the column {column!r} that is not a number")
        trace[column] = numbers.mask(numbers.abs() > LARGEST_SHOWN, np.sign(numbers) * np.inf)
    for column in ("chain", "iteration", "leapfrog_steps"):
        numbers = trace[column]
        if trace.empty or not numbers.between(0, LARGEST_COUNT).all() or (numbers % 1 != 0).any():
            raise _damaged(path, f"lacks whole numbers in the column {column!r}")
        trace[column] = numbers.astype(np.int64)
    if trace.duplicated(["chain", "iteration"]).any():
        raise _damaged(path, "contains the same chain and iteration twice")
    if len(trace) != trace["chain"].nunique() * trace["iteration"].nunique():
        raise _damaged(path, "lacks iterations of some chains")
    if not trace["phase"].isin(("burn_in", "sampling")).all():
        raise _damaged(path, "contains a phase other than burn_in and sampling")
    return trace


def _read_predictions(path: Path) -> dict[str, np.ndarray]:
    try:
        found = read_npz(path, [*CLASSIFICATION, *(name for name in REGRESSION if name not in CLASSIFICATION)])
    except Unreadable as error:
        raise _damaged(path, str(error)) from error
    lengths: dict[str, int] = {}
    for key, axes in (CLASSIFICATION if "probs" in found else REGRESSION).items():
        if key not in found:
            raise _damaged(path, f"lacks the array {key!r}")
        shape = found[key].shape
        fits = len(shape) == len(axes)
        if not fits or any(lengths.setdefault(a, s) != s for a, s in zip(axes, shape, strict=True)):
            raise _damaged(path, f"contains {key!r} of shape {shape}, which does not fit ({', '.join(axes)})")
        if 0 in shape or found[key].dtype.kind not in "fiu":
            raise _damaged(path, f"contains no numbers in {key!r}")
    for key in found:
        finite = np.isfinite(found[key])
        if not finite.all() and not key.startswith("single"):
            raise UserError(
                f"{path} contains a value of {key!r} that is not finite, so a chain has diverged: "
                "run again with a smaller --step-size"
            )
        if (np.abs(found[key][finite].astype(np.float64)) > LARGEST_SHOWN).any():
            raise _damaged(path, f"contains a value of {key!r} beyond {LARGEST_SHOWN:g}")
    if (found["curve_draws"] < 1).any():
        raise _damaged(path, "contains a number of draws that is not positive")
    labels = found["labels"]
    if "probs" in found and not ((labels >= 0) & (labels < lengths["K"]) & (labels % 1 == 0)).all():
        raise _damaged(path, f"contains a label outside 0..{lengths['K'] - 1}")
    if "probs" in found and not ((found["probs"] >= 0).all() and np.allclose(found["probs"].sum(1), 1, atol=1e-2)):
        raise _damaged(path, "contains probabilities that do not sum to 1")
    if "variance" in found and (found["variance"] < 0).any():
        raise _damaged(path, "contains a negative variance")
    return found
