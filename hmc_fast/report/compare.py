"""Several runs side by side on one page: scores, settings that differ, chains, calibration and cost."""

import base64
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic_files import write_text
from ..errors import UserError
from ..results.predictions import agreement, total_variation
from ..results.run_folder_reader import RunFolder
from .chain_panels import trace
from .drawing import BLUE, CHAIN_STYLES, GREEN, GREY, INK, ORANGE, RED, label_log_axis, new_figure, png, style
from .findings import findings
from .html import render
from .prediction_panels import SCORES, equal_mass_bins, mark_confidence
from .summary import cost, flat_settings, headline

__all__ = ["write_comparison"]

LOOKS = [(BLUE, "o"), (RED, "s"), (GREEN, "^"), (ORANGE, "D"), (INK, "v"), (GREY, "P")]
# Metric, label, and whether higher (1), lower (-1) or neither (0) is better.
METRICS = (
    ("accuracy", "Accuracy", 1),
    ("nll", "NLL (nats)", -1),
    ("brier", "Brier score", -1),
    ("ece", "ECE", -1),
    ("accuracy_single", "Accuracy, single draw", 1),
    ("nll_single", "NLL, single draw", -1),
    ("rmse", "RMSE", -1),
    ("log_likelihood", "Log likelihood (nats)", 1),
    ("acceptance_rate", "Acceptance", 0),
    ("divergences", "Divergences", -1),
    ("rhat_function_max", "Largest R-hat of predictions", -1),
    ("rhat_function_share_below_1_1", "Share of R-hat below 1.1", 1),
    ("ess_function_min", "Smallest ESS of predictions", 1),
    ("e_bfmi_min", "Smallest E-BFMI", 1),
)
# Settings that differ between any two runs and are uninformative.
UNTOLD = ("out", "resume", "progress", "versions.", "git_commit", "data_dir")


def write_comparison(runs: Sequence[RunFolder], path: Path) -> Path:
    """Writes the page and returns its path.

    Raises:
        UserError: the runs cannot be compared because their test labels differ, or the file cannot be written.
    """
    check_comparable(runs)
    names = run_names(runs)
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise UserError(f"--out {path} cannot be written: name a file in a directory that exists")
    figures = _figures(runs, names)
    page = render(
        files(__package__).joinpath("compare.html.jinja").read_text(encoding="utf-8"),
        names=names,
        headlines=[headline(run) for run in runs],
        metrics=_metrics(runs),
        settings=_differing(runs),
        diagnoses=[findings(run) for run in runs],
        costs=_aligned([cost(run) for run in runs]),
        matrices=_matrices(runs, names) if runs[0].is_classification else [],
        figures=figures,
    )
    write_text(path, page)
    return path


def check_comparable(runs: Sequence[RunFolder]) -> None:
    first = runs[0]
    for run in runs[1:]:
        if run.is_classification != first.is_classification:
            kinds = ["a classification" if r.is_classification else "a regression" for r in (first, run)]
            raise UserError(
                f"{first.directory} is {kinds[0]} and {run.directory} {kinds[1]}: compare runs of the same kind"
            )
        ours, theirs = first.predictions["labels"], run.predictions["labels"]
        sizes = "" if len(ours) == len(theirs) else f" ({len(theirs):,} and {len(ours):,} test points)"
        if sizes or not np.allclose(ours, theirs, rtol=1e-5):
            raise UserError(
                f"{run.directory} and {first.directory} have different test labels{sizes}: "
                "compare runs on the same test set"
            )


def run_names(runs: Sequence[RunFolder]) -> list[str]:
    """The last component of each directory, or as many components as are needed to distinguish the runs."""
    for parts in range(1, 6):
        names = ["/".join(run.directory.absolute().parts[-parts:]) for run in runs]
        if len(set(names)) == len(names):
            return names
    raise UserError(f"{runs[0].directory} is given twice: name each run once")


def _metrics(runs: Sequence[RunFolder]) -> list[tuple[str, list[str]]]:
    """Rows of (label, one cell per run); a star marks the best, because colour alone would not show in print."""
    rows = []
    for key, label, better in METRICS:
        values = [run.metrics.get(key) for run in runs]
        known = [value for value in values if isinstance(value, int | float)]
        if not known:
            continue
        best = None if better == 0 or len(set(known)) == 1 else (max(known) if better > 0 else min(known))
        cells = ["–" if v is None else f"{v:.4g}".replace("-", "−") + (" ★" if v == best else "") for v in values]
        rows.append((label, cells))
    return rows


def _differing(runs: Sequence[RunFolder]) -> list[tuple[str, list[str]]]:
    rows = _aligned([flat_settings(run.config) for run in runs])
    return [(key, cells) for key, cells in rows if not key.startswith(UNTOLD) and len(set(cells)) > 1]


def _aligned(tables: Sequence[Sequence[tuple[str, str]]]) -> list[tuple[str, list[str]]]:
    """Rows of (label, one cell per table) from tables of (label, cell)."""
    by_label = [dict(table) for table in tables]
    labels = dict.fromkeys(label for table in by_label for label in table)
    return [(label, [table.get(label, "–") for table in by_label]) for label in labels]


def _matrices(runs: Sequence[RunFolder], names: Sequence[str]) -> list[tuple[str, list[tuple[str, list[str]]]]]:
    """Agreement and total variation between the averaged predictions of every pair of runs."""
    probs = [run.predictions["probs"] for run in runs]
    return [
        (title, [(name, [f"{measure(p, q):.4f}" for q in probs]) for name, p in zip(names, probs, strict=True)])
        for title, measure in (("Agreement of predicted classes", agreement), ("Total variation", total_variation))
    ]


def _figures(runs: Sequence[RunFolder], names: Sequence[str]) -> dict[str, str]:
    """PNGs in base64 by name."""
    first = runs[0].predictions
    score = next(name for name in ("nll", "log_likelihood") if f"curve_{name}" in first)
    drawn: dict[str, Any] = {}
    with style():
        for name, run in zip(names, runs, strict=True):
            drawn[f"trace of {name}"] = figure = new_figure()
            trace(figure.add_subplot(), run)
        if runs[0].is_classification:
            drawn["reliability"] = figure = new_figure((4.8, 3.8))
            _reliability(figure.add_subplot(), runs, names)
        for axis in ("draws", "passes"):
            drawn[axis] = figure = new_figure((4.8, 3.8))
            _convergence(figure.add_subplot(), runs, names, score, axis)
        return {name: base64.b64encode(png(figure)).decode("ascii") for name, figure in drawn.items()}


def _line(index: int) -> dict[str, Any]:
    colour, marker = LOOKS[index % len(LOOKS)]
    _, dashes = CHAIN_STYLES[index % len(CHAIN_STYLES)]
    return {"color": colour, "ls": dashes, "marker": marker, "ms": 4.5, "mec": "white", "mew": 0.5}


def _reliability(ax: Any, runs: Sequence[RunFolder], names: Sequence[str]) -> None:
    low = 1.0
    for index, (run, name) in enumerate(zip(runs, names, strict=True)):
        _, confidence, hit = equal_mass_bins(run, bins=12).T
        ax.plot(confidence, hit, label=name, **_line(index))
        low = min(low, confidence.min(), hit.min())
    ax.plot([low, 1], [low, 1], color=GREY, lw=1, ls=(0, (4, 2)), zorder=0)
    mark_confidence(ax)
    _legend(ax, names)


def _convergence(ax: Any, runs: Sequence[RunFolder], names: Sequence[str], score: str, axis: str) -> None:
    for index, (run, name) in enumerate(zip(runs, names, strict=True)):
        curve = run.predictions[f"curve_{score}"]
        x = run.predictions["curve_draws"] if axis == "draws" else run.gradients_at_draws() * _share_of_data(run)
        ax.plot(x, curve, label=name, markevery=max(1, len(curve) // 6), **_line(index))
    ax.set_xscale("log")
    label_log_axis(ax.xaxis)
    ax.set(
        xlabel="draws averaged" if axis == "draws" else "passes over the training data, all chains",
        ylabel=SCORES[score][0],
    )
    _legend(ax, names)


def _share_of_data(run: RunFolder) -> float:
    """The fraction of the training data used by one gradient."""
    batch, size = run.config.get("batch_size") or 0, run.metrics.get("train_size") or 0
    return min(1.0, batch / size) if batch and size else 1.0


def _legend(ax: Any, names: Sequence[str]) -> None:
    """Below the axes, away from the curves, in as many columns as fit their width of about 60 letters."""
    columns = 60 // (max(map(len, names)) + 8)
    ax.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=max(1, min(3, len(names), columns)), handlelength=3
    )
