"""The loop over iterations: step, record the trace, store the draw, average its predictions, checkpoint.

It uses samplers only through their protocol. The host waits for the device once per iteration, never within one.
Where a trajectory takes microseconds, one call makes several iterations, unless they adapt.
"""

import math
import time
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..atomic_files import NotWritten
from ..errors import Interrupted, UserError
from ..results.draw_precision import Spread
from ..results.draw_store import DrawStore
from ..results.row_files import Rows
from ..results.streamed_predictions import StreamedPredictions
from ..results.trace import Plan, Trace
from ..samplers.protocol import Info, Sampler
from ..targets.base import Target
from . import checkpoint
from .expected_work import LearnedWork
from .interrupt import InterruptGuard
from .output import Output
from .profile import Profile
from .progress import Progress

__all__ = ["Diverged", "Interrupted", "Loop"]

# Seconds: an iteration that takes longer is not finished after a signal, but repeated when the run is resumed.
_LONG_ITERATION = 1.0
# Of one call: Ctrl-C, the checkpoint and the display wait for it.
_CALL_SECONDS, _CALL_BYTES = 0.1, 2**24


class Diverged(UserError):
    """A chain that cannot go on."""


@dataclass
class Loop:
    """The state of a run in progress. `run()` completes it from its current iteration.

    Attributes:
        kept: the iterations whose draws are stored; the last of them is the last of the run.
        store: of draws; None until their dtype is known, at the latest when the first is kept.
        spread: of the second half of burn-in, from which that dtype follows; None if it was given.
        trace: of all iterations; the first `iteration` rows are filled.
        predictions: at the test inputs; None without test inputs.
        trace_rows, curve_rows: the files that trace and curve are appended to; None if the run has no directory.
        fingerprint: what determines the draws; goes into the checkpoint.
        checkpoint_seconds: between two checkpoints.
    """

    target: Target
    sampler: Sampler
    state: Any
    plan: Plan
    kept: list[int]
    trace: Trace
    predictions: StreamedPredictions | None
    output: Output
    fingerprint: dict[str, Any]
    checkpoint_seconds: float
    store: DrawStore | None = None
    open_store: Callable[[torch.dtype], DrawStore] | None = None
    spread: Spread | None = None
    trace_rows: Rows | None = None
    curve_rows: Rows | None = None
    iteration: int = 0
    end: int = 0  # the number of iterations; fewer than planned once a chain has diverged
    saved_iteration: int = -1  # of the last checkpoint
    _iterations_per_call: int = 1
    _work: LearnedWork = field(default_factory=LearnedWork)
    _last_seconds: float = math.inf  # of an iteration
    _guard: InterruptGuard = field(default_factory=InterruptGuard)

    def __post_init__(self) -> None:
        self.end = len(self.trace)

    def run(self, *, progress: bool, profile: bool = False) -> None:
        """Raises Interrupted on Ctrl-C, SIGTERM or SIGHUP, after writing a checkpoint: of the end of the current
        call, or of the start of an iteration that takes long."""
        profiler = self._profiler(self.end - self.iteration) if profile else None
        bar = Progress(self.end, self.iteration, progress)
        if self.saved_iteration < 0:
            self.save()
        last_checkpoint = time.monotonic()
        try:
            with InterruptGuard(tells=progress) as self._guard:
                while self.iteration < self.end:
                    self._advance(bar, 1 if profile else self._iterations_per_call)
                    if profiler is not None:
                        profiler.step()
                    if self._guard.requested is not None:
                        self.save()
                        raise Interrupted(self._guard.requested)
                    if time.monotonic() - last_checkpoint > self.checkpoint_seconds:
                        self.save()
                        last_checkpoint = time.monotonic()
        finally:
            bar.close()
        self.draws_so_far.flush()

    def _advance(self, bar: Progress, number: int) -> None:
        """`number` iterations."""
        begin, first = time.perf_counter(), self.iteration
        warming_up = first < self.plan.burn_in
        if number == 1:
            theta, info = self._step(warming_up)
        else:
            steps = self.sampler.steps  # type: ignore[attr-defined]
            self.state, theta, info = steps(self.state, number, warming_up=warming_up)
        rows = slice(first, first + number)
        self.trace.record(rows, info)
        theta = self._before_divergence(first, theta)
        if warming_up and self.spread is not None and first + number > self.plan.burn_in // 2:
            self.spread.add(theta[max(0, self.plan.burn_in // 2 - first) :])
        self._keep(first, theta, bar)
        seconds = time.perf_counter() - begin
        self.trace.seconds[rows] = seconds / number
        self.iteration = min(first + number, self.end)
        self._iterations_per_call, self._last_seconds = self._next_number(number, seconds), seconds / number
        if warming_up:
            recent = self.trace[max(0, self.iteration - 5) : self.iteration]
            if line := self._work.news(self.state, len(self.trace) - self.iteration, recent):
                bar.say(line)
        bar.update("burn-in" if warming_up else "sampling", self._figures, number)

    def _step(self, warming_up: bool) -> tuple[Tensor, Info]:
        """One iteration: theta `(1, C, D)`. A long one is broken off by a signal between two operations, which
        leaves the state unusable: the checkpoint is then of its beginning."""
        is_long = self._last_seconds > _LONG_ITERATION and self.target.path != "loop"  # a loop is one operation
        is_saved = self.saved_iteration == self.iteration or not self.output.is_kept
        kept = checkpoint.on_host(checkpoint.saved_state(self.state)) if is_long and not is_saved else None
        try:
            with self._guard.abandonable(is_long):
                self.state, info = self.sampler.step(self.state, warming_up=warming_up)
        except BaseException:
            if not self._guard.abandoned or self._guard.requested is None:
                raise
            if kept is not None:
                self.save(kept)
            raise Interrupted(self._guard.requested) from None
        return self.state.theta[None], info

    def _next_number(self, number: int, seconds: float) -> int:
        """How many iterations a call may take, if the last one took `seconds` for `number`."""
        warming_up = self.iteration < self.plan.burn_in
        adapting = warming_up and getattr(self.sampler, "adapt", False)
        if self.target.path != "loop" or adapting or not hasattr(self.sampler, "steps"):
            return 1
        bounds = _CALL_SECONDS / seconds * number, _CALL_BYTES / self.state.theta.nbytes, 8 * number
        end = self.plan.burn_in if warming_up else len(self.trace)
        return max(1, min(*map(int, bounds), end - self.iteration))

    def _before_divergence(self, first: int, theta: Tensor) -> Tensor:
        """The iterations of `theta (number, C, D)` before a chain is lost: without a Metropolis test to reject it,
        a state that is not finite never recovers. Raises Diverged if no draw would be left."""
        divergent = self.trace.divergent[first : first + len(theta)].any(1)
        if self.sampler.has_metropolis_test or not divergent.any():
            return theta
        finite = int(divergent.argmax())
        self.end = first + finite + 1
        if self.kept[0] >= first + finite:
            raise Diverged(self.divergence)
        return theta[:finite]

    @property
    def divergence(self) -> str:
        """What has ended the run before its time, in words, with a cure; empty if nothing has."""
        last = self.end - 1
        lost = self.trace.divergent[last] == 1  # NaN before that iteration
        if self.sampler.has_metropolis_test or not lost.any():
            return ""
        chain = int(lost.argmax())
        where = f"at iteration {last}"
        if bool(torch.isfinite(self.state.theta[chain]).all()):
            value = self.trace.log_likelihood[last, chain]
            return (
                f"the log likelihood of chain {chain} is {value:g} {where}, where its parameters are finite: keep "
                "the likelihood defined there (a clamp, or another form of it)"
            )
        return (
            f"chain {chain} of {self.sampler.name} diverged to NaN or infinity {where}: use a smaller step size, "
            "more friction, or an init from 'model' or trained weights"
        )

    @property
    def draws_so_far(self) -> DrawStore:
        assert self.store is not None, "no draw was kept yet"
        return self.store

    def _open_store(self, bar: Progress) -> DrawStore:
        """In half precision where that holds the draws."""
        assert self.open_store is not None
        refusal = None if self.spread is None else self.spread.refusal()
        if refusal is None:
            return self.open_store(torch.float16)
        bar.say(f"draws are stored in {str(self.target.dtype).removeprefix('torch.')}: {refusal}")
        return self.open_store(self.target.dtype)

    def _keep(self, first: int, theta: Tensor, bar: Progress) -> None:
        """Of the iterations from `first` on, which ended at `theta (number, C, D)`, those that are to be kept."""
        begin, end = bisect_left(self.kept, first), bisect_left(self.kept, first + len(theta))
        if begin == end:
            return
        kept = np.asarray(self.kept[begin:end])
        theta = theta[torch.from_numpy(kept - first)] if len(kept) < len(theta) else theta
        self.store = self.store or self._open_store(bar)
        self.store.push(theta)
        if self.predictions is not None:
            before = self.kept[begin - 1] if begin else -1
            for draw, last, iteration in zip(theta, (before, *kept), kept, strict=False):
                self.predictions.add(draw, moved=bool(self.trace.accepted[last + 1 : iteration + 1].any()))

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
            return np.empty((len(self.state.theta), self.draws_so_far.count, 0), np.float32)
        return self.predictions.function_values()

    def rounding_effect(self) -> float:
        """By how much storing the last state changes its predictions at the test inputs: probabilities, or the mean
        in units of the predictive standard deviation. 0 without test inputs, or if that state is lost."""
        theta, dtype = self.state.theta, self.draws_so_far.ring.dtype
        if self.predictions is None or dtype == theta.dtype or self.divergence:
            return 0.0
        largest = torch.finfo(dtype).max
        stored = theta.clamp(-largest, largest).to(dtype).to(theta.dtype)
        return self.predictions.change(theta, stored)

    # --- checkpoint ---

    def not_written(self, error: NotWritten) -> UserError:
        """What to say of a run that the disk has stopped."""
        if self.saved_iteration < 0:
            return error
        return UserError(
            f"{error.path} cannot be written ({error.reason}): the run stopped at iteration {self.iteration}, and "
            f"its checkpoint of iteration {self.saved_iteration} is kept; make room or make it writable, then "
            "resume"
        )

    def save(self, state: dict[str, Tensor] | None = None) -> None:
        """Writes the checkpoint, if the run has a directory. state: of the sampler, if not the current one."""
        if self.trace_rows is None:
            return
        tensors = checkpoint.saved_state(self.state) if state is None else dict(state)
        numbers = {"iteration": self.iteration, "draws": 0, "draw_bytes": 0}
        self.trace_rows.append(self.trace.rows(self.trace_rows.count, self.iteration))
        files = {"trace": self.trace_rows}
        if self.store is not None:
            self.store.flush()
            tensors["store.counts"] = self.store.counts
            numbers |= {"draws": self.store.count, "draw_bytes": self.store.ring.element_size()}
            files["draws"] = self.store.rows
        if self.spread is not None:
            tensors |= {f"spread.{name}": tensor for name, tensor in self.spread.state_dict().items()}
        if self.predictions is not None and self.curve_rows is not None:
            self.predictions.flush()
            self.curve_rows.append(self.predictions.curve(self.curve_rows.count))
            tensors |= self.predictions.tensors()
            files |= {"function_values": self.predictions.values, "curve": self.curve_rows}
        counted = {name: rows.sync() for name, rows in files.items()}  # before the checkpoint that counts them
        self.output.write_checkpoint(checkpoint.Checkpoint(tensors, numbers, self.fingerprint, counted))
        self.saved_iteration = self.iteration

    def restore(self, saved: checkpoint.Checkpoint) -> None:
        """Continues from a checkpoint; the files of rows must already hold what the checkpoint counts."""
        assert self.trace_rows is not None
        checkpoint.restore_state(self.state, saved)
        self.iteration = self.saved_iteration = saved.numbers["iteration"]
        self.trace.restore(self.trace_rows.read())
        last = self.trace.divergent[max(0, self.iteration - 1)]
        if not self.sampler.has_metropolis_test and (last == 1).any():
            self.end = self.iteration
        if self.store is not None and "store.counts" in saved.tensors:
            self.store.counts.copy_(saved.tensors["store.counts"])
        if self.spread is not None:
            prefix = "spread."
            self.spread.load_state_dict(
                {n.removeprefix(prefix): t for n, t in saved.tensors.items() if n.startswith(prefix)}
            )
        if self.predictions is not None and self.curve_rows is not None:
            self.predictions.restore(saved.tensors, self.curve_rows.read())
