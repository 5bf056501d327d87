"""Reads and validates the folder of a finished run.

Shapes: C chains, T test points, K classes, n points of the curves against the number of draws.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UserError
from . import diagnostics

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
    "gradients_per_s", "seconds", "draws_bytes", "peak_memory_bytes",
)  # fmt: skip
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
        """Whether E-BFMI can be computed: a Metropolis test, kinetic energies, and at least four iterations."""
        if not self.has_mh_test or "kinetic_energy" not in self.trace:
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
        treated as evenly spaced even if they are not, as with cyclical schedules."""
        spent = self.trace.groupby("iteration")["leapfrog_steps"].sum().cumsum()
        after = spent[spent.index >= self.burn_in_end].to_numpy(float)
        count = len(self.predictions["curve_draws"])
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
        config=_read_json(directory / "config.json"),
        metrics=_read_metrics(directory / "metrics.json"),
        trace=_read_trace(directory / "trace.csv"),
        predictions=_read_predictions(directory / "predictions.npz"),
    )


def _damaged(path: Path, what: str) -> UserError:
    return UserError(f"{path} {what}: repeat the run in a new folder with python -m hmc_fast.sample")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _damaged(path, "is missing or cannot be read") from error
    except ValueError as error:
        raise _damaged(path, "is not valid JSON") from error
    if not isinstance(content, dict):
        raise _damaged(path, "does not contain a JSON object")
    return content


def _read_metrics(path: Path) -> dict[str, Any]:
    metrics = {key: value for key, value in _read_json(path).items() if value is not None}
    for key in METRIC_NUMBERS:
        if key not in metrics:
            continue
        if not isinstance(metrics[key], int | float):
            raise _damaged(path, f"contains a value of {key!r} that is not a number")
        if not math.isfinite(metrics[key]):
            del metrics[key]
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
    for column in TRACE_NUMBERS:
        try:
            trace[column] = pd.to_numeric(trace[column])
        except (ValueError, TypeError) as error:
            raise _damaged(path, f"contains a value in the column {column!r} that is not a number") from error
    if trace.empty or trace["iteration"].isna().any():
        raise _damaged(path, "lacks iterations")
    if trace.duplicated(["chain", "iteration"]).any():
        raise _damaged(path, "contains the same chain and iteration twice")
    return trace


def _read_predictions(path: Path) -> dict[str, np.ndarray]:
    import zipfile
    import zlib

    try:
        with (
            path.open("rb") as file,
            np.load(file, allow_pickle=False) as archive,
        ):  # numpy does not close a bad file
            found = {key: archive[key] for key in {**CLASSIFICATION, **REGRESSION} if key in archive}
    except OSError as error:
        raise _damaged(path, "is missing or cannot be read") from error
    except (ValueError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise _damaged(path, "is not a valid npz archive") from error
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
    for key in ("probs", "mean", "variance"):
        if key in found and not np.isfinite(found[key]).all():
            raise UserError(
                f"{path} contains a value of {key!r} that is not finite, so a chain has diverged: "
                "run again with a smaller --step-size"
            )
    labels = found["labels"]
    if "probs" in found and not ((labels >= 0) & (labels < lengths["K"])).all():
        raise _damaged(path, f"contains a label outside 0..{lengths['K'] - 1}")
    return found
