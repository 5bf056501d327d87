"""Writes a run's scores, `predictions.npz` and `metrics.json`, and describes the machine for `config.json`.
`run_folder_reader` reads them back."""

import platform
import resource
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..atomic_files import write_json, written_atomically
from ..compute.device import hardware
from ..errors import UserError
from .predictions import Classification, Raw, Regression
from .run import Run

__all__ = ["describe_environment", "metrics", "write_predictions", "write_scores"]


def write_scores(
    directory: Path, preset: str, run: Run, labels: np.ndarray, shift: float, scale: float
) -> dict[str, Any]:
    """Writes `predictions.npz` and `metrics.json`; returns the metrics.

    Args:
        preset: named in the metrics. labels: `(T,)` of the test inputs, in the units of the target's own labels.
        shift, scale: for regression, y = shift + scale * standardised y in original units; otherwise unused.

    Raises:
        UserError: the run has no test inputs.
    """
    write_predictions(directory / "predictions.npz", run, labels, shift, scale)
    scores = {"preset": preset} | metrics(run, labels, shift, scale)
    write_json(directory / "metrics.json", scores)
    return scores


def _tested(run: Run) -> tuple[Classification | Regression, np.ndarray]:
    """The average over the test inputs, and its curve."""
    if run.test is None or run.curve is None:
        raise UserError("a run without test inputs has no scores: pass test to hmc_fast.run")
    if isinstance(run.test, Raw):
        raise UserError("a likelihood of your own has no scores: use run.test, its raw predictions")
    return run.test, run.curve


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Versions, the device's name, and the commit of the working directory, if it is a git checkout."""
    versions = {"python": platform.python_version()}
    for package in ("hmc_fast", "torch", "triton", "numpy"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {"versions": versions, "device": hardware(device), "git_commit": _git_commit()}


def _git_commit() -> str | None:
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def write_predictions(path: Path, run: Run, labels: np.ndarray, shift: float, scale: float) -> None:
    """Writes `predictions.npz`; regression in the original units, y = shift + scale * standardised y."""
    (test, curve), chains = _tested(run), run.num_chains
    pooled, single_score, single_loss = np.split(curve, (2, 2 + chains), axis=1)
    arrays: dict[str, np.ndarray] = {"labels": labels, "curve_draws": chains * np.arange(1, len(curve) + 1)}
    if isinstance(test, Classification):
        arrays |= {
            "probs": test.probs.astype(np.float32),
            "chain_probs": test.chain_probs.astype(np.float32),
            "epistemic": test.epistemic,
            "aleatoric": test.aleatoric,
            "curve_accuracy": pooled[:, 0],
            "curve_nll": pooled[:, 1],
            "single_accuracy": single_score,
            "single_nll": single_loss,
        }
    else:
        test = test.rescaled(shift, scale)
        arrays |= {
            "labels": labels * scale + shift,
            "mean": test.mean,
            "variance": test.variance,
            "epistemic": test.epistemic,
            "aleatoric": test.aleatoric,
            "chain_mean": test.chain_mean,
            "curve_rmse": pooled[:, 0] * scale,
            "curve_log_likelihood": pooled[:, 1] - np.log(scale),
            "single_rmse": single_score * scale,
            "single_log_likelihood": single_loss - np.log(scale),
        }
    with written_atomically(path) as temporary:
        np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]


def metrics(run: Run, labels: np.ndarray, shift: float, scale: float) -> dict[str, Any]:
    """Scores of the model average and of single draws, convergence diagnostics, cost; None if undefined.

    One gradient is one evaluation for one chain, on the full data or on a minibatch.
    """
    (test, curve), chains = _tested(run), run.num_chains
    single = curve[:, 2:]
    if isinstance(test, Regression):
        test = test.rescaled(shift, scale)
        original = labels * scale + shift
        scores = {
            "rmse": test.rmse(original),
            "log_likelihood": test.log_likelihood(original),
            "log_likelihood_mixture": None if test.log_density is None else float(test.log_density.mean()),
            "rmse_single": float(single[:, :chains].mean() * scale),
            "log_likelihood_single": float(single[:, chains:].mean() - np.log(scale)),
        }
    else:
        scores = {
            "accuracy": test.accuracy(labels),
            "nll": test.nll(labels),
            "ece": test.ece(labels),
            "brier": test.brier(labels),
            "accuracy_single": float(single[:, :chains].mean()),
            "nll_single": float(single[:, chains:].mean()),
        }
    evidence = run.diagnostics.evidence
    moving = evidence.rhat
    e_bfmi, temperature = run.diagnostics.e_bfmi, run.diagnostics.kinetic_temperature
    e_bfmi = None if e_bfmi is None else e_bfmi[np.isfinite(e_bfmi)]
    return {
        **scores,
        "acceptance_rate": run.acceptance_rate,
        "divergences": run.divergences,
        "rhat_function_max": float(moving.max()) if len(moving) else None,
        "rhat_function_share_below_1_1": float((moving < 1.1).mean()) if len(moving) else None,
        "ess_function_min": evidence.ess if len(moving) else None,
        "e_bfmi_min": float(e_bfmi.min()) if e_bfmi is not None and len(e_bfmi) else None,
        "kinetic_temperature": None if temperature is None else float(temperature.mean()),
        "diagnosis": (diagnosis := run.diagnosis()),
        "diagnosis_kinds": [sentence.kind for sentence in diagnosis],
        "chains": chains,
        "draws": len(run.draws),
        "burn_in": run.plan.burn_in,
        "params": run.target.num_params,
        "train_size": run.target.num_data,
        "test_size": len(labels),
        "gradients": run.gradients,
        "gradients_per_s": run.gradients / run.seconds,
        "seconds": run.seconds,
        "draws_bytes": int(run.draws.nbytes),
        "draws_overflowed": run.rounding[0],
        "draws_subnormal": run.rounding[1],
        "draws_dtype": str(run.draws.dtype),
        "rounding_effect": run.rounding_effect,
        "peak_memory_bytes": _peak_memory(run.target.device),
        "device": str(run.target.device),
        "sampler": run.sampler.name,
        "seed": run.seed,
    }


def _peak_memory(device: torch.device) -> int:
    """Peak memory allocated on a CUDA device; on a CPU, the peak resident set size of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
