"""What determines a run's draws: a run resumes with the very same, or is refused.

Functions (a model's forward, a likelihood, an output) have no name that could be compared, so their values are, at
a few points. What changes the rounding alone, such as torch's version, is told instead of refused.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..compute.device import hardware
from ..compute.random_streams import INITIAL
from ..errors import UserError
from ..kernels import ops
from ..kernels.ops import Counter
from ..messages import tell
from ..results.streamed_predictions import StreamedPredictions
from ..results.trace import Plan
from ..samplers.protocol import Sampler
from ..targets.base import Target
from ..targets.fingerprint import digest, printed
from .ensemble import Training

__all__ = ["assert_same_run", "fingerprint"]

_VALUES = ("log likelihoods", "prior density")  # of functions: compared up to rounding
_MACHINE = "machine"
_CHAINS, _EXAMPLES = 2, 8  # at which log likelihoods are compared


def fingerprint(
    target: Target,
    sampler: Sampler,
    plan: Plan,
    theta: Tensor,
    seed: int,
    draw_dtype: "torch.dtype | str",
    predictions: StreamedPredictions | None,
    training: Training | None,
) -> dict[str, Any]:
    """By name, as JSON values. theta: the initial states `(C, D)`. training: by which they were made."""
    settings = {
        f"{sampler.name} {name}": digest(value) if isinstance(value, Tensor) else printed(value)
        for name, value in vars(sampler).items()
    }
    return {
        "sampler": sampler.name,
        **settings,
        **dataclasses.asdict(plan),
        "chains": len(theta),
        "seed": seed,
        "draw_dtype": str(draw_dtype),
        **target.fingerprint(),
        "training": None if training is None else training.fingerprint(),
        "initial parameters": digest(theta),
        "log likelihoods": _log_likelihoods(target, theta),
        "test inputs": None if predictions is None else digest(*predictions.tested[:-1]),
        "test labels": None if predictions is None else digest(*predictions.tested[-1:]),
        _MACHINE: _machine(target.device),
    }


def _log_likelihoods(target: Target, theta: Tensor) -> list[float] | None:
    """Of a few examples near the initial states, where no parameter is 0. None if examples change."""
    if target.stream is not None and target.stream.changes:
        return None
    part = target.first_examples(min(_EXAMPLES, target.num_data, target.micro_batch_size))
    rows = theta[:_CHAINS]
    step = torch.zeros(1, dtype=torch.int64, device=theta.device)
    noise = ops.uniforms(Counter(0, INITIAL, step), *rows.shape, impl="torch").to(theta.dtype)
    log_lik = theta.new_empty(len(rows), part.num_data)
    part.log_likelihood(rows + 0.2 * noise - 0.1, log_lik)
    return log_lik.flatten().tolist()


def _machine(device: torch.device) -> dict[str, str]:
    from .. import __version__

    threads = {"threads": str(torch.get_num_threads())} if device.type == "cpu" else {}
    return {"hmc_fast": __version__, "torch": str(torch.__version__), "device": hardware(device), **threads}


def assert_same_run(stored: Mapping[str, Any], given: Mapping[str, Any], directory: Path) -> None:
    """Compares the fingerprint of the run in `directory` with that of the one to continue it.

    Raises:
        UserError: they differ in what determines the draws; names the first difference.
    """
    given = json.loads(json.dumps(given))
    for name, value in given.items():
        if name not in stored:
            raise UserError(f"the checkpoint in {directory} is of an earlier version of hmc_fast: start a new run")
        if name != _MACHINE and not _same(name, stored[name], value):
            raise UserError(
                f"the checkpoint in {directory} was made with {_difference(name, stored[name], value)}: resume "
                "with the same settings, or choose another directory"
            )
    here = given[_MACHINE]
    changed = [f"{n} {was}, now {here.get(n)}" for n, was in stored[_MACHINE].items() if was != here.get(n)]
    if changed:
        tell(
            f"the run in {directory} was computed with {'; '.join(changed)}: its next draws are as valid, but "
            "rounding may make them differ from those of an unbroken run"
        )


def _same(name: str, stored: Any, value: Any) -> bool:
    if name not in _VALUES or stored is None or value is None or len(stored) != len(value):
        return bool(stored == value)
    return np.allclose(stored, value, rtol=1e-4, atol=1e-6, equal_nan=True)


def _difference(name: str, stored: Any, value: Any) -> str:
    """In words."""
    if name == "log likelihoods":
        return "a model, likelihood or output that gives other log likelihoods"
    if name == "training" and None not in (stored, value):
        return "other settings of training"
    if name == "model" and isinstance(stored, list) and isinstance(value, list):
        lines = zip([*stored, "nothing"], [*value, "nothing"], strict=False)
        then, now = next((a, b) for a, b in lines if a != b)
        return f"another model, {then.strip()!r} where this one has {now.strip()!r}"
    if name == "training" or any(isinstance(v, str) and re.fullmatch("[0-9a-f]{16,}", v) for v in (stored, value)):
        return f"other {name}" if None not in (stored, value) else f"{'no' if stored is None else 'some'} {name}"
    return f"{name} {stored!r}, not {value!r}"
