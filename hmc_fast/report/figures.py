"""The figures of a report: one panel is one function that draws a run on the axes it is given.

Chains and groups differ by line style or marker as well as by colour, so every figure survives a
greyscale print; the colours are Okabe and Ito's, which colour-blind readers can tell apart.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from . import Run

__all__ = ["image_look", "most_uncertain", "new_figure", "plain", "save", "style", "write_figures"]

BLUE, RED, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
INK, GREY, PALE = "#1f2933", "#616e7c", "#eef1f4"
CHAIN_STYLES = [(BLUE, "-"), (RED, (0, (4, 1.2))), (GREEN, (0, (1, 0.8))), (ORANGE, (0, (5, 1, 1, 1)))]
SIZE = (4.8, 3.2)  # inches: a 9 pt label is 9 to 10 px on a phone and 13 px on a desk
DPI = 150
SCORES = {  # axis label, whether higher is better
    "accuracy": ("test accuracy", True),
    "nll": ("test NLL (nats per example)", False),
    "rmse": ("test RMSE (units of the target)", False),
    "log_likelihood": ("test log likelihood (nats per example)", True),
}
FONTS = ("Helvetica Neue", "Helvetica", "Arial", "Liberation Sans", "DejaVu Sans")


@contextmanager
def style() -> Iterator[None]:
    """Draw and save inside this; the caller's own matplotlib settings come back after it."""
    import matplotlib
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}  # matplotlib logs a line per absent font
    settings: Any = {
        "font.family": [font for font in FONTS if font in installed],
        "font.size": 9.5, "axes.labelsize": 9.5, "xtick.labelsize": 9, "ytick.labelsize": 9,
        "legend.fontsize": 9, "legend.frameon": False, "legend.handlelength": 2.2,
        "text.color": INK, "axes.labelcolor": INK, "xtick.labelcolor": GREY, "ytick.labelcolor": GREY,
        "axes.edgecolor": "#9aa5b1", "xtick.color": "#9aa5b1", "ytick.color": "#9aa5b1",
        "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8,
        "lines.linewidth": 1.3, "figure.facecolor": "white", "savefig.facecolor": "white",
        "text.parse_math": False,  # a class may be called "$"
    }  # fmt: skip
    with warnings.catch_warnings(), matplotlib.rc_context():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a class name in a script no font here has
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(settings)
        yield


def new_figure(size: tuple[float, float] = SIZE) -> Any:
    """An empty figure, `size` in inches, that belongs to no window system."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
    return path


def write_figures(run: Run, images: np.ndarray | None, class_names: Sequence[str]) -> dict[str, Path]:
    """Write every figure this run has data for; file paths by figure name."""
    panels: dict[str, Callable[[Any, Run], None]] = {"trace": trace}
    if run.has_mh_test:
        panels["acceptance"] = acceptance
    if np.isfinite(run.sampled("energy_error")).any():
        panels["energy_error"] = energy_error
    if run.is_classification:
        panels |= {"reliability": reliability, "uncertainty": uncertainty}
    else:
        panels |= {"predictions": predicted_against_true, "residuals": residuals}
    panels |= {name: partial(score_curve, name=name) for name in SCORES if f"curve_{name}" in run.predictions}
    paths = {}
    with style():
        for name, panel in panels.items():
            figure = new_figure()
            panel(figure.add_subplot(), run)
            paths[name] = save(figure, run.directory / "figures" / f"{name}.png")
        if run.is_classification and images is not None:
            figure = uncertain_images(run, images, class_names)
            paths["uncertain_images"] = save(figure, run.directory / "figures" / "uncertain_images.png")
    return paths


def plain(value: float, _: object = None) -> str:
    """A tick label with thousands separators and a real minus sign."""
    return f"{value:,.10g}".replace("-", "−")


def _note(ax: Any, text: str, at: Any, offset: Any, coords: Any = "axes fraction", **look: Any) -> None:
    """A grey remark at a place, moved by `offset` points."""
    ax.annotate(text, at, offset, xycoords=coords, textcoords="offset points", **{"color": GREY, **look})


def _shade_burn_in(ax: Any, run: Run) -> None:
    first, last = run.trace["iteration"].min(), run.trace["iteration"].max()
    ax.set(xlim=(first, max(last, first + 1)), xlabel="iteration")
    if run.burn_in_end > first:
        ax.axvspan(first, run.burn_in_end, color=PALE, zorder=0, lw=0)
        if run.burn_in_end - first > 0.12 * (last - first):
            look = {"ha": "right", "bbox": {"fc": PALE, "lw": 0, "pad": 1}}
            _note(ax, "burn-in", (run.burn_in_end, 0), (-4, 5), ("data", "axes fraction"), **look)


def _chain_lines(ax: Any, values: Any) -> None:
    """One line per chain of a frame (iterations, C); beyond four chains a family of thin lines."""
    count = len(values.columns)
    for index, chain in enumerate(values.columns):
        if count <= len(CHAIN_STYLES):
            colour, dashes = CHAIN_STYLES[index]
            label = f"{chain}" if index else f"chain {chain}"
            ax.plot(values.index, values[chain], color=colour, ls=dashes, lw=1.1, label=label)
        else:
            ax.plot(values.index, values[chain], color=BLUE, lw=0.7, alpha=max(0.15, 2 / count))
    if count > len(CHAIN_STYLES):
        ax.set_title(f"{count} chains, one line each", fontsize=9, color=GREY, loc="right")
    elif count > 1:
        look = {"borderpad": 0, "columnspacing": 1.2, "labelcolor": GREY}
        ax.legend(loc="lower right", bbox_to_anchor=(1.01, 0.99), ncols=4, **look)


def trace(ax: Any, run: Run) -> None:
    values = run.per_chain(run.trace["log_likelihood"] + run.trace["log_prior"])
    values = values.where(np.isfinite(values))
    _shade_burn_in(ax, run)
    _chain_lines(ax, values)
    kept = values[values.index >= run.burn_in_end].to_numpy()
    if np.isfinite(kept).any():
        low, high = np.nanmin(kept), np.nanmax(kept)
        room = max(high - low, 1e-9 * abs(high), 1e-12)
        lowest, highest = np.nanmin(values), np.nanmax(values)
        # The climb from the first point would flatten everything after it, so it may leave the axes.
        floor, roof = max(lowest, low - 1.5 * room), min(highest, high + 1.5 * room)
        ax.set_ylim(floor - 0.12 * room, roof + 0.12 * room)
        off = " and ".join(plain(round(value)) for value in (lowest, highest) if not floor <= value <= roof)
        if off:
            _note(ax, f"burn-in reaches {off}", (1, 0), (-4, 5), ha="right")
    ax.yaxis.set_major_formatter(plain)
    ax.set_ylabel("log posterior + constant (nats)")


def acceptance(ax: Any, run: Run) -> None:
    # A diverged trajectory may leave its probability empty; it was rejected.
    values = run.per_chain(run.trace["accept_prob"].fillna(0.0))
    window = max(5, len(values) // 10)
    _shade_burn_in(ax, run)
    ax.axhspan(0.6, 0.9, color="#dbe9f4", lw=0, zorder=0.5)
    _note(ax, "usual aim, .6 to .9", (1, 0.6), (-4, -4), ("axes fraction", "data"), ha="right", va="top")
    _chain_lines(ax, values.rolling(window, min_periods=1).mean())
    ax.set(ylim=(0, 1.02), ylabel=f"acceptance, mean of {window} iterations")


def energy_error(ax: Any, run: Run) -> None:
    values = run.sampled("energy_error")
    values = values[~np.isnan(values)]
    reach = 1.15 * max(np.abs(np.quantile(values[np.isfinite(values)], [0.01, 0.99])).max(), 1e-6)
    inside = values[np.abs(values) <= reach]
    ax.hist(inside, bins=np.linspace(-reach, reach, 42).tolist(), color=BLUE, alpha=0.85)
    ax.axvline(0, color=INK, lw=1)
    ax.set_ylim(0, 1.15 * ax.get_ylim()[1])
    _note(ax, "energy conserved", (0, 1), (5, -2), ("data", "axes fraction"), va="top")
    if len(inside) < len(values):
        ax.set_title(f"{len(values) - len(inside):,} beyond the axis", fontsize=9, color=GREY, loc="right")
    ax.set(xlabel="energy error ΔH of a trajectory (nats)", ylabel="trajectories")


def score_curve(ax: Any, run: Run, name: str) -> None:
    """A score of the average of the first draws, and of each draw alone, against their number."""
    label, better_is_up = SCORES[name]
    draws, curve = run.predictions["curve_draws"], run.predictions[f"curve_{name}"]
    single = run.predictions.get(f"single_{name}")
    shown, sign, near = curve, (1 if better_is_up else -1), "bottom" if better_is_up else "top"
    if single is not None:
        at = np.broadcast_to(draws[:, None], single.shape)
        ax.plot(at.ravel(), single.ravel(), "o", ms=3, mfc="none", mec=GREY, mew=0.7, alpha=0.6)
        _note(ax, "○ one draw alone", (1, 0 if better_is_up else 1), (-2, 4 * sign), va=near, ha="right")
        finite = single[np.isfinite(single)]
        if finite.size:
            shown = np.concatenate([curve, np.quantile(finite, [0.02, 0.98])])  # a stray draw may leave
    ax.plot(draws, curve, color=BLUE, lw=2, marker="o" if len(draws) < 3 else "")
    shown = shown[np.isfinite(shown)]
    if shown.size:
        room = max(float(np.ptp(shown)), 1e-3 * abs(float(shown[0])), 1e-9)
        below, above = (0.26, 0.18) if better_is_up else (0.18, 0.26)  # room for the two remarks
        ax.set_ylim(shown.min() - below * room, shown.max() + above * room)
    look = {"ha": "right", "va": near, "color": BLUE, "weight": "bold"}
    _note(ax, "average of the draws so far", (draws[-1], curve[-1]), (0, 6 * sign), "data", **look)
    if draws[0] > 0 and draws[-1] >= 16 * draws[0]:
        ax.set_xscale("log")
        ticks = [t for p in range(9) for t in (10**p, 2 * 10**p, 5 * 10**p)]
        ax.set_xticks([t for t in ticks if draws[0] <= t <= draws[-1]])
        ax.tick_params(axis="x", which="minor", length=0, labelbottom=False)
    if name == "accuracy":
        ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %")
    ax.xaxis.set_major_formatter(plain)
    ax.set(xlabel="draws averaged", ylabel=label)


def equal_mass_bins(run: Run, bins: int = 20) -> np.ndarray:
    """Share of the test points, mean top probability and accuracy of each bin, (bins, 3).

    Bins of equal counts, so that none rests on a handful of points; fewer bins than points.
    """
    probs, labels = run.predictions["probs"], run.predictions["labels"]
    order = np.argsort(probs.max(1), kind="stable")
    parts = np.array_split(order, min(bins, len(order)))
    hit = probs.argmax(1) == labels
    return np.array([(len(p) / len(order), probs[p].max(1).mean(), hit[p].mean()) for p in parts])


def reliability(ax: Any, run: Run) -> None:
    share, confidence, hit = equal_mass_bins(run).T
    error = np.sqrt(hit * (1 - hit) / (share * len(run.predictions["labels"])))
    low = max(0.0, np.floor(10 * min(confidence.min(), (hit - error).min())) / 10)
    ax.plot([low, 1], [low, 1], color=GREY, lw=1, ls=(0, (4, 2)))
    ax.errorbar(confidence, hit, error, fmt="o", ms=4.5, color=BLUE, elinewidth=1, mec="white", mew=0.6)
    _note(ax, "too modest", (0.03, 0.97), (0, 0), va="top", style="italic")
    _note(ax, "too sure", (0.97, 0.05), (0, 0), ha="right", style="italic")
    gap = float(share @ np.abs(confidence - hit))
    _note(ax, f"ECE {gap:.3f}", (0.97, 0.13), (0, 0), ha="right", color=BLUE, weight="bold")
    margin = 0.03 * (1 - low)
    ax.set(xlim=(low - margin, 1 + margin), ylim=(low - margin, 1 + margin))
    ax.set(xlabel="top probability", ylabel="share correct")


def uncertainty(ax: Any, run: Run, most: int = 3000) -> None:
    x, y = run.predictions["aleatoric"], run.predictions["epistemic"]
    hit = run.predictions["probs"].argmax(1) == run.predictions["labels"]
    correct, wrong = {"mec": BLUE, "mfc": "none", "alpha": 0.5}, {"mec": RED, "zorder": 3}
    for chosen, name, marker, look in ((hit, "correct", "o", correct), (~hit, "wrong", "x", wrong)):
        index = np.flatnonzero(chosen)[:: max(1, -(-int(chosen.sum()) // most))]
        ax.plot(x[index], y[index], marker, ms=4, mew=0.9, label=f"{name} ({chosen.sum():,})", **look)
    ax.legend(loc="upper left", bbox_to_anchor=(0, 1.02), handletextpad=0.2, handlelength=1.5)
    ax.set(xlabel="aleatoric (nats): the data is ambiguous", ylabel="epistemic (nats): the draws disagree")


def most_uncertain(run: Run, count: int) -> np.ndarray:
    """Indices of the test points whose averaged prediction has the highest entropy, highest first."""
    probs = run.predictions["probs"].astype(np.float64)
    entropy = -(probs * np.log(np.clip(probs, 1e-30, None))).sum(1)
    return np.argsort(-entropy, kind="stable")[:count]


def image_look(images: np.ndarray) -> dict[str, str]:
    """Ink on paper; a digit of 8 x 8 squares is hard to read unless it is smoothed."""
    return {"cmap": "gray_r", "interpolation": "bicubic" if images.shape[-1] < 16 else "nearest"}


def uncertain_images(run: Run, images: np.ndarray, class_names: Sequence[str]) -> Any:
    chosen = most_uncertain(run, 12)
    rows = -(-len(chosen) // 4)
    figure = new_figure((4.8, 0.1 + 1.62 * rows))
    p = run.predictions
    for position, index in enumerate(chosen):
        ax = figure.add_subplot(rows, 4, position + 1)
        ax.imshow(images[index], **image_look(images))
        ax.set_axis_off()
        label, guess = int(p["labels"][index]), int(p["probs"][index].argmax())
        said = f"{'✓' if label == guess else '×'} {class_names[guess]} ({p['probs'][index, guess]:.2f})"
        ax.set_title(class_names[label], fontsize=9, pad=3, loc="left", weight="bold")
        note = f"{said}\nE {p['epistemic'][index]:.2f}  A {p['aleatoric'][index]:.2f}"
        colour = INK if label == guess else RED
        _note(ax, note, (0, 0), (0, -3), va="top", fontsize=9, color=colour, annotation_clip=False)
    return figure


def predicted_against_true(ax: Any, run: Run, most: int = 300) -> None:
    labels, mean = run.predictions["labels"], run.predictions["mean"]
    deviation = np.sqrt(np.maximum(run.predictions["variance"], 0))
    ends = [min(labels.min(), mean.min()), max(labels.max(), mean.max())]
    pick = np.arange(0, len(labels), -(-len(labels) // most))
    bars = {"fmt": "o", "ms": 3.5, "mec": "white", "mew": 0.4, "elinewidth": 0.7, "ecolor": "#9cc3de"}
    ax.errorbar(labels[pick], mean[pick], deviation[pick], color=BLUE, **bars)
    ax.plot(ends, ends, color=INK, lw=1, ls=(0, (4, 2)), zorder=4)
    _note(ax, "bars: one predictive sd", (0.97, 0.05), (0, 0), ha="right")
    ax.set(xlabel="true", ylabel="predicted")


def residuals(ax: Any, run: Run) -> None:
    deviation = np.sqrt(np.maximum(run.predictions["variance"], 1e-300))
    z = (run.predictions["labels"] - run.predictions["mean"]) / deviation
    x = np.linspace(-4, 4, 200)
    ax.hist(np.clip(z, -4, 4), bins=np.linspace(-4, 4, 33).tolist(), density=True, color=BLUE, alpha=0.8)
    ax.plot(x, np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi), color=INK, lw=1.4, ls=(0, (4, 2)))
    _note(ax, "– – standard\nnormal", (0.99, 0.97), (0, 0), ha="right", va="top", color=INK)
    ax.set(xlabel="(true − predicted) / predictive sd", ylabel="density", xlim=(-4.1, 4.1))
