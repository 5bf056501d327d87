"""A finished run made without sampling: the files of its folder, of sizes and values that are plausible."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

CHAINS, BURN_IN, DRAWS, TEST, CLASSES = 4, 40, 100, 400, 10


def write_trace(directory: Path, rng: np.random.Generator, mh: bool) -> None:
    """Chains that climbed and then vary alike; their energy changes as much from one draw to the next as it can."""
    rows = []
    for chain in range(CHAINS):
        for iteration in range(BURN_IN + DRAWS):
            error = 0.5 * rng.normal() + 0.12
            prob = min(1.0, float(np.exp(-error)))
            rows.append({
                "chain": chain, "iteration": iteration,
                "phase": "burn_in" if iteration < BURN_IN else "sampling",
                "log_likelihood": -180 + 9 * rng.normal() - 3000 * np.exp(-iteration / 4),
                "log_prior": -2100 + 6 * rng.normal(),
                "kinetic_energy": 1205 + 35 * rng.normal() if mh else np.nan,
                "energy_error": error if mh else np.nan, "accept_prob": prob if mh else np.nan,
                "accepted": int(rng.random() < prob) if mh else 1, "divergent": 0,
                "step_size": 0.01, "leapfrog_steps": 40, "seconds": 0.05 * iteration,
            })  # fmt: skip
    pd.DataFrame(rows).to_csv(directory / "trace.csv", index=False)


def classification_predictions(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Labels drawn from the very probabilities that are predicted, so the run is calibrated."""
    hardness = rng.gamma(1.2, 1.0, size=(TEST, 1))
    logits = rng.normal(size=(1, TEST, CLASSES)) * 4.5 / (0.35 + hardness)
    chains = logits + 0.4 * rng.normal(size=(CHAINS, TEST, CLASSES))
    chain_probs = np.exp(chains) / np.exp(chains).sum(-1, keepdims=True)
    probs = chain_probs.mean(0)
    labels = np.array([rng.choice(CLASSES, p=p) for p in probs])
    entropy = -(probs * np.log(probs)).sum(1)
    epistemic = entropy * rng.beta(2, 5, size=TEST)
    accuracy = float((probs.argmax(1) == labels).mean())
    nll = float(-np.log(probs[np.arange(TEST), labels]).mean())
    draws = np.arange(1, 41) * 10
    return {
        "probs": probs.astype(np.float32), "labels": labels, "epistemic": epistemic,
        "aleatoric": entropy - epistemic, "chain_probs": chain_probs.astype(np.float32),
        "curve_draws": draws, "curve_accuracy": accuracy - 0.03 / np.sqrt(draws / 10),
        "curve_nll": nll + 0.1 / np.sqrt(draws / 10),
        "single_accuracy": accuracy - 0.03 + 0.006 * rng.normal(size=(len(draws), CHAINS)),
        "single_nll": nll + 0.12 + 0.02 * rng.normal(size=(len(draws), CHAINS)),
    }  # fmt: skip


def regression_predictions(rng: np.random.Generator) -> dict[str, np.ndarray]:
    labels = 20 + 6 * rng.normal(size=TEST)
    variance = 1 + 3 * rng.random(TEST)
    draws = np.arange(1, 41) * 10
    return {
        "mean": labels + np.sqrt(variance) * rng.normal(size=TEST), "variance": variance, "labels": labels,
        "curve_draws": draws, "curve_rmse": 1.6 + 0.4 / np.sqrt(draws / 10),
        "curve_log_likelihood": -2 - 0.3 / np.sqrt(draws / 10),
        "single_rmse": 2.05 + 0.05 * rng.normal(size=(len(draws), CHAINS)),
    }  # fmt: skip


def make_run(directory: Path, *, regression: bool = False, mh: bool = True, **config: Any) -> Path:
    """`config`: of its config.json."""
    rng = np.random.default_rng(7)
    directory.mkdir(exist_ok=True)
    write_trace(directory, np.random.default_rng(8), mh)
    predictions = regression_predictions(rng) if regression else classification_predictions(rng)
    np.savez(directory / "predictions.npz", **predictions)
    scores: dict[str, Any] = {"rmse": 1.61, "log_likelihood": -2.02}
    if not regression:
        scores = {"accuracy": float(predictions["curve_accuracy"][-1]), "ece": 0.021, "brier": 0.11}
        scores |= {"nll": float(predictions["curve_nll"][-1])}
        scores |= {"accuracy_single": float(predictions["single_accuracy"].mean())}
        scores |= {"nll_single": float(predictions["single_nll"].mean())}
    metrics = scores | {
        "acceptance_rate": 0.81 if mh else None, "divergences": 0, "rhat_function_max": 1.31,
        "rhat_function_share_below_1_1": 0.97, "ess_function_min": 61.0, "chains": CHAINS, "draws": DRAWS,
        "burn_in": BURN_IN, "params": 2410, "train_size": 1397, "test_size": TEST, "gradients": 22400,
        "gradients_per_s": 812.3, "seconds": 27.6, "draws_bytes": 1_928_000, "peak_memory_bytes": None,
        "device": "cpu", "sampler": "hmc" if mh else "sghmc", "preset": "digits", "seed": 0,
    }  # fmt: skip
    (directory / "metrics.json").write_text(json.dumps(metrics))
    settings = {"step_size": 0.01, "trajectory_length": 0.4, "prior_variance": 0.2, "precision": "fp32"}
    settings |= {"device": "cpu", "git_commit": None, "versions": {"torch": "2.13.0", "hmc_fast": "0.1.0"}}
    (directory / "config.json").write_text(json.dumps(settings | config))
    return directory


def grey_images() -> np.ndarray:
    return np.random.default_rng(3).random((TEST, 1, 8, 8))
