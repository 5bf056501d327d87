"""Figures of a results folder, from its `results.csv` alone.

    python benchmarks/plot.py benchmarks/results/cpu

Where a row was measured several times, the latest counts.
"""

import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter

OURS, THEIRS, FLOOR = "#0b6e4f", "#9aa5b1", "#d1495b"
KEYS = ["suite", "name", "provider", "size", "metric"]


def read(folder: Path) -> pd.DataFrame:
    table = pd.read_csv(folder / "results.csv")
    return table.drop_duplicates(KEYS, keep="last")


def plain(axis: Axis, ticks: list[float] | None = None) -> None:
    """1,000 rather than 10^3, at the given ticks or a few per decade."""
    axis.set_major_locator(FixedLocator(ticks) if ticks else LogLocator(subs=(1.0, 2.0, 5.0), numticks=6))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axis.set_minor_formatter(NullFormatter())


def steps(table: pd.DataFrame) -> Figure:
    """Time per leapfrog step, one panel per workload, floor marked."""
    rows = table[(table["suite"] == "steps") & (table["metric"] == "time")]
    names = list(dict.fromkeys(rows["name"]))
    columns = 2
    lines = -(-len(names) // columns)
    figure = Figure(figsize=(10, 2.4 * lines), layout="constrained")
    for axes, name in zip(figure.subplots(lines, columns, squeeze=False).flat, names, strict=False):
        part = rows[rows["name"] == name]
        floor = part[part["provider"] == "floor"]["median"].iloc[0]
        part = part[part["provider"] != "floor"].sort_values("median", ascending=False)
        colours = [OURS if p.startswith("ours") else THEIRS for p in part["provider"]]
        errors = [part["median"] - part["q20"], part["q80"] - part["median"]]
        axes.barh(part["provider"], part["median"], color=colours, xerr=np.abs(errors), ecolor="#333", height=0.7)
        axes.axvline(floor, color=FLOOR, linewidth=1)
        for y, (value, end) in enumerate(zip(part["median"], part["q80"], strict=True)):
            axes.text(
                max(value, end) * 1.08,
                y,
                f"{value:.0f}" if value >= 100 else f"{value:.3g}",
                va="center",
                fontsize=8,
            )
        axes.set(xscale="log", title=name, xlabel="ms per leapfrog step")
        axes.set_xlim(floor * 0.7, part["q80"].max() * 3)
        plain(axes.xaxis)
        axes.title.set_fontsize(9)
        axes.xaxis.label.set_fontsize(8)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in figure.axes[len(names) :]:
        axes.remove()
    return figure


def lines(table: pd.DataFrame, suite: str, xlabel: str) -> Figure:
    """Time against size, log-log, one panel per name."""
    rows = table[(table["suite"] == suite) & (table["metric"] == "time")]
    names = list(dict.fromkeys(rows["name"]))
    figure = Figure(figsize=(4.2 * len(names), 3.2), layout="constrained")
    styles = ["o-", "s--", "^:", "d-."]
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False).flat, names, strict=True):
        part = rows[rows["name"] == name]
        for style, (provider, values) in zip(styles, part.groupby("provider"), strict=False):
            values = values.sort_values("size")
            axes.plot(values["size"], values["median"], style, label=provider, markersize=4)
            axes.fill_between(values["size"], values["q20"], values["q80"], alpha=0.2)
        axes.set(xscale="log", yscale="log", title=name, xlabel=xlabel, ylabel="ms")
        plain(axes.xaxis, sorted(part["size"].unique()))
        plain(axes.yaxis)
        axes.title.set_fontsize(9)
        axes.spines[["top", "right"]].set_visible(False)
        if part["provider"].nunique() > 1:
            axes.legend(frameon=False, fontsize=8)
    return figure


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "results" / "cpu")
    table = read(folder)
    made = {
        "steps": lambda: steps(table),
        "chains": lambda: lines(table, "chains", "chains"),
        "scaling": lambda: lines(table, "scaling", "size"),
    }
    with mpl.rc_context({"font.family": "DejaVu Sans", "axes.grid": False}):
        for suite, make in made.items():
            if (table["suite"] == suite).any():
                make().savefig(folder / f"{suite}.png", dpi=150)
                print(folder / f"{suite}.png")


if __name__ == "__main__":
    main()
