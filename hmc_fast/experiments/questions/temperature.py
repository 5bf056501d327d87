"""Is there a cold posterior effect? (Izmailov et al. 2021, fig. 12)"""

import math

import pandas as pd

from ...report.drawing import BLUE, GREY, RED
from ...targets.priors import suggested_trajectory_length
from ..page import Page, scores
from ..run_cache import Lab

QUESTION = "Is there a cold posterior effect?"
TEMPERATURES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


def answer(lab: Lab, page: Page) -> None:
    s = lab.settings
    length = s.trajectory_length or suggested_trajectory_length(s.prior_variance)
    # The tempered prior is sqrt(T) times as wide, so trajectories are sqrt(T) times as long. Step sizes shrink with
    # the scale of a cold posterior but do not grow with that of a warm one, where large weights give steep
    # functions (on digits, acceptance at T = 3 and 10 was .3 and 0 with step sizes of .035 and .063).
    jobs = [
        lab.hmc(
            f"HMC, T = {t:g}",
            temperature=t,
            step_size=s.step_size * min(1.0, math.sqrt(t)),
            trajectory_length=length * math.sqrt(t),
            seed=s.seed,
        )
        if t != 1
        else lab.hmc(seed=s.seed)
        for t in TEMPERATURES
    ]
    rows = []
    for temperature, sample in zip(TEMPERATURES, lab.obtain(jobs), strict=True):
        single = pd.DataFrame([scores(p, lab.labels) for p in sample.probs[::10, 0]]).mean()
        rows.append(
            {
                "temperature": temperature,
                **scores(sample.bma, lab.labels),
                "accuracy single": single["accuracy"],
                "nll single": single["nll"],
                "acceptance": sample.acceptance_rate,
                "divergences": sample.divergences,
            }
        )
    table = pd.DataFrame(rows)
    page.table("temperature", "Scores of the model average against temperature", table)
    caption = "Model average and single draws. Dotted: T = 1, the Bayes posterior; cold posteriors are to its left."
    with page.figure("temperature", "Scores against temperature", caption, (9.6, 3.0)) as figure:
        axes = figure.subplots(1, 3)
        panels = (("accuracy", "test accuracy"), ("nll", "test NLL (nats)"), ("ece", "ECE"))
        for ax, (score, label) in zip(axes, panels, strict=True):
            ax.plot(table["temperature"], table[score], "o-", color=BLUE, label="average")
            if score != "ece":
                ax.plot(
                    table["temperature"], table[f"{score} single"], "s--", color=RED, mfc="white", label="one draw"
                )
            ax.axvline(1, color=GREY, ls=(0, (1, 2)))
            ax.set(xscale="log", xlabel="temperature T", ylabel=label)
            ax.set_xticks(TEMPERATURES, [f"{t:g}" for t in TEMPERATURES])
            ax.minorticks_off()
        axes[0].legend(loc="lower left")
    best = table.sort_values("nll").iloc[0]
    at_one = table[table["temperature"] == 1].iloc[0]
    top = table.sort_values("accuracy").iloc[-1]
    page.claim(
        "T = 1 is near-optimal in accuracy.",
        bool(at_one["accuracy"] >= top["accuracy"] - 0.01),
        f"Accuracy {at_one['accuracy']:.4f} at T = 1, best {top['accuracy']:.4f} at T = {top['temperature']:g}. "
        "Near-optimal: within one point.",
    )
    page.claim(
        "T = 1 has the best log likelihood.",
        bool(at_one["nll"] <= 1.05 * best["nll"]),
        f"NLL {at_one['nll']:.4f} at T = 1, best {best['nll']:.4f} at T = {best['temperature']:g}: "
        f"a cold posterior effect of {at_one['nll'] - best['nll']:.4f} nats. Best: within 5 %.",
    )
