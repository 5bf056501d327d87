"""The loop over iterations: step, record the trace, store the draw, average its predictions, checkpoint.

It uses samplers only through their protocol. The host waits for the device once per iteration, never within one.
"""

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import UserError
from ..results.draw_store import DrawStore
from ..results.streamed_predictions import StreamedPredictions
from ..results.trace import Plan, Trace
from ..samplers.protocol import Sampler
from ..targets.base import Target
from . import checkpoint
from .interrupt import InterruptGuard
from .output import Output
from .profile import Profile
from .progress import Progress

__all__ = ["Interrupted", "Loop"]

_CHECKPOINT_INTERVAL = 60.0  # seconds; a checkpoint of a small network takes milliseconds


class Interrupted(KeyboardInterrupt):
    """Ctrl-C; a checkpoint was written if the run has a directory."""


@dataclass
class Loop:
    """The state of a run in progress. `run()` completes it from its current iteration.

    Attributes:
        kept: the iterations whose draws are stored; the last of them is the last of the run.
        trace: of all iterations; the first `iteration` rows are filled.
        predictions: at the test inputs; None without test inputs.
        fingerprint: what determines the draws; goes into the checkpoint.
    """

    target: Target
    sampler: Sampler
    state: Any
    plan: Plan
    kept: list[int]
    store: DrawStore
    trace: Trace
    predictions: StreamedPredictions | None
    output: Output
    fingerprint: dict[str, Any]
    iteration: int = 0

    def run(self, *, progress: bool, profile: bool = False) -> None:
        """Raises Interrupted on Ctrl-C, after finishing the current iteration and writing a checkpoint."""
        total, keep = len(self.trace), set(self.kept)
        profiler = self._profiler(total - self.iteration) if profile else None
        bar = Progress(total, self.iteration, progress)
        last_checkpoint = time.monotonic()
        try:
            with InterruptGuard() as guard:
                while self.iteration < total:
                    self._iterate(self.iteration in keep, bar)
                    if profiler is not None:
                        profiler.step()
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
        self.trace.record(self.iteration, info)
        self._refuse_divergence()
        if keep:
            self._keep()
        self.trace.seconds[self.iteration] = time.perf_counter() - begin
        self.iteration += 1
        bar.update("burn-in" if warming_up else "sampling", self._figures)

    def _refuse_divergence(self) -> None:
        """Without a Metropolis test to reject it, a state that is not finite never recovers."""
        divergent = self.trace.divergent[self.iteration]
        if not self.sampler.has_metropolis_test and divergent.any():
            raise UserError(
                f"chain {divergent.argmax()} of {self.sampler.name} diverged to NaN or infinity at iteration "
                f"{self.iteration}: use a smaller step size, more friction, or an init from 'model' or trained "
                "weights"
            )

    def _keep(self) -> None:
        self.store.push(self.state.theta)
        if self.predictions is not None:
            self.predictions.add(self.state.theta, moved=bool(self.trace.accepted[self.iteration].any()))

    def _profiler(self, iterations: int) -> Profile:
        return Profile(self.output.profile_path, iterations, self.sampler.gradients_per_iteration(self.target))

    def _figures(self) -> dict[str, str]:
        """The figures in the progress display: acceptance, step size, BMA score, gradients per second."""
        recent = self.trace[max(0, self.iteration - 20) : self.iteration]
        figures = {}
        if self.sampler.has_metropolis_test:
            figures["accept"] = f"{recent.accept_prob.mean():.2f}"
        else:
            figures["log-lik"] = f"{recent.log_likelihood[-1].mean():.4g}"
        figures["step"] = f"{recent.step_size[-1, 0]:.2e}"
        if self.predictions is not None and not math.isnan(score := self.predictions.score()):
            figures["BMA acc" if self.target.task == "classification" else "BMA rmse"] = f"{score:.4f}"
        figures["grad/s"] = f"{recent.leapfrog_steps.sum() / recent.seconds[:, 0].sum():.3g}"
        return figures

    @property
    def seconds(self) -> float:
        """Time spent sampling, summed over all parts of an interrupted run."""
        return float(self.trace.seconds[: self.iteration, 0].sum())

    def function_values(self) -> np.ndarray:
        """Predicted values of each draw, float32 `(C, S, Q)`; Q = 0 without test inputs."""
        if self.predictions is None:
            return np.empty((len(self.state.theta), self.store.count, 0), np.float32)
        return self.predictions.function_values()

    # --- checkpoint ---

    def save(self) -> None:
        """Writes the checkpoint, if the run has a directory."""
        self.store.flush()
        tensors = checkpoint.saved_state(self.state) | self.trace[: self.iteration].tensors()
        tensors["store.counts"] = self.store.counts
        if self.predictions is not None:
            tensors |= self.predictions.tensors()
        numbers = {"iteration": self.iteration, "draws": self.store.count}
        self.output.write_checkpoint(checkpoint.Checkpoint(tensors, numbers, self.fingerprint))

    def restore(self, saved: checkpoint.Checkpoint) -> None:
        """Continues from a checkpoint; the store must already contain the draws that the checkpoint counts."""
        checkpoint.restore_state(self.state, saved)
        self.iteration = saved.numbers["iteration"]
        self.trace.restore(saved.tensors)
        self.store.counts.copy_(saved.tensors["store.counts"])
        if self.predictions is not None:
            self.predictions.restore(saved.tensors)
