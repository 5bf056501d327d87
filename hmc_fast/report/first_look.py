"""One wide figure per run: its chains, model average, calibration and least certain predictions."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..results.run_folder_reader import RunFolder
from . import checked_images, read_run

__all__ = ["first_look_figure"]


def first_look_figure(directory: Path, images: np.ndarray | None, class_names: Sequence[str]) -> Path:
    """Writes `figures/first_look.png`, 12 x 3.5 inches, and returns its path; arguments as in `write_report`.

    Classification without images shows the two kinds of uncertainty instead; regression shows predictions and
    calibration.
    """
    from . import html
    from . import prediction_panels as figures
    from .chain_panels import trace
    from .drawing import new_figure, save, style

    run, images = read_run(directory), checked_images(directory, images)
    names = html.checked_names(run, images, class_names)
    panels: list[tuple[str, Callable[[Any, RunFolder], None]]] = [("Log posterior of the chains", trace)]
    if run.is_classification:
        panels.append(("Averaging draws", partial(figures.score_curve, name="accuracy")))
        panels.append(("Reliability", figures.reliability))
        last = ("Kinds of uncertainty", figures.uncertainty)
    else:
        panels.append(("Averaging draws", partial(figures.score_curve, name="rmse")))
        panels.append(("Calibration", figures.residuals))
        last = ("Predicted against true", figures.predicted_against_true)
    with_images = run.is_classification and images is not None
    with style():
        figure = new_figure((12, 3.5))
        figure.get_layout_engine().set(w_pad=0.06, h_pad=0.03, wspace=0.02)
        grid = figure.add_gridspec(1, 4, width_ratios=[1.12, 1.05, 0.95, 1.2 if with_images else 1.05])
        for column, (title, panel) in enumerate(panels if with_images else [*panels, last]):
            ax = figure.add_subplot(grid[column])
            panel(ax, run)
            _letter(ax, column, title)
        if with_images and images is not None:
            _least_certain(figure, grid[3], run, images, names)
        return save(figure, Path(directory) / "figures" / "first_look.png")


def _letter(ax: Any, column: int, title: str) -> None:
    """The panel's letter and title, left-aligned above the axes and above any legend."""
    ax.set_title(f"{'abcd'[column]}   {title}", loc="left", fontsize=10.5, weight="bold", pad=20)


def _least_certain(figure: Any, place: Any, run: RunFolder, images: np.ndarray, names: Sequence[str]) -> None:
    """The four images with the highest predictive entropy, each with its three most probable classes; if the true
    class is not among them, it replaces the third, after an ellipsis."""
    from .drawing import BLUE, GREY, image_look
    from .prediction_panels import most_uncertain

    host = figure.add_subplot(place)
    host.set_axis_off()
    _letter(host, 3, "Least certain (truth in blue)")
    chosen = most_uncertain(run, 4)
    longest = float(run.predictions["probs"][chosen].max())  # one scale for all bars
    for row, index in enumerate(chosen):
        picture = host.inset_axes((0, 0.78 - 0.26 * row, 0.26, 0.22))
        bars = host.inset_axes((0.3, 0.78 - 0.26 * row, 0.7, 0.22))
        picture.imshow(images[index], **image_look(images))
        picture.set_axis_off()
        probs, label = run.predictions["probs"][index], int(run.predictions["labels"][index])
        top = np.argsort(-probs, kind="stable")[:3]
        skips = label not in top
        if skips:
            top[-1] = label
        bars.barh(range(len(top)), probs[top], 0.72, color=[BLUE if k == label else "#c3d3df" for k in top])
        for height, k in enumerate(top):
            look: dict[str, Any] = {"color": BLUE, "weight": "bold"} if k == label else {"color": GREY}
            look |= {"va": "center", "fontsize": 9, "textcoords": "offset points", "annotation_clip": False}
            gap = "… " if skips and k == label else ""
            bars.annotate(f"{gap}{names[k]}  {probs[k]:.2f}", (probs[k], height), (4, 0), **look)
        bars.set(xlim=(0, 2.4 * longest), ylim=(2.6, -0.6))
        bars.set_axis_off()
