"""Execution choices made before a run: whether to compile, and how to batch chains. The reasons are printed.

The same seed must give the same draws, and both choices change rounding. Whether to try an alternative therefore
depends on counted work, never on a clock, and measured times are stored in a file and reused.
"""

import hashlib
import math
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ..atomic_files import write_json
from ..cache_folder import cache_folder
from ..checked_files import Unreadable, read_json
from ..compute.capture import Captured, Graph
from ..compute.looping import can_compile_loops
from ..compute.native import native_refusal
from ..compute.operations import count_operations
from ..compute.recording import Unrecordable, record
from ..errors import UserError
from ..flag_values import fits
from ..targets.base import Target

__all__ = ["Choice", "Compile", "Work", "choose", "count_work"]

Compile = Literal["auto", True, False]

# A cost model accurate to about a factor of two, which is all the rules need. Cold compilation, 2 cores, by torch:
# a loop around the step of a 10-dimensional Gaussian (46 operations) 6 to 18 s, of the digits MLP (106) 8 to 23 s;
# LeNet-5 8 to 34 s, ResNet-20 (730) 36 to 73 s; from Inductor's cache on disk .3 to 5 s. As C: the Gaussian .5 s,
# eight schools (96) .6 s, logistic regression (74) 1 s. Eager operations on a CPU: 3 to 8 us of overhead each.
_COMPILE_SECONDS, _COMPILE_SECONDS_PER_OPERATION = 5.0, 0.05
_C_SECONDS, _C_SECONDS_PER_OPERATION = 0.3, 0.006
_SECONDS_PER_OPERATION = 5e-6
_FLOPS_PER_SECOND = {"cpu": 5e10, "cuda": 1e13}
# A compiled gradient takes .2 to .8 of the eager time, so compilation pays off from this multiple of its cost.
_REPAYS = 3.0
# Recorded, a gradient takes .3 to .7 of the eager time. On the digits MLP recording and checking it costs 40
# gradients (60 ms), recording a whole iteration about as much again: repaid after some 200.
_RECORD_FROM_GRADIENTS = 500
# For shorter runs, measuring takes longer than it can save.
_MEASURE_FROM_SECONDS = 60.0


@dataclass(frozen=True)
class Work:
    """The work of one gradient of all chains, counted rather than timed."""

    operations: int  # torch operations in an eager pass over one micro-batch of one chain
    flops: int  # of matrix products, convolutions and attention, over all examples and chains
    launches: int  # torch operations over all micro-batches and chains

    def seconds(self, device: torch.device) -> float:
        """Rough time of one eager gradient."""
        return self.launches * _SECONDS_PER_OPERATION + self.flops / _FLOPS_PER_SECOND.get(device.type, 1e13)

    def compile_seconds(self, *, as_c: bool) -> float:
        if as_c:
            return _C_SECONDS + self.operations * _C_SECONDS_PER_OPERATION
        return _COMPILE_SECONDS + self.operations * _COMPILE_SECONDS_PER_OPERATION


@dataclass(frozen=True)
class Choice:
    """The target as it will run. reasons: one line per choice, to be printed."""

    target: Target
    reasons: tuple[str, ...]


def choose(
    target: Target,
    num_chains: int,
    count: int,
    gradients: int,
    *,
    compile: Compile = "auto",
    graph: Graph = False,
) -> Choice:
    """Chooses for a run of `gradients` gradients on `count` examples each.

    graph: whether steps will be captured. Then replays are timed: eagerly, loop and streams are bound by the host.

    Raises:
        UserError: `compile=True` for a model that torch.compile cannot trace.
    """
    if compile not in ("auto", True, False):
        raise UserError(f"compile {compile!r} is unknown: use 'auto', True or False")
    shared, given = count == target.num_data, target
    if target.stream is not None and not shared:  # a step finds its minibatch in memory
        target = target.first_examples(min(target.num_data, num_chains * count))
    work = count_work(target, num_chains, count)
    seconds = gradients * work.seconds(target.device)
    reasons = []
    if num_chains > 1 and target.vmap_refusal:
        reasons.append(f"chains run one after the other: vmap cannot batch this model ({target.vmap_refusal})")

    times = _Times(target, num_chains, count, graph, shared=shared)
    best = target.prepared(path="eager")
    if num_chains > 1 and seconds > _MEASURE_FROM_SECONDS and len(target.chain_batchings()) > 1:
        ways = [best.prepared(path="eager", chain_batching=way) for way in target.chain_batchings()]
        best = min(ways, key=times.of)

    recordable = best.device.type == "cpu" and best.single_pass(num_chains, count)
    wanted = compile is True
    if compile == "auto":
        as_c = recordable and seconds > _REPAYS * work.compile_seconds(as_c=True)
        as_c = as_c and _c_refusal(best, num_chains, count, shared=shared) is None
        cost = work.compile_seconds(as_c=as_c)
        wanted = seconds > _REPAYS * cost
        reasons.append(
            f"compiling{' to C' if as_c else ''} {'is worth a try' if wanted else 'would not pay off'}: about "
            f"{seconds:.3g} s of eager gradients ({gradients:,} of {work.flops / 1e9:.3g} GFLOP) against "
            f"{cost:.1g} s to compile; it pays off from {_REPAYS:.0f} times that"
        )
    if recordable and (wanted or gradients >= _RECORD_FROM_GRADIENTS):
        refusal = _recording_refusal(best, num_chains, count, shared=shared)
        if refusal is None:
            best = best.prepared(path="loop" if wanted and can_compile_loops() else "traced")
            wanted = wanted and best.path != "loop"
        else:
            reasons.append(f"gradients are not traced: {refusal}")
    if wanted and (refusal := _compilation_refusal(best)):
        message = f"torch.compile cannot trace this model ({refusal})"
        if compile is True:
            raise UserError(f"{message}: use compile='auto' or False")
        warnings.warn(f"not compiled: {message}", stacklevel=3)
    elif wanted:
        compiled = best.prepared(path="compiled")
        unknown = target.architecture() is None
        if compile is True or unknown or times.of(compiled) < times.of(best):
            best = compiled
    measured = f" ({times.keep()})" if times.known else ""
    if given is not target:
        best = given.prepared(path=best.path, chain_batching=best.chain_batching)
    return Choice(best, (*reasons, f"gradient: {_name(best)}{measured}"))


def _name(variant: Target) -> str:
    """Chain batching and path, such as "vmap traced"; eager goes without saying."""
    words = (variant.chain_batching or "", "" if variant.path == "eager" else variant.path)
    return " ".join(word for word in words if word) or "eager"


def _recording_refusal(target: Target, num_chains: int, count: int, *, shared: bool) -> str | None:
    """Why the gradient cannot be recorded, or None: recorded at one point, it must hold at another."""
    theta = target.example_row().expand(num_chains, -1).clone()
    grad, log_lik = torch.empty_like(theta), theta.new_empty(num_chains, count)
    gradient = _gradient(target, theta, grad, log_lik, shared=shared)
    try:
        replay = record(gradient).replay()
    except Unrecordable as error:
        return str(error)
    theta.mul_(0.9).add_(0.1)
    results = []
    for run in (gradient, replay):
        with torch.no_grad():
            run()
        results.append(torch.cat([grad.flatten(), log_lik.flatten()]))
    expected, found = results
    largest = float(expected.nan_to_num(0.0, 0.0, 0.0).abs().max())
    if not torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * largest, equal_nan=True):
        return "recorded at one point, they are wrong at another: something is computed outside torch"
    return None


def _c_refusal(target: Target, num_chains: int, count: int, *, shared: bool) -> str | None:
    """Why the gradient cannot be compiled as C, or None."""
    theta = target.example_row().expand(num_chains, -1).clone()
    grad, log_lik = torch.empty_like(theta), theta.new_empty(num_chains, count)
    return native_refusal(_gradient(target, theta, grad, log_lik, shared=shared))


def _compilation_refusal(target: Target) -> str | None:
    """Why the gradient cannot be compiled, or None: traces one example without generating code."""
    row = target.example_row()[0]
    try:
        torch.compile(target.gradient_function(), backend="eager", fullgraph=True, dynamic=False)(row)
    except Exception as error:  # Dynamo's own errors, and whatever a model raises while it is traced
        return str(error).strip().split("\n")[0]
    return None


# --- one gradient: counted, and measured ---


def count_work(target: Target, num_chains: int, count: int) -> Work:
    """The work of a gradient on `count` examples, extrapolated from one chain's eager pass over a micro-batch."""
    size = min(count, target.micro_batch_size)
    one_pass = _micro_batch(target.prepared(path="eager"), target.example_row(), size, shared=False)
    counted = count_operations(one_pass)
    together = target.chain_batching in (None, "vmap")
    return Work(
        operations=counted.number,
        flops=int(counted.flops * num_chains * count / size),
        launches=counted.number * math.ceil(count / size) * (1 if together else num_chains),
    )


def _micro_batch(target: Target, theta: Tensor, size: int, *, shared: bool) -> Callable[[], None]:
    """The gradient at `theta (C, D)` on `size` examples: `shared` by all chains, or chosen for each."""
    target = target.first_examples(size if shared else min(target.num_data, len(theta) * size))
    return _gradient(target, theta, torch.empty_like(theta), theta.new_empty(len(theta), size), shared=shared)


def _gradient(target: Target, theta: Tensor, grad: Tensor, log_lik: Tensor, *, shared: bool) -> Callable[[], None]:
    size = log_lik.shape[1]
    indices = torch.arange(len(theta) * size, device=target.device) % target.num_data
    chosen = None if shared else indices.view(len(theta), size)
    return lambda: target.log_likelihood_and_grad(theta, grad, log_lik, chosen)


class _Times:
    """Seconds per micro-batch of all chains for each variant of `target`: read from the file of earlier
    measurements, or measured on demand."""

    def __init__(self, target: Target, num_chains: int, count: int, graph: Graph, *, shared: bool) -> None:
        self.graph = graph
        self.num_chains, self.size = num_chains, min(count, target.micro_batch_size)
        self.shared = shared
        self.key = self._key(target)
        self.path = cache_folder() / "measured.json"
        self.file = _measured(self.path)
        self.known = dict(self.file.get(self.key, {}))

    def _key(self, target: Target) -> str:
        """A hash of everything that may affect which variant is fastest."""
        cuda = target.device.type == "cuda"
        device = torch.cuda.get_device_name(target.device) if cuda else f"cpu {torch.get_num_threads()}"
        how = (self.size, self.shared, self.num_chains, bool(self.graph))
        parts = (target.architecture(), *how, torch.__version__, device)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]

    def of(self, variant: Target) -> float:
        if _name(variant) not in self.known:
            theta = variant.example_row().expand(self.num_chains, -1).clone()
            call: Callable[[], object] = _micro_batch(variant, theta, self.size, shared=self.shared)
            if self.graph:
                call = Captured(call, "a gradient", lambda: [theta], "auto", pool=None)
            self.known[_name(variant)] = _median_seconds(call, variant)
        return self.known[_name(variant)]

    def keep(self) -> str:
        """Writes new measurements to the file; returns the times and their origin for printing."""
        origin = f"measured earlier, {self.path}"
        if self.known != self.file.get(self.key, {}):
            origin = "measured now"
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                write_json(self.path, self.file | {self.key: self.known})
            except OSError:
                origin += f", not stored because {self.path} cannot be written"
        times = sorted(self.known.items(), key=lambda item: item[1])
        shown = ", ".join(f"{name} {1e3 * value:.3g} ms" for name, value in times)
        return f"{shown} per micro-batch of {self.num_chains} chains; {origin}"


def _measured(path: Path) -> dict[str, dict[str, float]]:
    """Earlier measurements; what is damaged of them is measured anew."""
    try:
        found = read_json(path)
    except Unreadable:
        return {}
    return {
        key: times
        for key, times in found.items()
        if isinstance(times, dict) and all(fits(seconds, float) and seconds > 0 for seconds in times.values())
    }


def _median_seconds(call: Callable[[], object], variant: Target, repeats: int = 5) -> float:
    """Median of `repeats` calls after two warm-up calls; 1e9 (JSON has no infinity) if memory runs out."""
    samples = []
    try:
        for _ in range(repeats + 2):
            _wait(variant.device)
            begin = time.perf_counter()
            call()
            _wait(variant.device)
            samples.append(time.perf_counter() - begin)
    except torch.OutOfMemoryError:
        return 1e9
    return statistics.median(samples[2:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
