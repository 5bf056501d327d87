"""The loop over iterations: step, read the host's figures once, keep the draw, average its predictions.

Knows samplers only by their protocol. The host waits for the device once per iteration, never inside one.
"""

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..results.draw_store import DrawStore
from ..results.model_average import StreamedAverage
from ..samplers.protocol import Info, Sampler
from ..targets.base import Target
from ..targets.posterior import Posterior
from . import checkpoint
from .interrupt import InterruptGuard
from .profile import Profile
from .progress import Progress

__all__ = ["TRACE_COLUMNS", "Interrupted", "Loop", "Plan"]

TRACE_COLUMNS = (
    "log_likelihood",
    "log_prior",
    "energy_error",
    "accept_prob",
    "accepted",
    "divergent",
    "step_size",
    "leapfrog_steps",
    "seconds",
    "kinetic_energy",
)

# Function values kept per draw for R-hat and ESS: enough test points to speak for the rest.
_MAX_FUNCTION_VALUES = 1000
_FUNCTION_WINDOW = 64  # draws whose function values wait on the device
_CHECKPOINT_INTERVAL = 60.0  # seconds; a checkpoint of a small network takes milliseconds


class Interrupted(KeyboardInterrupt):
    """Ctrl-C; a checkpoint was written if the run has a directory."""


@dataclass(frozen=True)
class Plan:
    """How many iterations, and which of them count."""

    burn_in: int
    draws: int
    thin: int = 1

    def __post_init__(self) -> None:
        for name, value, least in (
            ("burn_in", self.burn_in, 0),
            ("draws", self.draws, 1),
            ("thin", self.thin, 1),
        ):
            if value < least:
                raise UserError(f"{name} {value} must be at least {least}")

    def kept_iterations(self, sampler: Sampler) -> list[int]:
        """The iterations whose draws are stored: of those that the sampler keeps, every thin-th."""
        kept: list[int] = []
        iteration, eligible = self.burn_in, 0
        while len(kept) < self.draws:
            if sampler.keeps(iteration):
                eligible += 1
                if eligible % self.thin == 0:
                    kept.append(iteration)
            iteration += 1
        return kept


@dataclass
class Loop:
    """One run's moving parts. `run()` finishes it, from wherever it stands.

    test: inputs `(T, ...)` and labels `(T,)` whose predictions are averaged as draws arrive, or None.
    """

    target: Target
    sampler: Sampler
    state: Any
    store: DrawStore
    plan: Plan
    average: StreamedAverage | None
    test_inputs: Tensor | None
    checkpoint_directory: Path | None
    fingerprint: dict[str, Any]
    trace_path: Path | None = None  # of a profile
    iteration: int = 0
    seconds: float = 0.0  # spent sampling, over all parts of an interrupted run
    trace: list[Tensor] = field(default_factory=list)  # per iteration float64 (C, len(TRACE_COLUMNS))
    function_draws: list[Tensor] = field(default_factory=list)  # per draw float32 (C, Q)
    _predictions: Tensor | None = None
    _recent_values: list[Tensor] = field(default_factory=list)  # not yet on the host

    def run(self, *, progress: bool) -> None:
        """Raises Interrupted on Ctrl-C, after the iteration under way and a checkpoint."""
        kept = self.plan.kept_iterations(self.sampler)
        total = kept[-1] + 1
        keep = set(kept)
        bar = Progress(total, self.iteration, progress)
        last_checkpoint = time.monotonic()
        profile = None
        if self.trace_path is not None:
            gradients = self.sampler.gradients_per_iteration(self.target)
            profile = Profile(self.trace_path, total - self.iteration, gradients)
        try:
            with InterruptGuard() as guard:
                while self.iteration < total:
                    self._iterate(self.iteration in keep, bar)
                    if profile is not None:
                        profile.step()
                    if guard.requested:
                        self.save()
                        raise Interrupted
                    if time.monotonic() - last_checkpoint > _CHECKPOINT_INTERVAL:
                        self.save()
                        last_checkpoint = time.monotonic()
        finally:
            bar.close()
        self.store.flush()

    def _iterate(self, keep: bool, bar: Progress) -> None:
        begin = time.perf_counter()
        warming_up = self.iteration < self.plan.burn_in
        self.state, info = self.sampler.step(self.state, warming_up=warming_up)
        row = self._read(info)
        if not self.sampler.has_metropolis_test and bool(row[:, TRACE_COLUMNS.index("divergent")].any()):
            chain = int(row[:, TRACE_COLUMNS.index("divergent")].argmax())
            raise UserError(
                f"chain {chain} of {self.sampler.name} left the finite numbers at iteration {self.iteration}: "
                "use a smaller step size, more friction, or an init from 'model' or trained weights"
            )
        if keep:
            self.store.push(self.state.theta)
            self._predict(bool(row[:, TRACE_COLUMNS.index("accepted")].any()))
        elapsed = time.perf_counter() - begin
        row[:, TRACE_COLUMNS.index("seconds")] = elapsed
        self.seconds += elapsed
        self.trace.append(row)
        self.iteration += 1
        bar.update("burn-in" if warming_up else "sampling", self._figures)

    def _read(self, info: Info) -> Tensor:
        """The iteration's figures on the host, float64 `(C, columns)`: the one read per iteration."""
        *columns, kinetic_energy = (torch.as_tensor(value, dtype=torch.float64) for value in info[:-1])
        seconds = torch.zeros_like(kinetic_energy)
        columns += [torch.full_like(seconds, info.num_leapfrog), seconds, kinetic_energy]
        return torch.stack(columns, dim=1).cpu()

    def _predict(self, moved: bool) -> None:
        """Averages the predictions of the current states; those of a repeated state are not recomputed."""
        if self.average is None or self.test_inputs is None:
            return
        assert isinstance(self.target, Posterior)
        if (moved or self._predictions is None) and self.target.predicts_softmax:
            logits = self.target.logits(self.state.theta, self.test_inputs)
            self._predictions = self.average.update_from_logits(logits)
        else:
            if moved or self._predictions is None:
                self._predictions = self.target.predict(self.state.theta, self.test_inputs)
            self.average.update(self._predictions)
        values = self._predictions if self.average.task == "classification" else self._predictions[..., :1]
        values = values.flatten(1)[:, :_MAX_FUNCTION_VALUES]
        self._recent_values.append(values.to(torch.float32, copy=True))  # a view would keep all predictions alive
        if len(self._recent_values) == _FUNCTION_WINDOW:
            self._collect()

    def _collect(self) -> None:
        """Moves function values to the host: once per window, so that no iteration waits for its predictions."""
        if self._recent_values:
            self.function_draws += list(torch.stack(self._recent_values).cpu())
            self._recent_values.clear()

    def _figures(self) -> dict[str, str]:
        """What the progress shows: acceptance, step size, BMA score, gradients per second."""
        recent = torch.stack(self.trace[-20:])
        figures = {}
        if self.sampler.has_metropolis_test:
            figures["accept"] = f"{recent[..., TRACE_COLUMNS.index('accept_prob')].mean():.2f}"
        else:
            figures["log-lik"] = f"{recent[-1, :, 0].mean():.4g}"
        figures["step"] = f"{recent[-1, 0, TRACE_COLUMNS.index('step_size')]:.2e}"
        if self.average is not None and self.average.count:
            score = float(self.average.curve[self.average.count - 1, 0])
            if not math.isnan(score):
                figures["BMA acc" if self.average.task == "classification" else "BMA rmse"] = f"{score:.4f}"
        steps = recent[..., TRACE_COLUMNS.index("leapfrog_steps")].sum()
        figures["grad/s"] = f"{steps / recent[:, 0, TRACE_COLUMNS.index('seconds')].sum():.3g}"
        return figures

    # --- checkpoint ---

    def save(self) -> None:
        """Writes the checkpoint, if the run has a directory."""
        if self.checkpoint_directory is None:
            return
        self.store.flush()
        self._collect()
        extra = {"trace": torch.stack(self.trace), "store.counts": self.store.counts}
        if self.average is not None and self.average.count:
            extra |= {
                "average.sums": self.average.sums,
                "average.second": self.average.second,
                "average.curve": self.average.curve,
                "function_draws": torch.stack(self.function_draws),
            }
            assert self._predictions is not None
            extra["predictions"] = self._predictions
        numbers: dict[str, int | float] = {
            "iteration": self.iteration,
            "draws": self.store.count,
            "seconds": self.seconds,
        }
        checkpoint.write(self.checkpoint_directory, self.state, extra, numbers, self.fingerprint)

    def restore(self, saved: checkpoint.Checkpoint) -> None:
        """Continues from a checkpoint; the store must already hold the draws that it counts."""
        checkpoint.restore_state(self.state, saved)
        self.iteration = int(saved.numbers["iteration"])
        self.seconds = float(saved.numbers["seconds"])
        self.trace = list(saved.tensors["trace"])
        self.store.counts.copy_(saved.tensors["store.counts"])
        if self.average is not None and "average.sums" in saved.tensors:
            self.average.sums.copy_(saved.tensors["average.sums"])
            self.average.second.copy_(saved.tensors["average.second"])
            self.average.curve.copy_(saved.tensors["average.curve"])
            self.average.count = self.store.count
            self.function_draws = list(saved.tensors["function_draws"])
            self._predictions = saved.tensors["predictions"].to(self.target.device)

    def function_values(self) -> np.ndarray:
        """Predicted values per draw, float32 `(C, S, Q)`; Q = 0 without test inputs."""
        self._collect()
        if not self.function_draws:
            return np.empty((len(self.state.theta), self.store.count, 0), np.float32)
        return torch.stack(self.function_draws, dim=1).numpy()
