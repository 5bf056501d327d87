"""The words and numbers of a report, and the one HTML file that carries them with their figures."""

import base64
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import Run
from .figures import write_figures

__all__ = ["Finding", "checked_names", "findings", "render", "write_html"]


class Finding(NamedTuple):
    """One sentence or two of the diagnosis; `good` is None for plain information."""

    good: bool | None
    title: str
    text: str


def write_html(run: Run, images: np.ndarray | None, class_names: Sequence[str], images_missing: str = "") -> Path:
    names = checked_names(run, images, class_names)
    figures = {
        name: base64.b64encode(path.read_bytes()).decode("ascii")
        for name, path in write_figures(run, images, names).items()
    }
    page = render(
        files(__package__).joinpath("report.html.jinja").read_text(encoding="utf-8"),
        preset=str(run.metrics.get("preset", "run")),
        headline=headline(run),
        subline=_subline(run),
        tiles=_tiles(run),
        figures=figures,
        coverage=None if run.is_classification else _coverage(run),
        findings=findings(run),
        cost=cost(run),
        settings=flat_settings(run.config),
        images_missing=images_missing,
    )
    path = run.directory / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def render(template: str, **values: Any) -> str:
    """An HTML page from a jinja template, in the look of all pages here (`css`)."""
    import jinja2
    from markupsafe import Markup  # jinja2's own

    css = files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(template).render(css=Markup(css), **values)


def checked_names(run: Run, images: np.ndarray | None, class_names: Sequence[str]) -> list[str]:
    """K class names short enough for a figure, numbers if none are given; checks that all fit the run."""
    from ..errors import UserError

    points = len(run.predictions["labels"])
    where = run.directory / "predictions.npz"
    if images is not None and len(images) != points:
        raise UserError(f"{len(images)} images do not fit the {points} test points of {where}: pass one each")
    if not run.is_classification:
        return []
    classes = run.predictions["probs"].shape[1]
    if class_names and len(class_names) != classes:
        raise UserError(
            f"{len(class_names)} class names do not fit the {classes} classes of {where}: name each class"
        )
    short = (" ".join(str(name).split()) for name in class_names)
    return [name if len(name) <= 14 else f"{name[:13]}…" for name in short] or [
        str(label) for label in range(classes)
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.1f}\u202f%"


def _rate(share: float) -> str:
    """A probability as .81; 1.00 keeps its digit."""
    return f"{share:.2f}".removeprefix("0")


def _scaled(value: float, unit: str, steps: str = " kMGT") -> str:
    """12,400,000 and "B" give 12.4 MB; below 1000 the plain number."""
    index = 0
    while abs(value) >= 999.5 and index < len(steps) - 1:
        value, index = value / 1000, index + 1
    digits = f"{value:.3g}"
    return f"{digits}\u202f{steps[index].strip()}{unit}".rstrip("\u202f")


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.3g}\u202fs"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}\u202fh {minutes}\u202fmin" if hours else f"{minutes}\u202fmin {rest}\u202fs"


def _count(number: float, noun: str) -> str:
    return f"{'no' if number == 0 else f'{number:,.0f}'} {noun}{'' if number == 1 else 's'}".replace(" ", "\u00a0")


def headline(run: Run) -> str:
    m = run.metrics
    if "accuracy" in m:
        score = f"BMA accuracy {_percent(m['accuracy'])}"
        if "accuracy_single" in m:
            score += f" against {_percent(m['accuracy_single'])} for a single draw"
    elif "rmse" in m:
        score = f"BMA error (RMSE) {m['rmse']:.3g} in the units of the target"
    else:
        score = "A finished run, without a test score"
    chains = ""
    if "chains" in m and "draws" in m:
        chains = f"{_count(m['chains'], 'chain')} × {_count(m['draws'], 'draw')}"
    rate = f"acceptance {_rate(m['acceptance_rate'])}" if run.has_mh_test and "acceptance_rate" in m else ""
    if not run.has_mh_test:
        rate = "no accept/reject test"
    divergences = _count(m["divergences"], "divergence") if "divergences" in m else ""
    sampling = ", ".join(part for part in (chains, rate, divergences) if part)
    return f"{score}; {sampling}." if sampling else f"{score}."


def _subline(run: Run) -> str:
    m = run.metrics
    parts = [str(m["sampler"]).upper() if "sampler" in m else "", str(m.get("device", ""))]
    parts.append(f"{m['params']:,} parameters" if "params" in m else "")
    if "train_size" in m and "test_size" in m:
        parts.append(f"{m['train_size']:,} training and {m['test_size']:,} test examples")
    parts.append(_duration(m["seconds"]) if "seconds" in m else "")
    parts.append(f"seed {m['seed']}" if "seed" in m else "")
    return " · ".join(part for part in parts if part)


def _tiles(run: Run) -> list[tuple[str, str, str]]:
    """(label, value, note) of the numbers worth a glance."""
    m = run.metrics
    tiles = []

    def tile(key: str, label: str, form: Any, note: str = "") -> None:
        if key in m:
            tiles.append((label, form(m[key]), note))

    one = f"one draw {_percent(m['accuracy_single'])}" if "accuracy_single" in m else "of the average"
    tile("accuracy", "BMA accuracy", _percent, one)
    one = f"nats; one draw {m['nll_single']:.3f}" if "nll_single" in m else "nats per example"
    tile("nll", "NLL", "{:.3f}".format, one)
    tile("ece", "ECE", "{:.3f}".format, "calibration error, 0 is best")
    tile("brier", "Brier score", "{:.3f}".format, "0 is best")
    tile("rmse", "RMSE", "{:.3g}".format, "units of the target")
    tile("log_likelihood", "Log likelihood", lambda v: f"{v:.3g}".replace("-", "−"), "nats per example")
    if run.has_mh_test:
        tile("acceptance_rate", "Acceptance", _rate, "of proposals, after burn-in")
    tile("divergences", "Divergences", "{:,.0f}".format, "trajectories that failed")
    tile("rhat_function_share_below_1_1", "R-hat below 1.1", _percent, "of function values")
    tile("ess_function_min", "Smallest ESS", "{:,.0f}".format, "effective draws, worst value")
    return tiles


def _coverage(run: Run) -> list[str]:
    """Shares of the labels inside the central 50, 90 and 95 % normal intervals of their predictions."""
    p = run.predictions
    z = np.abs(p["labels"] - p["mean"]) / np.sqrt(np.maximum(p["variance"], 1e-300))
    return [_percent((z < edge).mean()) for edge in (0.6745, 1.6449, 1.9600)]


def findings(run: Run) -> list[Finding]:
    """The diagnosis in plain words, each with what to try: the run's own sentences, or for a folder without
    them what follows from its metrics."""
    m = run.metrics
    found = []
    if isinstance(m.get("diagnosis"), list):
        found = [_marked(str(sentence)) for sentence in m["diagnosis"]]
        return found if run.has_mh_test else [*found, _no_test()]
    share, worst = m.get("rhat_function_share_below_1_1"), m.get("rhat_function_max")
    if share is not None:
        good = share >= 0.95
        text = f"{_percent(share)} of the predicted values have an R-hat below 1.1"
        text += f"; the largest is {worst:.2f}. " if worst is not None else ". "
        text += "R-hat compares the spread between chains with the spread inside them, and 1 means that all "
        text += "tell the same story. "
        text += "Here they mostly do, so their average can be trusted." if good else (
            "Here many do not yet: try a longer burn-in, more draws or a longer trajectory."
        )  # fmt: skip
        found.append(Finding(good, "Agreement of the chains", text))
    elif m.get("chains") == 1:
        text = "One chain cannot be compared with others; --chains 4 would show whether they agree."
        found.append(Finding(None, "Agreement of the chains", text))
    ess = m.get("ess_function_min")
    if ess is not None:
        text = f"The slowest predicted value is worth {_count(ess, 'independent draw')}. "
        text += "That is enough for its mean." if ess >= 100 else "Take more draws before you read its tails."
        found.append(Finding(ess >= 100, "Effective draws", text))
    rate = m.get("acceptance_rate")
    if not run.has_mh_test:
        found.append(_no_test())
    elif rate is not None:
        if rate < 0.5:
            advice = "is low: gradients go to waste. Try a smaller --step-size."
        elif rate > 0.95:
            advice = "is high: a larger --step-size would travel as far for fewer gradients."
        else:
            advice = "is in the useful range."
        found.append(Finding(0.5 <= rate <= 0.95, "Acceptance", f"A rate of {_rate(rate)} {advice}"))
    divergences = m.get("divergences")
    if divergences is not None:
        text = "No trajectory lost its energy." if divergences == 0 else (
            f"Lost trajectories: {divergences:,.0f}. Parts of the posterior may be missing; try a smaller "
            "--step-size or a longer --burn-in."
        )  # fmt: skip
        found.append(Finding(divergences == 0, "Divergences", text))
    return found


def _marked(sentence: str) -> Finding:
    """A sentence of `Run.diagnosis`: praise, a mere note, or something to look at."""
    if sentence.startswith("No check found anything wrong"):
        return Finding(True, "Diagnosis", sentence)
    if "it is harmless" in sentence or sentence.startswith("One chain cannot be compared"):
        return Finding(None, "Note", sentence)
    return Finding(False, "Look here", sentence)


def _no_test() -> Finding:
    text = "This sampler keeps every step without a Metropolis-Hastings test, so its step size "
    text += "leaves a bias that no figure here can show: halve --step-size and see whether scores move."
    return Finding(None, "No accept/reject test", text)


def cost(run: Run) -> list[tuple[str, str]]:
    m = run.metrics
    forms = {
        "seconds": ("Wall time", _duration),
        "gradients": ("Gradients of the whole run", lambda value: f"{value:,.0f}"),
        "gradients_per_s": ("Gradients per second", lambda value: _scaled(value, "")),
        "draws_bytes": ("Stored draws", lambda value: _scaled(value, "B")),
        "peak_memory_bytes": ("Peak memory", lambda value: _scaled(value, "B")),
    }
    rows = [(label, form(m[key])) for key, (label, form) in forms.items() if key in m]
    if {"seconds", "chains", "draws"} <= m.keys() and m["chains"] * m["draws"] > 0:
        rows.insert(1, ("Time per draw", _duration(m["seconds"] / (m["chains"] * m["draws"]))))
    return rows


def flat_settings(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in config.items():
        if isinstance(value, Mapping):
            rows += flat_settings(value, f"{prefix}{key}.")
        else:
            text = f"{value:.6g}" if isinstance(value, float) else str(value)
            rows.append((f"{prefix}{key}", "–" if value is None else text))
    return rows
