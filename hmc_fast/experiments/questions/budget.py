"""How is a fixed number of gradients best spent? (Izmailov et al. 2021, figs. 1 and 11)"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ...errors import UserError
from ...report.drawing import BLUE, GREY, RED
from ...results.diagnostics import ess_mean
from ...targets.priors import suggested_trajectory_length
from ..page import Page, chain_error, scores
from ..run_cache import Job, Lab, Sample

QUESTION = "How is a fixed number of gradients best spent?"
LENGTHS = (0.25, 0.5, 1.0, 1.5)  # in units of pi/2 prior standard deviations
STEPS = (0.25, 0.5, 1.0, 1.5)  # in units of --step-size; 2 diverges on digits, as burn-in has no Metropolis test
BURN_INS = (0, 5, 10, 25, 50)  # iterations
VARIANCES = (1 / 40, 1 / 20, 1 / 10, 1 / 5, 1 / 2, 1.0)


def answer(lab: Lab, page: Page) -> None:
    """The budget is that of the configured run with half of its draws; needs at least 10 draws."""
    s = lab.settings
    if s.draws < 10:
        raise UserError(f"--draws {s.draws} is too few: the budget is split, so use at least 10")
    tau = s.trajectory_length or suggested_trajectory_length(s.prior_variance)
    iterations = s.burn_in + s.draws // 2
    budget = iterations * math.ceil(tau / s.step_size)  # gradients of each chain

    def job(name: str, length: float = tau, step_size: float = s.step_size, **changes: Any) -> Job:
        """A run that spends the budget, by default a third of it on burn-in."""
        total = max(3, budget // math.ceil(length / step_size))
        burn_in = min(changes.pop("burn_in", round(total / 3)), total - 1)
        return lab.hmc(
            name,
            trajectory_length=length,
            step_size=step_size,
            burn_in=burn_in,
            draws=total - burn_in,
            seed=s.seed,
            **changes,
        )

    grid = [(f, e) for e in STEPS for f in LENGTHS]
    jobs: dict[Any, Job] = {
        ("grid", key): job(f"length {key[0]:g}, step {key[1]:g}", key[0] * tau, key[1] * s.step_size)
        for key in grid
    }
    for f in LENGTHS:
        jobs["fixed draws", f] = lab.hmc(
            f"length {f:g}, fixed draws", trajectory_length=f * tau, draws=s.draws // 2, seed=s.seed
        )
    for burn_in in BURN_INS:
        if burn_in < iterations:
            jobs["burn-in", burn_in] = job(f"burn-in {burn_in}", burn_in=burn_in)
    for variance in VARIANCES:
        length = suggested_trajectory_length(variance)
        jobs["prior variance", variance] = job(f"prior variance {variance:g}", length, prior_variance=variance)
    samples = dict(zip(jobs, lab.obtain(list(jobs.values())), strict=True))
    rows = [
        {
            "sweep": sweep,
            "value": str(value),
            **scores(x.bma, lab.labels),
            "nll error": chain_error(x.probs, lab.labels, "nll"),
            "ess": _effective_draws(x),
            "draws": x.draws.shape[0] * x.draws.shape[1],
            "passes": x.passes[-1],
            "acceptance": x.acceptance_rate,
            "divergences": x.divergences,
        }
        for (sweep, value), x in samples.items()
    ]
    table = pd.DataFrame(rows)
    note = f"{s.chains} chains of {budget:,} gradients each"
    page.table("budget", f"All settings: {note}, except 'fixed draws'", table)
    _heatmaps(page, lab, samples, note)
    _curves(page, lab, samples)
    _claims(page, table)


def _effective_draws(sample: Sample, most: int = 500) -> float:
    """Median effective sample size over `most` evenly spread class probabilities."""
    probs = sample.probs.reshape(*sample.probs.shape[:2], -1)
    if len(probs) < 4:
        return math.nan
    chosen = np.unique(np.linspace(0, probs.shape[2] - 1, most).astype(np.int64))
    return float(np.nanmedian(ess_mean(np.moveaxis(probs[:, :, chosen], 0, 1).astype(np.float64))))


def _heatmaps(page: Page, lab: Lab, samples: "dict[Any, Sample]", note: str) -> None:
    caption = f"{note}. The lowest NLL is framed; lengths are in units of pi/2 prior standard deviations."
    with page.figure(
        "heatmaps", "Trajectory length and step size at fixed compute", caption, (10.2, 3.3)
    ) as figure:
        # Colours span at least this much, so that a single test image makes no visible difference.
        panels = (
            ("accuracy", "test accuracy", 0.02),
            ("nll", "test NLL (nats)", 0.1),
            ("acceptance", "acceptance", 0.3),
        )
        for ax, (score, title, least) in zip(figure.subplots(1, 3), panels, strict=True):
            values = np.array([[_value(lab, samples["grid", (f, e)], score) for f in LENGTHS] for e in STEPS])
            colours = values if score != "nll" else -np.log(values)
            top = np.nanmax(colours)
            bottom = min(np.nanmin(colours), top - least)
            ax.imshow(colours, cmap="viridis", aspect="auto", origin="lower", vmin=bottom, vmax=top)
            middle = (bottom + top) / 2
            for (row, column), value in np.ndenumerate(values):
                ink = "black" if colours[row, column] > middle else "white"
                ax.text(
                    column, row, f"{value:.3f}".removeprefix("0"), ha="center", va="center", color=ink, fontsize=9
                )
            if score == "nll":
                row, column = np.argwhere(values == values.min())[0]
                ax.add_patch(_frame(column, row))
            ax.set_xticks(range(len(LENGTHS)), [f"{f:g}" for f in LENGTHS])
            ax.set_yticks(range(len(STEPS)), [f"{e * lab.settings.step_size:g}" for e in STEPS])
            ax.set(xlabel="trajectory length", ylabel="step size" if score == "accuracy" else "")
            ax.set_title(title, fontsize=10.5, weight="bold", loc="left")


def _frame(column: int, row: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=RED, lw=2.5, zorder=4)


def _value(lab: Lab, sample: Sample, score: str) -> float:
    if score == "acceptance":
        return float(sample.acceptance_rate if sample.acceptance_rate is not None else np.nan)
    return scores(sample.bma, lab.labels)[score]


def _curves(page: Page, lab: Lab, samples: "dict[Any, Sample]") -> None:
    caption = (
        "Left: trajectory length at fixed compute, and at a fixed number of draws. Middle: fixed compute. Right: "
        "the configured run, averaged over its first draws; dotted: over all draws. Bars: jackknife standard "
        "errors, leaving out one chain at a time."
    )

    def plot(ax: Any, keys: list[Any], at: Sequence[float], look: str, colour: str, label: str) -> None:
        chosen = [samples[key] for key in keys]
        nll = [_value(lab, sample, "nll") for sample in chosen]
        error = np.nan_to_num([chain_error(sample.probs, lab.labels, "nll") for sample in chosen])
        ax.errorbar(at, nll, error, fmt=look, color=colour, label=label, capsize=2.5, elinewidth=1)

    with page.figure("curves", "One setting at a time", caption, (11.2, 3.0)) as figure:
        axes = figure.subplots(1, 4)
        plot(axes[0], [("grid", (f, 1.0)) for f in LENGTHS], LENGTHS, "o-", BLUE, "fixed compute")
        plot(axes[0], [("fixed draws", f) for f in LENGTHS], LENGTHS, "s--", RED, "fixed draws")
        axes[0].legend(loc="best")
        axes[0].set(xlabel="trajectory length", ylabel="test NLL (nats)", xticks=LENGTHS)
        for ax, sweep, label in (
            (axes[1], "burn-in", "burn-in (iterations)"),
            (axes[2], "prior variance", "prior variance"),
        ):
            keys = [key for key in samples if key[0] == sweep]
            plot(ax, keys, [value for _, value in keys], "o-", BLUE, label)
            ax.set(xlabel=label)
        axes[2].set_xscale("log")
        (reference,) = lab.obtain([lab.hmc(seed=lab.settings.seed)])
        running = np.cumsum(reference.probs.mean(1, dtype=np.float64), 0)
        counts = np.arange(1, len(running) + 1)
        nll = [scores(total / n, lab.labels)["nll"] for total, n in zip(running, counts, strict=True)]
        axes[3].plot(counts, nll, color=BLUE)
        axes[3].set(xlabel="draws per chain", xscale="log")
        for ax in axes:
            ax.axhline(nll[-1], color=GREY, ls=(0, (1, 2)))
            ax.margins(y=0.15)


def _claims(page: Page, table: "pd.DataFrame") -> None:
    """Two settings differ if their scores do by more than two standard errors of the difference."""

    def rows(sweep: str, keys: Sequence[Any]) -> "pd.DataFrame":
        return table[table["sweep"] == sweep].set_index("value").loc[[str(key) for key in keys]]

    def listed(chosen: "pd.DataFrame", keys: Sequence[Any]) -> str:
        nll, error = chosen["nll"], chosen["nll error"]
        return ", ".join(f"{k:g}: {v:.4f} +- {e:.4f}" for k, v, e in zip(keys, nll, error, strict=True))

    for budget, chosen in (
        ("draws", rows("fixed draws", LENGTHS)),
        ("gradients", rows("grid", [(f, 1.0) for f in LENGTHS])),
    ):
        short, full = chosen.iloc[0], chosen.iloc[2]
        page.claim(
            f"Longer trajectories help at a fixed number of {budget}.",
            bool(short["nll"] - full["nll"] > 2 * np.hypot(short["nll error"], full["nll error"])),
            f"NLL by relative length: {listed(chosen, LENGTHS)}.",
        )
    effective = dict(zip(LENGTHS, rows("fixed draws", LENGTHS)["ess"], strict=True))
    page.claim(
        "Longer trajectories increase the effective sample size of predictions at a fixed number of draws.",
        bool(effective[1.0] > 1.2 * effective[0.25]),
        f"Median ESS of {rows('fixed draws', LENGTHS)['draws'].iloc[0]:,} draws by relative length: "
        + ", ".join(f"{f:g}: {n:,.0f}" for f, n in effective.items())
        + ".",
    )
    keys = [k for k in BURN_INS if str(k) in set(table.loc[table["sweep"] == "burn-in", "value"])]
    burned = rows("burn-in", keys)
    late = burned["nll"][[k >= 10 for k in keys]]
    page.claim(
        "Burn-in beyond ten iterations makes little difference.",
        bool(late.max() < 1.05 * burned["nll"].min()) if len(late) else None,
        f"NLL by iterations of burn-in: {listed(burned, keys)}. Little difference: within 5 %.",
    )
    grid = table[table["sweep"] == "grid"].sort_values("nll")
    best, at = grid.iloc[0], table[table["sweep"] == "prior variance"].sort_values("nll").iloc[0]
    alike = (grid["nll"] - best["nll"] < 2 * np.hypot(grid["nll error"], best["nll error"])).sum()
    page.claim(
        "The best settings at this budget:",
        None,
        f"(length, step size) {best['value']} in units of the settings, NLL {best['nll']:.4f} +- "
        f"{best['nll error']:.4f}, accuracy {best['accuracy']:.4f}, indistinguishable from {alike - 1} of the "
        f"other {len(grid) - 1} cells; prior variance {float(at['value']):g}, NLL {at['nll']:.4f}, "
        f"accuracy {at['accuracy']:.4f}.",
    )
