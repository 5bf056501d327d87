"""Which approximation predicts most like HMC? (Izmailov et al. 2021)"""

from typing import Any

import numpy as np
import pandas as pd

from ...errors import UserError
from ...report.drawing import BLUE, GREY, INK
from ...results.predictions import agreement, total_variation
from ..compared_methods import approximations, check_members, minibatch_samplers, missing_laplace
from ..page import Page, scores
from ..run_cache import Job, Lab, Sample

QUESTION = "Which approximation predicts most like HMC?"


def answer(lab: Lab, page: Page) -> None:
    """Needs at least 2 chains of HMC."""
    s = lab.settings
    if s.chains < 2:
        raise UserError(f"--chains {s.chains} is too few: the reference is one HMC chain against the others")
    check_members(lab)
    page.note += missing_laplace()
    jobs: dict[str, Job] = approximations(lab, s.seed) | minibatch_samplers(lab, s.seed)
    if lab.preset == "digits":  # on other presets its burn-in would take hundreds of full-batch passes
        jobs["mclmc"] = lab.sampler("MCLMC", sampler="mclmc", seed=s.seed, init="prior", draws=s.long_draws)
    hmc, *others = lab.obtain([lab.hmc("long HMC", draws=s.long_draws, seed=s.seed), *jobs.values()])
    chains = hmc.probs.mean(0, dtype=np.float64)  # (C, T, K)
    others_of = [np.delete(chains, i, axis=0).mean(0) for i in range(len(chains))]
    rows = [
        _row("HMC", [chains[i : i + 1] for i in range(len(chains))], others_of, hmc, lab.labels),
        *(
            _row(sample.name, [sample.probs.mean(0, dtype=np.float64)] * len(chains), others_of, sample, lab.labels)
            for sample in others
        ),
    ]
    table = pd.DataFrame(rows, index=["hmc", *jobs])
    title = "Each method against HMC: means and standard deviations over the choices of chains"
    page.table("fidelity", title, table)
    _draw(page, table)
    _claims(page, table)


def _row(
    name: str, predictions: list[np.ndarray], references: list[np.ndarray], sample: Sample, labels: np.ndarray
) -> dict[str, Any]:
    """Distances between `predictions (chains, T, K)`, averages of a sampler's single chains or of all draws of
    another method, and the average of all HMC chains but one; as in the paper, the one left out represents HMC."""
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


def _draw(page: Page, table: pd.DataFrame) -> None:
    caption = (
        "One chain of each sampler, or all draws of any other method, against the average of all HMC chains but "
        "one; bars: standard deviation over the choices. Dashed: HMC, the chain left out."
    )
    with page.figure(
        "fidelity", "Distance of each method from HMC", caption, (9.6, 0.36 * len(table) + 1.1)
    ) as figure:
        ordered = table.sort_values("total variation")
        axes = figure.subplots(1, 2, sharey=True)
        for ax, score in zip(axes, ("agreement", "total variation"), strict=True):
            y = np.arange(len(ordered))
            ceiling = float(table.loc["hmc", score])  # type: ignore[arg-type]
            ax.axvline(ceiling, color=INK, ls=(0, (4, 2)), lw=1)
            ax.hlines(y, ceiling, ordered[score], color=GREY, lw=0.8)
            for at, (key, value, sd) in enumerate(ordered[[score, f"{score} sd"]].itertuples()):
                colour, marker = (INK, "D") if key == "hmc" else (BLUE, "o")
                ax.errorbar(value, at, xerr=sd, fmt=marker, color=colour, ms=6, capsize=2.5)
            ax.set_yticks(y, ordered["method"])
            closer = "←" if score == "total variation" else "→"
            ax.set(xlabel=f"{score} ({closer} closer to HMC)", ylim=(len(ordered) - 0.5, -0.5))


def _claims(page: Page, table: pd.DataFrame) -> None:
    """table: indexed by the methods' keys."""
    ceiling, rest = table.loc["hmc"], table.drop(index="hmc")
    compared_to = {"any approximation agrees with them": rest}
    if "mclmc" in rest.index:
        told = "any approximation but MCLMC, which targets nearly the same distribution, agrees with them"
        compared_to[told] = rest.drop(index="mclmc")
    for told, compared in compared_to.items():
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
            f"{like['method']}, {_with_sd(like, 'agreement')}; tolerance for agreement: two standard deviations.",
        )
    varied: dict[Any, float] = rest["total variation"].to_dict()
    sampler, point = min(varied[key] for key in ("sgld", "sghmc", "cyclical_sghmc")), varied["sgd"]
    page.claim(
        "Stochastic-gradient samplers are closer to HMC than a single trained network.",
        sampler < point,
        f"Total variation {sampler:.4f} (best of SGLD, SG-HMC, cyclical SG-HMC) and {point:.4f} (SGD).",
    )


def _with_sd(row: Any, score: str) -> str:
    return f"{row[score]:.4f} +- {row[f'{score} sd']:.4f}"
