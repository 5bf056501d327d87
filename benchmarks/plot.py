"""Figures of a results folder, from its `results.csv` alone.

    python benchmarks/plot.py benchmarks/results/cpu

Where a row was measured several times, the latest counts.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hmc_fast.report.drawing import (
    BLUE,
    CHAIN_STYLES,
    GREY,
    INK,
    RED,
    label_log_axis,
    new_figure,
    note,
    save,
    style,
)

KEYS = ["suite", "name", "provider", "size", "metric"]
# What each axis of the suite `scaling` counts, and what its times are of.
SCALING = {
    "against N": ("training examples N", "ms per leapfrog step"),
    "against D": ("parameters D", "ms per leapfrog step"),
    "against C": ("chains C", "ms per leapfrog step, all chains"),
    "against S": ("draws S", "ms per run"),
}


def read(folder: Path) -> pd.DataFrame:
    table = pd.read_csv(folder / "results.csv")
    return table.drop_duplicates(KEYS, keep="last")


def steps(table: pd.DataFrame) -> Any:
    """Time per leapfrog step relative to ours, by the README table's estimator: the median over rounds of the
    ratio within a round, and its 20 and 80 % quantiles. Ours, at 1, is our fastest float32 variant."""
    rows = table[table["suite"] == "steps"]
    ratios, times = rows[rows["metric"] == "time over ours"], rows[rows["metric"] == "time"]
    names = list(dict.fromkeys(ratios["name"]))
    figure = new_figure((9.0, 0.32 * (len(ratios) + len(names)) + 0.9))
    ax = figure.add_subplot()
    ticks: dict[int, str] = {}
    row = 0  # of a workload's name; its providers lie below
    for name in names:
        at = times[times["name"] == name].set_index("provider")["median"]
        ours = at[[p for p in at.index if p.startswith("ours") and "16" not in p and "32" not in p]]
        others = ratios[(ratios["name"] == name) & (ratios["provider"] != ours.idxmin())].sort_values("median")
        label = f"{name}: ours {_duration(ours.min())}"
        note(ax, label, (0, row), (4, 0), ("axes fraction", "data"), va="center", color=INK)
        span = [row + 0.4, row + len(others) + 0.4]
        ax.plot([1, 1], span, color=BLUE, lw=1.6)
        if "floor" in at:  # not of a bare density
            ax.plot(2 * [at["floor"] / ours.min()], span, color=RED, lw=1.6, ls=(0, (1, 0.8)))
        for provider, value, low, high in others[["provider", "median", "q20", "q80"]].itertuples(index=False):
            row += 1
            look = {"fmt": "o", "ms": 5, "color": BLUE if provider.startswith("ours") else INK, "capsize": 2.5}
            ax.errorbar(value, row, xerr=[[value - low], [high - value]], **look)
            note(ax, f"{value:.3g}" if value < 1000 else f"{value:,.0f}", (high, row), (7, 0), "data", va="center")
            ticks[row] = provider
        row += 1
    ax.set_yticks(list(ticks), list(ticks.values()))
    ax.set(ylim=(row - 0.4, -0.6), xscale="log")
    ax.set_xlim(0.8 * ax.dataLim.x0, 1.25 * ax.dataLim.x1)
    label_log_axis(ax.xaxis, [m * 10**k for k in range(-1, 4) for m in (1, 3)])
    ax.set_xlabel(
        "time per leapfrog step relative to ours: median of the ratios within each round, bars 20 to 80 %\n"
        "solid line: ours (fastest float32 variant); dotted: lower bound, FLOPs at measured matmul throughput"
    )
    return figure


def _duration(ms: float) -> str:
    return f"{ms:.3g} ms" if ms >= 0.1 else f"{1e3 * ms:.3g} us"


def lines(table: pd.DataFrame, suite: str, axes_of: Callable[[str], tuple[str, str]]) -> Any:
    """Median time against size, log-log, one panel per name; bars from the 20 to the 80 % quantile."""
    rows = table[(table["suite"] == suite) & (table["metric"] == "time")]
    names = list(dict.fromkeys(rows["name"]))
    figure = new_figure((3.6 * len(names), 3.0))
    for ax, name in zip(figure.subplots(1, len(names), squeeze=False).flat, names, strict=True):
        part = rows[rows["name"] == name]
        for (colour, dashes), marker, (provider, values) in zip(
            CHAIN_STYLES, "os^D", part.groupby("provider"), strict=False
        ):
            values = values.sort_values("size")
            bars = [values["median"] - values["q20"], values["q80"] - values["median"]]
            look = {"color": colour, "ls": dashes, "marker": marker, "ms": 4.5, "capsize": 2.5, "elinewidth": 1}
            ax.errorbar(values["size"], values["median"], np.maximum(bars, 0), label=provider, **look)
        xlabel, ylabel = axes_of(name)
        ax.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel)
        ax.set_title(name, fontsize=9.5, color=GREY)
        ax.set_ylim(0.8 * part["q20"].min(), 1.25 * part["q80"].max())
        label_log_axis(ax.xaxis, sorted(part["size"].unique()))
        label_log_axis(ax.yaxis)
        if (part["samples"] == 1).all():
            note(ax, "one run per point:\nno quantiles", (0.03, 0.97), (0, 0), va="top")
        if part["provider"].nunique() > 1:
            ax.legend(loc="upper left")
    return figure


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "results" / "cpu")
    table = read(folder)
    made: dict[str, Callable[[], Any]] = {
        "steps": lambda: steps(table),
        "chains": lambda: lines(table, "chains", lambda _: ("chains", "ms per leapfrog step, all chains")),
        "scaling": lambda: lines(table, "scaling", SCALING.__getitem__),
    }
    with style():
        for suite, make in made.items():
            if (table["suite"] == suite).any():
                print(save(make(), folder / f"{suite}.png"))


if __name__ == "__main__":
    main()
