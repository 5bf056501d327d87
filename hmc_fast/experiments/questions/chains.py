"""Do several chains predict better than one, at equal draws or equal compute? (Izmailov et al. 2021, fig. 2)"""

import numpy as np
import pandas as pd

from ...errors import UserError
from ...report.drawing import CHAIN_STYLES, GREY
from ..page import Page, scores
from ..run_cache import Lab, Sample

QUESTION = "Do several chains predict better than one?"
PANELS = (("accuracy", "test accuracy"), ("log_likelihood", "test log likelihood (nats)"), ("ece", "ECE"))


def answer(lab: Lab, page: Page) -> None:
    """Needs at least 3 chains, and draws after burn-in when one chain's iterations are split over them."""
    s = lab.settings
    most = s.chains
    if most < 3:
        raise UserError(f"--chains {most} is too few: the question compares 1, 2 and 3 chains")
    split = {m: (s.burn_in + s.draws) // m - s.burn_in for m in range(1, most + 1)}
    if split[3] < 1:
        raise UserError(
            f"--draws {s.draws} is too few: split over 3 chains, a budget of {s.burn_in} + {s.draws} iterations "
            f"leaves none after burn-in; use at least {2 * s.burn_in + 3}"
        )
    samples = lab.obtain([lab.hmc(f"HMC, seed {s.seed + i}", seed=s.seed + i) for i in range(s.seeds)])
    rows = []
    for sample in samples:
        seed = samples.index(sample)
        for m in range(1, most + 1):
            rows.append(
                {"budget": "equal draws per chain", "chains": m, "draws": m * s.draws, "seed": seed}
                | _mean_over_choices(sample, m, s.draws, lab.labels)
            )
            if split[m] >= 1:
                rows.append(
                    {"budget": "equal compute", "chains": m, "draws": m * split[m], "seed": seed}
                    | _mean_over_choices(sample, m, split[m], lab.labels)
                )
        single = [scores(p, lab.labels) for p in sample.probs.reshape(-1, *sample.probs.shape[2:])[::7]]
        rows.append({"budget": "one draw alone", "chains": 1, "draws": 1, "seed": seed} | _signed(single))
    every = pd.DataFrame(rows)
    grouped = every.groupby(["budget", "chains", "draws"], sort=False)
    mean = grouped.mean(numeric_only=True).drop(columns="seed")
    spread = grouped.std(numeric_only=True).drop(columns="seed") if s.seeds > 1 else mean * np.nan
    table = mean.join(spread.add_suffix(" sd")).reset_index()
    page.table("chains", f"Means and standard deviations over {s.seeds} seed{'s' * (s.seeds > 1)}", table)
    _draw(page, table)
    _claims(page, every, table, split)


def _mean_over_choices(sample: Sample, m: int, draws: int, labels: np.ndarray) -> dict[str, float]:
    """Scores of the average over the first draws of m chains. To reduce noise, averaged over all choices of m
    consecutive chains, with wrap-around."""
    chains = sample.probs.shape[1]
    per_chain = sample.probs[:draws].mean(0, dtype=np.float64)  # (C, T, K)
    found = []
    for first in range(chains if m < chains else 1):
        chosen = [(first + step) % chains for step in range(m)]
        found.append(scores(per_chain[chosen].mean(0), labels))
    return _signed(found)


def _signed(found: list[dict[str, float]]) -> dict[str, float]:
    """Mean scores, with the log likelihood instead of the NLL."""
    mean = {str(name): float(value) for name, value in pd.DataFrame(found).mean().items()}
    return {**mean, "log_likelihood": -mean.pop("nll")}


def _draw(page: Page, table: pd.DataFrame) -> None:
    caption = (
        "Bayesian model averages, mean over seeds; bars: one standard deviation over seeds. Dotted: a single draw. "
        "Equal compute: all chains together have as many iterations as one, burn-in included."
    )
    with page.figure("chains", "One chain or several", caption, (9.6, 3.2)) as figure:
        axes = figure.subplots(1, 3)
        for ax, (score, label) in zip(axes, PANELS, strict=True):
            for index, budget in enumerate(("equal draws per chain", "equal compute")):
                part = table[table["budget"] == budget]
                colour, dashes = CHAIN_STYLES[index]
                x = part["chains"] + 0.06 * (index - 0.5)
                ax.errorbar(
                    x,
                    part[score],
                    part[f"{score} sd"].fillna(0),
                    color=colour,
                    ls=dashes,
                    marker="os"[index],
                    ms=5,
                    capsize=2.5,
                    label=budget,
                )
            single = float(table.loc[table["budget"] == "one draw alone", score].iloc[0])
            ax.axhline(single, color=GREY, ls=(0, (1, 2)))
            ax.annotate(
                "one draw",
                (1, single),
                (-2, 3),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                ha="right",
                color=GREY,
            )
            ax.set(xlabel="chains", ylabel=label, xticks=sorted(set(table["chains"])))
            ax.margins(y=0.12)
        axes[0].legend(loc="center right")


def _claims(page: Page, every: pd.DataFrame, table: pd.DataFrame, split: dict[int, int]) -> None:
    def at(budget: str, chains: int) -> pd.Series:
        chosen = (table["budget"] == budget) & (table["chains"] == chains)
        return table[chosen].iloc[0]

    one, single = at("equal draws per chain", 1), at("one draw alone", 1)
    gain = 100 * (one["accuracy"] - single["accuracy"])
    page.claim(
        "Averaging over draws beats single draws by a wide margin.",
        bool(gain > 1 and one["log_likelihood"] > single["log_likelihood"]),
        f"One chain's average: accuracy {one['accuracy']:.4f}, log likelihood {one['log_likelihood']:.4f}; "
        f"one draw: {single['accuracy']:.4f}, {single['log_likelihood']:.4f}.",
    )
    for budget in ("equal draws per chain", "equal compute"):
        three = at(budget, 3)
        wide = every[every["budget"] == budget].pivot(index="seed", columns="chains", values="accuracy")
        difference = wide[3] - wide[1]
        count = len(difference)
        error = f"standard error {100 * difference.std() / np.sqrt(count):.2f}" if count > 1 else "one seed"
        margin = single["accuracy"] - one["accuracy"]  # minus the gain from averaging
        page.claim(
            f"One long chain is nearly as good as three, at {budget}.",
            bool(abs(three["accuracy"] - one["accuracy"]) < 0.25 * abs(margin)),
            f"Accuracy {one['accuracy']:.4f} with one, {three['accuracy']:.4f} with three ({three['draws']} "
            f"draws): difference {100 * difference.mean():+.2f} points, {error}; "
            f"log likelihood {one['log_likelihood']:.4f} and "
            f"{three['log_likelihood']:.4f}. Nearly: within a quarter of the gain from averaging draws.",
        )
