"""Panels on the predictions: the benefit of averaging, calibration and uncertainty."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..results.run_folder_reader import RunFolder
from .drawing import BLUE, GREY, INK, RED, image_look, label_log_axis, new_figure, note, plain

__all__ = [
    "equal_mass_bins",
    "images_with_predictions",
    "mark_confidence",
    "most_uncertain",
    "most_wrong",
    "predicted_against_true",
    "reliability",
    "residuals",
    "score_curve",
    "score_per_gradient",
    "uncertainty",
]

SCORES = {  # axis label, whether higher is better
    "accuracy": ("test accuracy", True),
    "nll": ("test NLL (nats per example)", False),
    "rmse": ("test RMSE (units of the target)", False),
    "log_likelihood": ("test log likelihood (nats per example)", True),
}


def score_curve(ax: Any, run: RunFolder, name: str) -> None:
    """The score of the average over the first draws, and of each single draw, against the number of draws."""
    label, better_is_up = SCORES[name]
    draws, curve = run.predictions["curve_draws"], run.predictions[f"curve_{name}"]
    single = run.predictions.get(f"single_{name}")
    shown, sign, near = curve, (1 if better_is_up else -1), "bottom" if better_is_up else "top"
    if single is not None:
        at = np.broadcast_to(draws[:, None], single.shape)
        ax.plot(at.ravel(), single.ravel(), "o", ms=3, mfc="none", mec=GREY, mew=0.7, alpha=0.6)
        note(ax, "○ single draws", (1, 0 if better_is_up else 1), (-2, 4 * sign), va=near, ha="right")
        finite = single[np.isfinite(single)]
        if finite.size:
            shown = np.concatenate([curve, np.quantile(finite, [0.02, 0.98])])  # outliers may leave the axes
    ax.plot(draws, curve, color=BLUE, lw=2, marker="o" if len(draws) < 3 else "")
    shown = shown[np.isfinite(shown)]
    if shown.size:
        room = max(float(np.ptp(shown)), 1e-3 * abs(float(shown[0])), 1e-9)
        below, above = (0.26, 0.18) if better_is_up else (0.18, 0.26)  # room for the two annotations
        ax.set_ylim(shown.min() - below * room, shown.max() + above * room)
    look = {"ha": "right", "va": near, "color": BLUE, "weight": "bold"}
    note(ax, "average of draws so far", (draws[-1], curve[-1]), (0, 6 * sign), "data", **look)
    if draws[0] > 0 and draws[-1] >= 16 * draws[0]:
        ax.set_xscale("log")
        label_log_axis(ax.xaxis)
    else:
        ax.xaxis.set_major_formatter(plain)
    if name == "accuracy":
        ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %")
    ax.set(xlabel="draws averaged", ylabel=label)


def equal_mass_bins(run: RunFolder, bins: int = 20) -> np.ndarray:
    """Fraction of the test points, mean top probability and accuracy of each bin, (bins, 3).

    Bins have equal counts, so that none rests on a handful of points; never more bins than points.
    """
    probs, labels = run.predictions["probs"], run.predictions["labels"]
    order = np.argsort(probs.max(1), kind="stable")
    parts = np.array_split(order, min(bins, len(order)))
    hit = probs.argmax(1) == labels
    return np.array([(len(p) / len(order), probs[p].max(1).mean(), hit[p].mean()) for p in parts])


def reliability(ax: Any, run: RunFolder) -> None:
    share, confidence, hit = equal_mass_bins(run).T
    error = np.sqrt(hit * (1 - hit) / (share * len(run.predictions["labels"])))
    low = max(0.0, np.floor(10 * min(confidence.min(), (hit - error).min())) / 10)
    ax.plot([low, 1], [low, 1], color=GREY, lw=1, ls=(0, (4, 2)))
    ax.errorbar(confidence, hit, error, fmt="o", ms=4.5, color=BLUE, elinewidth=1, mec="white", mew=0.6)
    mark_confidence(ax)
    gap = float(share @ np.abs(confidence - hit))
    note(ax, f"ECE {gap:.3f}", (0.97, 0.13), (0, 0), ha="right", color=BLUE, weight="bold")
    margin = 0.03 * (1 - low)
    ax.set(xlim=(low - margin, 1 + margin), ylim=(low - margin, 1 + margin))


def mark_confidence(ax: Any) -> None:
    """Labels a reliability diagram: its axes, and the meaning of its two sides."""
    note(ax, "underconfident", (0.03, 0.97), (0, 0), va="top", style="italic")
    note(ax, "overconfident", (0.97, 0.05), (0, 0), ha="right", style="italic")
    ax.set(xlabel="confidence (top probability)", ylabel="accuracy")


def uncertainty(ax: Any, run: RunFolder, most: int = 3000) -> None:
    x, y = run.predictions["aleatoric"], run.predictions["epistemic"]
    hit = run.predictions["probs"].argmax(1) == run.predictions["labels"]
    correct, wrong = {"mec": BLUE, "mfc": "none", "alpha": 0.5}, {"mec": RED, "zorder": 3}
    for chosen, name, marker, look in ((hit, "correct", "o", correct), (~hit, "wrong", "x", wrong)):
        index = np.flatnonzero(chosen)[:: max(1, -(-int(chosen.sum()) // most))]
        ax.plot(x[index], y[index], marker, ms=4, mew=0.9, label=f"{name} ({chosen.sum():,})", **look)
    ax.legend(loc="upper left", bbox_to_anchor=(0, 1.02), handletextpad=0.2, handlelength=1.5)
    ax.set(xlabel="aleatoric (nats): ambiguous data", ylabel="epistemic (nats): draws disagree")


def most_uncertain(run: RunFolder, count: int) -> np.ndarray:
    """Indices of the test points whose averaged prediction has the highest entropy, highest first."""
    probs = run.predictions["probs"].astype(np.float64)
    entropy = -(probs * np.log(np.clip(probs, 1e-30, None))).sum(1)
    return np.argsort(-entropy, kind="stable")[:count]


def most_wrong(run: RunFolder, count: int) -> np.ndarray:
    """Indices of the test points whose true class has the lowest averaged probability, lowest first."""
    probs, labels = run.predictions["probs"], run.predictions["labels"].astype(np.int64)
    return np.argsort(probs[np.arange(len(labels)), labels], kind="stable")[:count]


def images_with_predictions(
    run: RunFolder, images: np.ndarray, class_names: Sequence[str], chosen: np.ndarray
) -> Any:
    """A figure of the `chosen` test images, four per row, each with its class and prediction."""
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
        text = f"{said}\nE {p['epistemic'][index]:.2f}  A {p['aleatoric'][index]:.2f}"
        colour = INK if label == guess else RED
        note(ax, text, (0, 0), (0, -3), va="top", fontsize=9, color=colour, annotation_clip=False)
    return figure


def predicted_against_true(ax: Any, run: RunFolder, most: int = 300) -> None:
    labels, mean = run.predictions["labels"], run.predictions["mean"]
    deviation = np.sqrt(np.maximum(run.predictions["variance"], 0))
    ends = [min(labels.min(), mean.min()), max(labels.max(), mean.max())]
    pick = np.arange(0, len(labels), -(-len(labels) // most))
    bars = {"fmt": "o", "ms": 3.5, "mec": "white", "mew": 0.4, "elinewidth": 0.7, "ecolor": "#9cc3de"}
    ax.errorbar(labels[pick], mean[pick], deviation[pick], color=BLUE, **bars)
    ax.plot(ends, ends, color=INK, lw=1, ls=(0, (4, 2)), zorder=4)
    note(ax, "bars: one predictive sd", (0.97, 0.05), (0, 0), ha="right")
    ax.set(xlabel="true", ylabel="predicted")


def residuals(ax: Any, run: RunFolder) -> None:
    deviation = np.sqrt(np.maximum(run.predictions["variance"], 1e-300))
    z = (run.predictions["labels"] - run.predictions["mean"]) / deviation
    x = np.linspace(-4, 4, 200)
    ax.hist(np.clip(z, -4, 4), bins=np.linspace(-4, 4, 33).tolist(), density=True, color=BLUE, alpha=0.8)
    ax.plot(x, np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi), color=INK, lw=1.4, ls=(0, (4, 2)))
    note(ax, "– – standard\nnormal", (0.99, 0.97), (0, 0), ha="right", va="top", color=INK)
    ax.set(xlabel="(true − predicted) / predictive sd", ylabel="density", xlim=(-4.1, 4.1))


def score_per_gradient(ax: Any, run: RunFolder, name: str) -> None:
    """The score of the average so far against gradients of the whole run, burn-in included."""
    label, better_is_up = SCORES[name]
    curve, gradients = run.predictions[f"curve_{name}"], run.gradients_at_draws()
    ax.plot(gradients, curve, color=BLUE, lw=2, marker="o" if len(curve) < 3 else "")
    burned = float(run.trace.loc[run.trace["phase"] == "burn_in", "leapfrog_steps"].sum())
    if burned > 0:
        ax.axvline(burned, color=GREY, lw=1, ls=(0, (1, 2)))
        edge = 0.97 if better_is_up else 0.03
        look = {"va": "top" if better_is_up else "bottom", "rotation": 90}
        side = -11 if burned > 0.1 * gradients[-1] else 3  # left of a short burn-in there is no room
        note(ax, "burn-in ends", (burned, edge), (side, 0), ("data", "axes fraction"), **look)
    ax.set_xlim(0, 1.02 * gradients[-1])
    if name == "accuracy":
        ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %")
    ax.xaxis.set_major_formatter(plain)
    ax.locator_params(axis="x", nbins=5)
    ax.set(xlabel="gradient evaluations, all chains", ylabel=label)
