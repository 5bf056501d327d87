"""The diagnosis of a run for its report: each sentence is marked as good, as a warning or as a note."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from ..results.run_folder_reader import RunFolder
from .summary import percent, rate

__all__ = ["Finding", "findings"]


class Finding(NamedTuple):
    """A sentence or two; `good` is None for plain information."""

    good: bool | None
    title: str
    text: str


# By the kind of a sentence, see `hmc_fast.results.diagnosis`.
MARKS = {"fine": (True, "Diagnosis"), "warning": (False, "Warning"), "note": (None, "Note")}
UNMARKED = (None, "Diagnosis")


def findings(run: RunFolder) -> list[Finding]:
    """The run's own diagnosis or, for a folder without one, findings derived from its metrics."""
    sentences = run.metrics.get("diagnosis")
    found = list(_from_metrics(run)) if not isinstance(sentences, list) else _marked(sentences, run.metrics)
    return found if run.has_mh_test else [*found, _NO_TEST]


def _marked(sentences: list[Any], metrics: Any) -> list[Finding]:
    kinds = [*metrics.get("diagnosis_kinds", []), *[None] * len(sentences)]  # None: written by an older version
    return [
        Finding(*MARKS.get(kind, UNMARKED), str(sentence)) for sentence, kind in zip(sentences, kinds, strict=False)
    ]


_NO_TEST = Finding(
    None,
    "No Metropolis test",
    "This sampler accepts every step without a Metropolis-Hastings test, so its step size introduces a bias that "
    "no figure here can reveal: halve --step-size and check whether the scores change.",
)


def _from_metrics(run: RunFolder) -> Iterator[Finding]:
    m = run.metrics
    share, worst = m.get("rhat_function_share_below_1_1"), m.get("rhat_function_max")
    if share is not None:
        text = f"{percent(share)} of the predicted values have an R-hat below 1.1"
        text += f"; the largest is {worst:.2f}. " if worst is not None else ". "
        text += "R-hat compares the variance between chains with that within them and is 1 at convergence. "
        text += (
            "The chains agree well enough to average over them."
            if share >= 0.95
            else "Many values have not converged: try a longer burn-in, more draws or longer trajectories."
        )
        yield Finding(share >= 0.95, "Agreement of the chains", text)
    elif m.get("chains") == 1:
        text = "With a single chain, convergence cannot be checked across chains: run with --chains 4."
        yield Finding(None, "Agreement of the chains", text)
    ess = m.get("ess_function_min")
    if ess is not None:
        text = f"The smallest effective sample size of the predicted values is {ess:,.0f}. "
        text += "That is enough for means." if ess >= 100 else "Take more draws before interpreting the tails."
        yield Finding(ess >= 100, "Effective sample size", text)
    accepted = m.get("acceptance_rate")
    if run.has_mh_test and accepted is not None:
        if accepted < 0.5:
            advice = "is low and wastes gradients: try a smaller --step-size."
        elif accepted > 0.95:
            advice = "is high: a larger --step-size would travel further for the same number of gradients."
        else:
            advice = "is in the useful range."
        yield Finding(0.5 <= accepted <= 0.95, "Acceptance", f"A rate of {rate(accepted)} {advice}")
    divergences = m.get("divergences")
    if divergences is not None:
        text = (
            "No trajectory diverged."
            if divergences == 0
            else f"Diverged trajectories: {divergences:,.0f}. Parts of the posterior may be missing: try a smaller "
            "--step-size or a longer --burn-in."
        )
        yield Finding(divergences == 0, "Divergences", text)
