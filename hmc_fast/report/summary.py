"""The text and numbers of a report: headline, tiles, cost and settings."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..results.run_folder_reader import RunFolder

__all__ = ["cost", "coverage", "flat_settings", "headline", "percent", "rate", "subline", "tiles"]


def headline(run: RunFolder) -> str:
    """One sentence: the score of the model average, and how it was sampled."""
    m = run.metrics
    if "accuracy" in m:
        score = f"BMA accuracy {percent(m['accuracy'])}"
        if "accuracy_single" in m:
            score += f" against {percent(m['accuracy_single'])} for a single draw"
    elif "rmse" in m:
        score = f"BMA RMSE {m['rmse']:.3g} in the units of the target"
    else:
        score = "A finished run, without a test score"
    sampling = []
    if "chains" in m and "draws" in m:
        sampling.append(f"{_count(m['chains'], 'chain')} × {_count(m['draws'], 'draw')}")
    if not run.has_mh_test:
        sampling.append("no Metropolis test")
    elif "acceptance_rate" in m:
        sampling.append(f"acceptance {rate(m['acceptance_rate'])}")
    if "divergences" in m:
        sampling.append(_count(m["divergences"], "divergence"))
    return f"{score}; {', '.join(sampling)}." if sampling else f"{score}."


def subline(run: RunFolder) -> str:
    m = run.metrics
    parts = [str(m["sampler"]).upper() if "sampler" in m else "", str(m.get("device", ""))]
    parts.append(f"{m['params']:,} parameters" if "params" in m else "")
    if "train_size" in m and "test_size" in m:
        parts.append(f"{m['train_size']:,} training and {m['test_size']:,} test examples")
    parts.append(_duration(m["seconds"]) if "seconds" in m else "")
    parts.append(f"seed {m['seed']}" if "seed" in m else "")
    return " · ".join(part for part in parts if part)


def tiles(run: RunFolder) -> list[tuple[str, str, str]]:
    """(label, value, note) of the most important numbers."""
    m = run.metrics
    found = []

    def tile(key: str, label: str, form: Callable[[Any], str], note: str) -> None:
        if key in m:
            found.append((label, form(m[key]), note))

    one = f"single draw {percent(m['accuracy_single'])}" if "accuracy_single" in m else "of the model average"
    tile("accuracy", "BMA accuracy", percent, one)
    one = f"nats; single draw {m['nll_single']:.3f}" if "nll_single" in m else "nats per example"
    tile("nll", "NLL", "{:.3f}".format, one)
    tile("ece", "ECE", "{:.3f}".format, "calibration error, 0 is best")
    tile("brier", "Brier score", "{:.3f}".format, "0 is best")
    tile("rmse", "RMSE", "{:.3g}".format, "units of the target")
    tile("log_likelihood", "Log likelihood", lambda v: f"{v:.3g}".replace("-", "−"), "nats per example")
    if run.has_mh_test:
        tile("acceptance_rate", "Acceptance", rate, "of proposals, after burn-in")
    tile("divergences", "Divergences", "{:,.0f}".format, "diverged trajectories")
    tile("rhat_function_share_below_1_1", "R-hat below 1.1", percent, "of predicted values")
    tile("ess_function_min", "Smallest ESS", "{:,.0f}".format, "over predicted values")
    return found


def coverage(run: RunFolder) -> list[str]:
    """Fractions of labels within the central 50, 90 and 95 % Gaussian predictive intervals."""
    p = run.predictions
    z = np.abs(p["labels"] - p["mean"]) / np.sqrt(np.maximum(p["variance"], 1e-300))
    return [percent((z < edge).mean()) for edge in (0.6745, 1.6449, 1.9600)]


def cost(run: RunFolder) -> list[tuple[str, str]]:
    m = run.metrics
    forms: dict[str, tuple[str, Callable[[Any], str]]] = {
        "seconds": ("Wall time", _duration),
        "gradients": ("Gradient evaluations", "{:,.0f}".format),
        "gradients_per_s": ("Gradients per second", lambda value: _scaled(value, "")),
        "draws_bytes": ("Stored draws", lambda value: _scaled(value, "B")),
        "peak_memory_bytes": ("Peak memory", lambda value: _scaled(value, "B")),
    }
    rows = [(label, form(m[key])) for key, (label, form) in forms.items() if key in m]
    if {"seconds", "chains", "draws"} <= m.keys() and m["chains"] * m["draws"] > 0:
        rows.insert(1, ("Time per draw", _duration(m["seconds"] / (m["chains"] * m["draws"]))))
    return rows


def flat_settings(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """(name, value) of all settings; nested names are joined with dots."""
    rows: list[tuple[str, str]] = []
    for key, value in config.items():
        if isinstance(value, Mapping):
            rows += flat_settings(value, f"{prefix}{key}.")
        else:
            text = f"{value:.6g}" if isinstance(value, float) else str(value)
            rows.append((f"{prefix}{key}", "–" if value is None else text))
    return rows


def percent(share: float) -> str:
    return f"{100 * share:.1f}\u202f%"


def rate(share: float) -> str:
    """A probability formatted as .81; 1.00 keeps its leading digit."""
    return f"{share:.2f}".removeprefix("0")


def _scaled(value: float, unit: str, steps: str = " kMGT") -> str:
    """Formats 12,400,000 and "B" as 12.4 MB; numbers below 1000 get no prefix."""
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
