"""Does the prior family matter, at equal variance? (Izmailov et al. 2021; `budget` sweeps the variance)"""

import pandas as pd

from ...report.drawing import BLUE, GREY
from ..page import Page, scores
from ..run_cache import Lab

QUESTION = "Does the prior family matter?"
FAMILIES = ("normal", "mixture", "logistic")  # the paper's; with heavier tails no chain moves at this step size


def answer(lab: Lab, page: Page) -> None:
    s = lab.settings
    jobs = [
        lab.hmc(f"HMC, prior {f}", prior=f, seed=s.seed) if f != "normal" else lab.hmc(seed=s.seed)
        for f in FAMILIES
    ]
    rows = []
    for family, sample in zip(FAMILIES, lab.obtain(jobs), strict=True):
        single = pd.DataFrame([scores(p, lab.labels) for p in sample.probs[::10, 0]]).mean()
        rows.append(
            {
                "prior": family,
                **scores(sample.bma, lab.labels),
                "accuracy single": single["accuracy"],
                "nll single": single["nll"],
                "acceptance": sample.acceptance_rate,
                "divergences": sample.divergences,
            }
        )
    table = pd.DataFrame(rows)
    page.table("priors", f"Prior families, all of variance {s.prior_variance:g}", table)
    caption = "Filled: model average; open: single draws. All priors have the same variance."
    with page.figure("priors", "Prior families at equal variance", caption, (8.2, 2.3)) as figure:
        axes = figure.subplots(1, 2, sharey=True)
        for ax, (score, label) in zip(
            axes, (("accuracy", "test accuracy"), ("nll", "test NLL (nats)")), strict=True
        ):
            y = range(len(table))
            ax.hlines(y, table[score], table[f"{score} single"], color=GREY, lw=0.8)
            ax.plot(table[score], y, "o", color=BLUE, ms=6)
            ax.plot(table[f"{score} single"], y, "o", mfc="white", mec=GREY, ms=6)
            ax.set(xlabel=label, ylim=(len(table) - 0.5, -0.5))
            ax.set_yticks(list(y), table["prior"])
            ax.margins(x=0.08)
    gap = table["accuracy"].max() - table["accuracy"].min()
    margin = table["accuracy"][0] - table["accuracy single"][0]
    page.claim(
        "Gaussian, mixture and logistic priors of equal variance give nearly the same predictions.",
        bool(gap < max(0.01, 0.25 * margin)),
        "; ".join(f"{r['prior']}: {r['accuracy']:.4f}, NLL {r['nll']:.4f}" for _, r in table.iterrows())
        + f". Accuracies span {100 * gap:.2f} points.",
    )
