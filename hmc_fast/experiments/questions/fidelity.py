"""How close approximations come to HMC (Izmailov et al. 2021): agreement and total variation."""

from typing import Any

import numpy as np
import pandas as pd

from ...errors import UserError
from ...report.drawing import BLUE, GREY, INK
from ...results.predictions import agreement, total_variation
from ..compared_methods import approximations, check_members, minibatch_samplers, missing_laplace
from ..page import Answer, scores
from ..run_cache import Job, Lab, Sample

QUESTION = "Which approximation predicts as HMC does?"


def answer(lab: Lab, page: Answer) -> None:
    """Asks for at least 2 chains of HMC."""
    s = lab.settings
    if s.chains < 2:
        raise UserError(f"--chains {s.chains} is too few: the ceiling is one HMC chain against another")
    check_members(lab)
    page.note += missing_laplace()
    jobs: dict[str, Job] = approximations(lab, s.seed) | minibatch_samplers(lab, s.seed)
    if lab.preset == "digits":  # elsewhere hundreds of full-batch passes of burn-in
        jobs["MCLMC"] = lab.sampler("MCLMC", sampler="mclmc", seed=s.seed, init="prior", draws=s.long_draws)
    hmc, *others = lab.obtain([lab.hmc("long HMC", draws=s.long_draws, seed=s.seed), *jobs.values()])
    chains = hmc.probs.mean(0, dtype=np.float64)  # (C, T, K)
    others_of = [np.delete(chains, i, axis=0).mean(0) for i in range(len(chains))]
    rows = [
        _row("HMC", [chains[i : i + 1] for i in range(len(chains))], others_of, hmc, lab.labels),
        *(
            _row(name, [sample.probs.mean(0, dtype=np.float64)] * len(chains), others_of, sample, lab.labels)
            for name, sample in zip(jobs, others, strict=True)
        ),
    ]
    table = pd.DataFrame(rows)
    page.table("fidelity", "Each method against HMC: means, and deviations over the choices of chains", table)
    _draw(page, table)
    ceiling, rest = table.iloc[0], table.iloc[1:]
    for told, compared in (
        ("any approximation agrees with them", rest),
        ("any but MCLMC, a sampler of nearly the same law, agrees with them", rest[rest["method"] != "MCLMC"]),
    ):
        near = compared.sort_values("total variation").iloc[0]
        like = compared.sort_values("agreement").iloc[-1]
        page.claim(
            f"HMC chains agree with each other more than {told}.",
            bool(
                ceiling["total variation"] < near["total variation"]
                and ceiling["agreement"] + 2 * ceiling["agreement sd"] >= like["agreement"]
            ),
            f"Total variation {_with_sd(ceiling, 'total variation')} between chains; next {near['method']}, "
            f"{_with_sd(near, 'total variation')}. Agreement {_with_sd(ceiling, 'agreement')}; next "
            f"{like['method']}, {_with_sd(like, 'agreement')}; it may fall short by two deviations.",
        )
        if "MCLMC" not in set(rest["method"]):
            break
    sampler = rest[rest["method"].isin(["SG-HMC", "cyclical SG-HMC", "SGLD"])]["total variation"].min()
    point = rest[rest["method"] == "SGD"]["total variation"].iloc[0]
    page.claim(
        "Stochastic-gradient samplers come closer to HMC than one trained network.",
        bool(sampler < point),
        f"Total variation {sampler:.4f} (best of SGLD, SG-HMC, cyclical SG-HMC) and {point:.4f} (SGD).",
    )


def _with_sd(row: pd.Series, score: str) -> str:
    return f"{row[score]:.4f} +- {row[f'{score} sd']:.4f}"


def _row(
    name: str, predictions: list[np.ndarray], references: list[np.ndarray], sample: Sample, labels: np.ndarray
) -> dict[str, Any]:
    """Distances of one chain's average of a sampler, or of all of another method, `predictions (chains, T, K)`,
    from the average of HMC's chains but one; HMC's own is the one left out, as in the paper."""
    pairs = [(p, reference) for group, reference in zip(predictions, references, strict=True) for p in group]
    agreed, varied = [agreement(p, q) for p, q in pairs], [total_variation(p, q) for p, q in pairs]
    every = pd.DataFrame([scores(p, labels) for group in predictions for p in group]).mean()
    chains = sample.probs.shape[1]
    return {
        "method": name,
        "agreement": float(np.mean(agreed)),
        "total variation": float(np.mean(varied)),
        "agreement sd": float(np.std(agreed)),
        "total variation sd": float(np.std(varied)),
        **{str(score): float(value) for score, value in every.items()},
        "passes": sample.passes[-1] / chains,
        "seconds": sample.seconds / chains,
    }


def _draw(page: Answer, table: pd.DataFrame) -> None:
    caption = (
        "One chain of each sampler, all of an ensemble or a fitted Gaussian, against the average of all HMC chains "
        "but one; bars: deviation over the choices. Dashed: HMC, the chain left out."
    )
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
            for at, (method, value, sd) in enumerate(
                ordered[["method", score, f"{score} sd"]].itertuples(index=False)
            ):
                colour, marker = (INK, "D") if method == "HMC" else (BLUE, "o")
                ax.errorbar(value, at, xerr=sd, fmt=marker, color=colour, ms=6, capsize=2.5)
            ax.set_yticks(y, ordered["method"])
            closer = "←" if score == "total variation" else "→"
            ax.set(xlabel=f"{score} ({closer} closer to HMC)", ylim=(len(ordered) - 0.5, -0.5))
