"""The results of an experiment: claims, each marked supported or not, figures and tables."""

import base64
import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..atomic_files import make_folder, write_json, write_text
from ..report.drawing import SIZE, label_log_axis, new_figure, save, style
from ..report.html import render
from ..results.predictions import expected_calibration_error

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Claim", "Page", "chain_error", "scores"]


class Claim(NamedTuple):
    """A sentence, whether the numbers support it (None: a measurement, not a claim), and the numbers."""

    text: str
    supported: bool | None
    numbers: str

    @property
    def verdict(self) -> str:
        return {True: "Supported", False: "Not supported", None: "Measured"}[self.supported]


def scores(probs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy, NLL, ECE and Brier score of class probabilities `(T, K)`."""
    chosen = np.maximum(probs[np.arange(len(labels)), labels], np.finfo(np.float64).tiny)
    hot = np.eye(probs.shape[1])[labels]
    return {
        "accuracy": float((probs.argmax(1) == labels).mean()),
        "nll": float(-np.log(chosen).mean()),
        "ece": expected_calibration_error(probs, labels),
        "brier": float(((probs - hot) ** 2).sum(1).mean()),
    }


def chain_error(probs: np.ndarray, labels: np.ndarray, score: str) -> float:
    """Standard error of the score of the average over `probs (S, C, T, K)`, by a jackknife that leaves out one
    chain at a time (Efron and Stein 1981); NaN for a single chain."""
    means = probs.mean(0, dtype=np.float64)
    count = len(means)
    if count < 2:
        return math.nan
    without = [scores((means.sum(0) - mean) / (count - 1), labels)[score] for mean in means]
    return float(np.sqrt((count - 1) * np.var(without)))


@dataclasses.dataclass
class Page:
    """Collects the results of an experiment; `write` writes `index.html`, `results.md`, `*.csv` and `*.png`."""

    question: str
    directory: Path
    command: str
    note: str = ""  # data, network, seeds and machine
    claims: list[Claim] = dataclasses.field(default_factory=list)
    figures: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)  # file, title, caption
    tables: "list[tuple[str, str, pd.DataFrame]]" = dataclasses.field(default_factory=list)  # file, title, table
    interactive: list[tuple[str, str]] = dataclasses.field(default_factory=list)  # title, HTML

    def claim(self, text: str, supported: bool | None, numbers: str) -> None:
        self.claims.append(Claim(text, supported, numbers))

    def table(self, name: str, title: str, table: "pd.DataFrame") -> None:
        self.tables.append((name, title, table))

    @contextmanager
    def figure(self, name: str, title: str, caption: str, size: tuple[float, float] = SIZE) -> Iterator[Any]:
        """A matplotlib figure to draw on, in the report's style; saved as `name.png`."""
        with style():
            figure = new_figure(size)
            yield figure
            _label_log_axes(figure)
            save(figure, self.directory / f"{name}.png")
        self.figures.append((name, title, caption))

    def write(self, settings: dict[str, Any]) -> Path:
        make_folder(self.directory)
        for name, _, table in self.tables:
            write_text(self.directory / f"{name}.csv", table.to_csv(index=False))
        write_json(self.directory / "settings.json", settings)
        write_text(self.directory / "results.md", self._markdown())
        page = render(
            files(__package__).joinpath("page.html.jinja").read_text(encoding="utf-8"),
            question=self.question,
            command=self.command,
            note=self.note,
            claims=self.claims,
            figures=[
                (title, caption, base64.b64encode((self.directory / f"{name}.png").read_bytes()).decode("ascii"))
                for name, title, caption in self.figures
            ],
            tables=[(title, list(table.columns), _cells(table)) for _, title, table in self.tables],
            interactive=self.interactive,
            settings=[(key, str(value)) for key, value in settings.items()],
        )
        path = self.directory / "index.html"
        write_text(path, page)
        return path

    def _markdown(self) -> str:
        """The page as Markdown: claims, tables and links to the figures."""
        lines = [f"# {self.question}", "", f"`{self.command}`", ""]
        lines += [self.note, ""] if self.note else []
        lines += [f"- **{claim.verdict}**: {claim.text} {claim.numbers}" for claim in self.claims] + [""]
        for _, title, table in self.tables:
            lines += [f"**{title}**", "", "| " + " | ".join(map(str, table.columns)) + " |"]
            lines += ["|" + "---|" * len(table.columns)]
            lines += ["| " + " | ".join(row) + " |" for row in _cells(table)] + [""]
        for name, title, caption in self.figures:
            lines += [f"![{title}]({name}.png)", "", f"*{title}. {caption}*", ""]
        return "\n".join(lines).rstrip() + "\n"


def _label_log_axes(figure: Any) -> None:
    """Relabels log axes that still have matplotlib's default labels."""
    from matplotlib.ticker import LogFormatter

    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            if axis.get_scale() == "log" and isinstance(axis.get_major_formatter(), LogFormatter):
                label_log_axis(axis)


def _cells(table: "pd.DataFrame") -> list[list[str]]:
    return [[_cell(value) for value in row] for row in table.itertuples(index=False)]


def _cell(value: Any) -> str:
    if isinstance(value, float | np.floating):
        number = float(value)
        if math.isnan(number):
            return ""
        return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.4g}"
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    return str(value)
