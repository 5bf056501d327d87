"""What people run in place of HMC, against what each costs: scores as passes over the data are spent."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ...report.drawing import BLUE, GREEN, GREY, INK, ORANGE, RED
from ..compared_methods import approximations, check_members, minibatch_samplers, missing_laplace
from ..page import Answer, scores
from ..run_cache import Lab, Sample

QUESTION = "What does a pass over the data buy, by HMC and by everything else?"
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


def answer(lab: Lab, page: Answer) -> None:
    s = lab.settings
    check_members(lab)
    page.note += missing_laplace()
    full = Lab(lab.preset, s, all_data=True)  # the methods that can, see all training data
    reached: dict[str, list[Sample]] = {}
    for seed in range(s.seed, s.seed + s.seeds):
        jobs = approximations(full, seed) | minibatch_samplers(full, seed)
        if lab.preset != "digits":
            jobs[f"hmc_fast, preset {lab.preset}"] = full.sampler(
                "the preset", sampler="sghmc", chains=None, seed=seed
            )
        for name, sample in zip(jobs, full.obtain(list(jobs.values())), strict=True):
            reached.setdefault(name, []).append(sample)
    size = len(lab.dataset.y_train)
    name = "HMC" if size == len(full.dataset.y_train) else f"HMC on {size:,} examples"
    reached[name] = lab.obtain([lab.hmc(f"HMC, seed {s.seed + i}", seed=s.seed + i) for i in range(s.seeds)])
    if size != len(full.dataset.y_train):
        page.note += f" Methods but HMC see all {len(full.dataset.y_train):,} training examples."
    ensemble_run = next(samples[0] for method, samples in reached.items() if "ensemble" in method)
    budget = ensemble_run.passes[-1] * ensemble_run.lab.posterior.num_data
    rows = []
    for method, samples in reached.items():
        found = pd.DataFrame([scores(sample.bma, lab.labels) for sample in samples])
        single = pd.DataFrame([scores(sample.probs[-1, 0], lab.labels) for sample in samples]).mean()
        rows.append(
            {
                "method": method,
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
    table = pd.DataFrame(rows)
    title = f"At the end of each method's run; means over {s.seeds} seed{'s' * (s.seeds > 1)}"
    title += f"; last columns: had for at most the ensemble's {budget:,.0f} example gradients"
    page.table("baselines", title, table)
    _draw(page, lab, {method: samples[0] for method, samples in reached.items()})
    best = table.sort_values("nll").iloc[0]
    page.claim(
        "The best log likelihood:",
        None,
        f"{best['method']}, NLL {best['nll']:.4f}, accuracy {best['accuracy']:.4f}, after {best['passes']:,.0f} "
        "passes.",
    )
    sgd, ensemble = table[table["method"] == "SGD"].iloc[0], table[table["method"].str.contains("ensemble")].iloc[0]
    hmc = table[table["method"] == name].iloc[0]
    page.claim(
        "An ensemble beats one network.",
        bool(ensemble["nll"] < sgd["nll"]),
        f"NLL {ensemble['nll']:.4f} and {sgd['nll']:.4f}; accuracy {ensemble['accuracy']:.4f} and "
        f"{sgd['accuracy']:.4f}.",
    )
    if size == len(full.dataset.y_train):
        page.claim(
            "HMC predicts better than a deep ensemble.",
            bool(hmc["nll"] < ensemble["nll"] and hmc["accuracy"] >= ensemble["accuracy"]),
            f"NLL {hmc['nll']:.4f} and {ensemble['nll']:.4f}; accuracy {hmc['accuracy']:.4f} and "
            f"{ensemble['accuracy']:.4f}; passes {hmc['passes']:,.0f} and {ensemble['passes']:,.0f}.",
        )


def _draw(page: Answer, lab: Lab, samples: dict[str, Sample]) -> None:
    caption = (
        "The average of the draws had so far, against gradients of single examples spent by all chains or networks "
        "together, burn-in and training included. Single marks: methods whose draws all come at the end. First "
        "seed."
    )
    with page.figure("baselines", "Scores against compute", caption, (10.4, 4.6)) as figure:
        axes = figure.subplots(1, 2)
        for index, (method, sample) in enumerate(samples.items()):
            colour, marker, dashes = LOOKS[index % len(LOOKS)]
            passes, curve = _curve(sample, lab.labels)
            spent = passes * sample.lab.posterior.num_data
            for ax, score in zip(axes, ("accuracy", "nll"), strict=True):
                look = {"color": colour, "marker": marker, "ms": 4.5, "mec": "white", "mew": 0.5}
                look["zorder"] = 20 - index  # a network is the first of its ensemble, and would vanish behind it
                ax.plot(spent, [c[score] for c in curve], ls=dashes, label=method, **look)
        for ax, label in zip(axes, ("test accuracy", "test NLL (nats)"), strict=True):
            ax.set(xscale="log", xlabel="gradients of single examples", ylabel=label)
        axes[1].set_yscale("log")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)


def _within(sample: Sample, budget: float, labels: np.ndarray) -> dict[str, float]:
    """Scores of the average of the draws had for at most `budget` gradients of single examples; NaN of none."""
    count = int((sample.passes * sample.lab.posterior.num_data <= budget).sum())
    found = scores(sample.probs[:count].mean((0, 1), dtype=np.float64), labels) if count else {}
    return {f"{score} at equal compute": found.get(score, np.nan) for score in ("accuracy", "nll")}


def _curve(sample: Sample, labels: np.ndarray) -> tuple[np.ndarray, Sequence[dict[str, float]]]:
    """At most 12 points of the average so far, where passes differ."""
    at = np.unique(np.geomspace(1, len(sample.probs), 12).astype(np.int64))
    if len(set(sample.passes.tolist())) == 1:
        at = at[-1:]
    total = np.cumsum(sample.probs.mean(1, dtype=np.float64), 0)
    return sample.passes[at - 1], [scores(total[n - 1] / n, labels) for n in at]
