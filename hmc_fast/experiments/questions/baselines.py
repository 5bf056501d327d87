"""What does each method achieve for its compute: HMC and the methods used in its place?"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ...report.drawing import BLUE, GREEN, GREY, INK, ORANGE, RED
from ..compared_methods import approximations, check_members, minibatch_samplers, missing_laplace
from ..page import Page, scores
from ..run_cache import Lab, Sample

QUESTION = "What does each method achieve for its compute?"
LOOKS = [
    (BLUE, "o", "-"),
    (RED, "s", "--"),
    (GREEN, "^", "-."),
    (ORANGE, "D", ":"),
    ("#CC79A7", "v", "-"),
    ("#56B4E9", "P", "--"),
    (INK, "X", "-."),
    (GREY, "*", ":"),
    ("#8a6d00", "<", "-"),
    ("#5b3a8e", ">", "--"),
]


def answer(lab: Lab, page: Page) -> None:
    s = lab.settings
    check_members(lab)
    page.note += missing_laplace()
    full = Lab(lab.preset, s, all_data=True)  # all methods but HMC can afford the full training set
    size, full_size = len(lab.dataset.y_train), len(full.dataset.y_train)
    reached: dict[str, list[Sample]] = {}  # by key, one sample per seed
    for seed in range(s.seed, s.seed + s.seeds):
        jobs = approximations(full, seed) | minibatch_samplers(full, seed)
        if lab.preset != "digits":
            name = f"hmc_fast, preset {lab.preset}"
            jobs["preset"] = full.sampler(name, sampler="sghmc", chains=None, seed=seed)
        for key, sample in zip(jobs, full.obtain(list(jobs.values())), strict=True):
            reached.setdefault(key, []).append(sample)
    name = "HMC" if size == full_size else f"HMC on {size:,} examples"
    reached["hmc"] = lab.obtain([lab.hmc(name, seed=seed) for seed in range(s.seed, s.seed + s.seeds)])
    if size != full_size:
        page.note += f" All methods but HMC use all {full_size:,} training examples."
    first_ensemble = reached["ensemble"][0]
    budget = first_ensemble.passes[-1] * full_size
    rows = []
    for samples in reached.values():
        found = pd.DataFrame([scores(sample.bma, lab.labels) for sample in samples])
        single = pd.DataFrame([scores(sample.probs[-1, 0], lab.labels) for sample in samples]).mean()
        rows.append(
            {
                "method": samples[0].name,
                **found.mean().to_dict(),
                "accuracy sd": found["accuracy"].std() if s.seeds > 1 else np.nan,
                "nll sd": found["nll"].std() if s.seeds > 1 else np.nan,
                "accuracy single": single["accuracy"],
                "nll single": single["nll"],
                "draws": int(np.prod(samples[0].probs.shape[:2])),
                "passes": samples[0].passes[-1],
                "example gradients": samples[0].passes[-1] * samples[0].lab.posterior.num_data,
                "seconds": float(np.mean([sample.seconds for sample in samples])),
                **pd.DataFrame([_within(sample, budget, lab.labels) for sample in samples]).mean().to_dict(),
            }
        )
    table = pd.DataFrame(rows, index=list(reached))
    title = f"Scores at the end of each run, means over {s.seeds} seed{'s' * (s.seeds > 1)}"
    title += f"; last columns: within the ensemble's compute of {budget:,.0f} example gradients"
    page.table("baselines", title, table)
    _draw(page, lab, [samples[0] for samples in reached.values()])
    _claims(page, table, same_data=size == full_size)


def _draw(page: Page, lab: Lab, samples: Sequence[Sample]) -> None:
    caption = (
        "The average over the draws so far against gradients of single examples, summed over chains or networks, "
        "including burn-in and training. Single marks: methods whose draws all come at the end. First seed only."
    )
    with page.figure("baselines", "Scores against compute", caption, (10.4, 4.6)) as figure:
        axes = figure.subplots(1, 2)
        for index, sample in enumerate(samples):
            colour, marker, dashes = LOOKS[index % len(LOOKS)]
            passes, curve = _curve(sample, lab.labels)
            spent = passes * sample.lab.posterior.num_data
            for ax, score in zip(axes, ("accuracy", "nll"), strict=True):
                look = {"color": colour, "marker": marker, "ms": 4.5, "mec": "white", "mew": 0.5}
                look["zorder"] = 20 - index  # the single network is the ensemble's first, whose curve would hide it
                ax.plot(spent, [c[score] for c in curve], ls=dashes, label=sample.name, **look)
        for ax, label in zip(axes, ("test accuracy", "test NLL (nats)"), strict=True):
            ax.set(xscale="log", xlabel="example gradients", ylabel=label)
        axes[1].set_yscale("log")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)


def _within(sample: Sample, budget: float, labels: np.ndarray) -> dict[str, float]:
    """Scores of the average over the draws within `budget` example gradients; NaN if there are none."""
    count = int((sample.passes * sample.lab.posterior.num_data <= budget).sum())
    found = scores(sample.probs[:count].mean((0, 1), dtype=np.float64), labels) if count else {}
    return {f"{score} at equal compute": found.get(score, np.nan) for score in ("accuracy", "nll")}


def _curve(sample: Sample, labels: np.ndarray) -> tuple[np.ndarray, Sequence[dict[str, float]]]:
    """Passes and scores of the average over the first draws, at most 12 points; one if all come at the end."""
    at = np.unique(np.geomspace(1, len(sample.probs), 12).astype(np.int64))
    if len(set(sample.passes.tolist())) == 1:
        at = at[-1:]
    total = np.cumsum(sample.probs.mean(1, dtype=np.float64), 0)
    return sample.passes[at - 1], [scores(total[n - 1] / n, labels) for n in at]


def _claims(page: Page, table: pd.DataFrame, *, same_data: bool) -> None:
    """table: indexed by the methods' keys."""
    best = table.sort_values("nll").iloc[0]
    page.claim(
        "The best log likelihood:",
        None,
        f"{best['method']}, NLL {best['nll']:.4f}, accuracy {best['accuracy']:.4f}, after {best['passes']:,.0f} "
        "passes.",
    )
    sgd, ensemble, hmc = table.loc["sgd"], table.loc["ensemble"], table.loc["hmc"]
    page.claim(
        "A deep ensemble beats a single network.",
        bool(ensemble["nll"] < sgd["nll"]),
        f"NLL {ensemble['nll']:.4f} and {sgd['nll']:.4f}; accuracy {ensemble['accuracy']:.4f} and "
        f"{sgd['accuracy']:.4f}.",
    )
    if same_data:
        page.claim(
            "HMC predicts better than a deep ensemble.",
            bool(hmc["nll"] < ensemble["nll"] and hmc["accuracy"] >= ensemble["accuracy"]),
            f"NLL {hmc['nll']:.4f} and {ensemble['nll']:.4f}; accuracy {hmc['accuracy']:.4f} and "
            f"{ensemble['accuracy']:.4f}; passes {hmc['passes']:,.0f} and {ensemble['passes']:,.0f}.",
        )
