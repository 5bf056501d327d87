"""How close approximations come to HMC (Izmailov et al. 2021, sec. 8): agreement and total variation."""

from itertools import combinations

import numpy as np
import pandas as pd

from ..errors import UserError
from ..predictions import agreement, total_variation
from ..report.figures import BLUE, GREY, INK
from .answer import Answer, scores
from .contenders import approximations, check_members, has_laplace, minibatch_samplers
from .lab import Job, Lab

QUESTION = "Which approximation predicts as HMC does?"


def answer(lab: Lab, page: Answer) -> None:
    """Asks for at least 2 chains of HMC."""
    s = lab.settings
    if s.chains < 2:
        raise UserError(f"--chains {s.chains} is too few: the ceiling is one HMC chain against another")
    check_members(lab)
    if not has_laplace():
        page.note += " Laplace is left out: laplace-torch is not installed (pip install 'hmc_fast[laplace]')."
    jobs: dict[str, Job] = approximations(lab, s.seed) | minibatch_samplers(lab, s.seed)
    if lab.preset == "digits":  # elsewhere hundreds of full-batch passes of burn-in
        jobs["MCLMC"] = lab.sampler("MCLMC", sampler="mclmc", seed=s.seed, draws=s.draws, init="prior")
    hmc, *others = lab.obtain([lab.hmc(seed=s.seed), *jobs.values()])
    chains = hmc.probs.mean(0, dtype=np.float64)  # (C, T, K)
    pairs = list(combinations(range(len(chains)), 2))
    within = {
        "agreement": [agreement(chains[i], chains[j]) for i, j in pairs],
        "total variation": [total_variation(chains[i], chains[j]) for i, j in pairs],
    }
    rows = [
        {
            "method": "HMC, chain against chain",
            **{name: float(np.mean(values)) for name, values in within.items()},
            "agreement sd": float(np.std(within["agreement"])),
            "total variation sd": float(np.std(within["total variation"])),
            **_mean_scores(chains, lab.labels),
            "passes": hmc.passes[-1] / len(chains),
            "seconds": hmc.seconds / len(chains),
        }
    ]
    for name, sample in zip(jobs, others, strict=True):
        against = [(agreement(sample.bma, p), total_variation(sample.bma, p)) for p in chains]
        both, sd = np.mean(against, 0), np.std(against, 0)
        rows.append(
            {
                "method": name,
                "agreement": both[0],
                "total variation": both[1],
                "agreement sd": sd[0],
                "total variation sd": sd[1],
                **scores(sample.bma, lab.labels),
                "passes": sample.passes[-1],
                "seconds": sample.seconds,
            }
        )
    table = pd.DataFrame(rows)
    page.table("fidelity", "Each method against each HMC chain: means, and deviations over the chains", table)
    _draw(page, table)
    ceiling, rest = table.iloc[0], table.iloc[1:]
    nearest, agreeing = rest.sort_values("total variation").iloc[0], rest.sort_values("agreement").iloc[-1]
    page.claim(
        "HMC chains agree with each other more than any approximation agrees with them.",
        bool(
            ceiling["total variation"] < nearest["total variation"]
            and ceiling["agreement"] >= agreeing["agreement"]
        ),
        f"Total variation {ceiling['total variation']:.4f} between chains; next {nearest['method']}, "
        f"{nearest['total variation']:.4f}. Agreement {ceiling['agreement']:.4f}; next {agreeing['method']}, "
        f"{agreeing['agreement']:.4f}.",
    )
    sampler = rest[rest["method"].isin(["SG-HMC", "cyclical SG-HMC", "SGLD"])]["total variation"].min()
    point = rest[rest["method"] == "SGD"]["total variation"].iloc[0]
    page.claim(
        "Stochastic-gradient samplers come closer to HMC than one trained network.",
        bool(sampler < point),
        f"Total variation {sampler:.4f} (best of SGLD, SG-HMC, cyclical SG-HMC) and {point:.4f} (SGD).",
    )


def _mean_scores(chains: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    mean = pd.DataFrame([scores(p, labels) for p in chains]).mean()
    return {str(name): float(value) for name, value in mean.items()}


def _draw(page: Answer, table: pd.DataFrame) -> None:
    caption = "Dots: mean over HMC chains, bars: their deviation. Dashed: HMC chain against HMC chain, the ceiling."
    with page.figure(
        "fidelity", "Distance of each method from HMC", caption, (9.6, 0.36 * len(table) + 1.1)
    ) as figure:
        ordered = table.sort_values("total variation")
        axes = figure.subplots(1, 2, sharey=True)
        for ax, score in zip(axes, ("agreement", "total variation"), strict=True):
            y = np.arange(len(ordered))
            ceiling = float(table[score][0])
            ax.axvline(ceiling, color=INK, ls=(0, (4, 2)), lw=1)
            ax.hlines(y, ceiling, ordered[score], color=GREY, lw=0.8)
            ax.errorbar(ordered[score], y, xerr=ordered[f"{score} sd"], fmt="o", color=BLUE, ms=6, capsize=2.5)
            ax.set_yticks(y, ordered["method"])
            ax.set(xlabel=score, ylim=(len(ordered) - 0.5, -0.5))
