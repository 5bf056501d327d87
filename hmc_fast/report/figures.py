"""Chooses and writes the figures of a run; the panels are in `chain_panels.py` and `prediction_panels.py`."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..results.run_folder_reader import RunFolder
from . import chain_panels
from . import prediction_panels as predictions
from .drawing import new_figure, save, style

__all__ = ["write_figures"]


def write_figures(run: RunFolder, images: np.ndarray | None, class_names: Sequence[str]) -> dict[str, Path]:
    """Writes every figure that this run has data for; returns file paths by figure name."""
    panels: dict[str, Callable[[Any, RunFolder], None]] = {"trace": chain_panels.trace}
    if run.has_mh_test:
        panels["acceptance"] = chain_panels.acceptance
    if np.isfinite(run.sampled("energy_error")).any():
        panels["energy_error"] = chain_panels.energy_error
    if run.is_classification:
        panels |= {"reliability": predictions.reliability, "uncertainty": predictions.uncertainty}
    else:
        panels |= {"predictions": predictions.predicted_against_true, "residuals": predictions.residuals}
    if run.num_chains > 1 and len(run.sampled("iteration")) >= 10 * run.num_chains:
        panels["ranks"] = chain_panels.ranks
    if run.has_energies:
        panels["energy"] = chain_panels.energy
    known = [name for name in predictions.SCORES if f"curve_{name}" in run.predictions]
    panels |= {name: partial(predictions.score_curve, name=name) for name in known}
    if len(run.sampled("iteration")):
        panels |= {f"{name}_gradients": partial(predictions.score_per_gradient, name=name) for name in known[1:]}
    paths = {}
    with style():
        for name, panel in panels.items():
            figure = new_figure()
            panel(figure.add_subplot(), run)
            paths[name] = save(figure, run.directory / "figures" / f"{name}.png")
        if run.is_classification and images is not None:
            chosen = {"uncertain_images": predictions.most_uncertain, "wrong_images": predictions.most_wrong}
            for name, choose in chosen.items():
                figure = predictions.images_with_predictions(run, images, class_names, choose(run, 12))
                paths[name] = save(figure, run.directory / "figures" / f"{name}.png")
    return paths
