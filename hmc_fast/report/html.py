"""The self-contained HTML file of a report, and `render`, which all pages of this package share."""

import base64
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic_files import write_text
from ..errors import UserError
from ..results.run_folder_reader import RunFolder
from .figures import write_figures
from .findings import findings
from .summary import cost, coverage, flat_settings, headline, subline, tiles

__all__ = ["checked_names", "render", "write_html"]


def write_html(
    run: RunFolder, images: np.ndarray | None, class_names: Sequence[str], images_missing: str = ""
) -> Path:
    names = checked_names(run, images, class_names)
    figures = {
        name: base64.b64encode(path.read_bytes()).decode("ascii")
        for name, path in write_figures(run, images, names).items()
    }
    page = render(
        _shared("report.html.jinja"),
        preset=str(run.metrics.get("preset", "run")),
        headline=headline(run),
        subline=subline(run),
        tiles=tiles(run),
        figures=figures,
        coverage=None if run.is_classification else coverage(run),
        findings=findings(run),
        cost=cost(run),
        settings=flat_settings(run.config),
        images_missing=images_missing,
    )
    path = run.directory / "report.html"
    write_text(path, page)
    return path


def render(template: str, **values: Any) -> str:
    """An HTML page from a jinja template, which may import `parts.html.jinja`; `css` is the style of all pages."""
    import jinja2
    from markupsafe import Markup  # jinja2's own

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, loader=jinja2.FunctionLoader(_shared)
    )
    return environment.from_string(template).render(css=Markup(_shared("page.css")), **values)


def _shared(name: str) -> str:
    """The contents of a file in this folder."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def checked_names(run: RunFolder, images: np.ndarray | None, class_names: Sequence[str]) -> list[str]:
    """K class names short enough for a figure, or numbers if none are given; checks that they fit the run."""
    points = len(run.predictions["labels"])
    where = run.directory / "predictions.npz"
    if images is not None and len(images) != points:
        raise UserError(f"{len(images)} images do not fit the {points} test points of {where}: pass one per point")
    if not run.is_classification:
        return []
    classes = run.predictions["probs"].shape[1]
    if class_names and len(class_names) != classes:
        raise UserError(
            f"{len(class_names)} class names do not fit the {classes} classes of {where}: name each class"
        )
    short = (" ".join(str(name).split()) for name in class_names)
    return [name if len(name) <= 14 else f"{name[:13]}…" for name in short] or [
        str(label) for label in range(classes)
    ]
