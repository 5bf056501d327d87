"""How a run computes: compiled or not, chains batched how. Chosen before the run, by rules that are printed.

The same seed must give the same draws, and both choices change rounding. So whether to try follows from
counted work, never from a clock; and what was measured once is kept in a file and taken from there the next
time.
"""

import hashlib
import json
import math
import os
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ..atomic_files import write_json
from ..compute.gradient import ChainBatching
from ..errors import UserError
from ..targets.base import Target
from ..targets.posterior import Posterior

__all__ = ["Choice", "Compile", "Work", "choose", "count_work"]

Compile = Literal["auto", True, False]

# A model of cost, good to a factor of two or so, which is all that the rules need. Compilation: cold, 2 cores:
# digits MLP (70 operations) 5 to 13 s, LeNet-5 8 to 34 s, ResNet-20 (730) 36 to 73 s; from Inductor's cache
# on disk .3 to 5 s. Eager operations on a CPU: 3 to 8 us each besides their arithmetic.
_COMPILE_SECONDS_PER_OPERATION = 0.1
_SECONDS_PER_OPERATION = 5e-6
_FLOPS_PER_SECOND = {"cpu": 5e10, "cuda": 1e13}
# A compiled gradient takes .5 to .8 of the eager one's time, so this much work repays compilation.
_REPAYS = 4.0
# Shorter runs are not worth the seconds that measuring takes.
_MEASURE_FROM_SECONDS = 60.0


@dataclass(frozen=True)
class Work:
    """One gradient of all chains, counted rather than timed."""

    operations: int  # of torch, in an eager pass of one micro-batch and one chain
    flops: int  # of matrix products and convolutions, of all examples and chains
    launches: int  # operations of all micro-batches and chains

    def seconds(self, device: torch.device) -> float:
        """Rough time of one eager gradient."""
        return self.launches * _SECONDS_PER_OPERATION + self.flops / _FLOPS_PER_SECOND.get(device.type, 1e13)

    @property
    def compile_seconds(self) -> float:
        return self.operations * _COMPILE_SECONDS_PER_OPERATION


@dataclass(frozen=True)
class Choice:
    """The target as it will be run. reasons: one line per choice, to be printed."""

    target: Target
    reasons: tuple[str, ...]


class _Count(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.operations += 1
        return func(*args, **(kwargs or {}))


def count_work(target: Target, num_chains: int, count: int) -> Work:
    """The work of a gradient on `count` examples, from one eager pass of one chain over a micro-batch."""
    from torch.utils.flop_counter import FlopCounterMode  # imports triton, which this package does not

    size = min(count, target.micro_batch_size) if isinstance(target, Posterior) else count
    target = target.prepared(compiled=False)
    theta = target.example_row()
    indices = None
    if isinstance(target, Posterior):
        indices = torch.arange(size, device=target.device)[None] % target.num_data
    log_lik = theta.new_empty(1, size)
    with FlopCounterMode(display=False) as flops, _Count() as counter:
        target.log_likelihood_and_grad(theta, torch.empty_like(theta), log_lik, indices)
    passes = math.ceil(count / size)
    batched = not isinstance(target, Posterior) or target.chain_batching == "vmap"
    return Work(
        operations=counter.operations,
        flops=int(flops.get_total_flops() * num_chains * count / size),
        launches=counter.operations * passes * (1 if batched else num_chains),
    )


def choose(target: Target, num_chains: int, count: int, gradients: int, *, compile: Compile = "auto") -> Choice:
    """Decides for a run of `gradients` gradients on `count` examples each.

    Raises:
        UserError: `compile=True` for a model that torch.compile cannot trace.
    """
    if compile not in ("auto", True, False):
        raise UserError(f"compile {compile!r} is unknown: use 'auto', True or False")
    work = count_work(target, num_chains, count)
    seconds = gradients * work.seconds(target.device)
    reasons = []
    repays = seconds > _REPAYS * work.compile_seconds
    if compile == "auto":
        reasons.append(
            f"compiling the gradient {'is tried' if repays else 'would not pay'}: about {seconds:.3g} s of eager "
            f"gradients ({gradients:,} of {work.flops / 1e9:.3g} GFLOP) against {work.compile_seconds:.0f} s to "
            f"compile; it pays from {_REPAYS:.0f} times that"
        )
    wanted = compile is True or (compile == "auto" and repays)
    failure = _trial(target) if wanted else None
    if failure:
        message = f"torch.compile cannot take this model ({failure})"
        if compile is True:
            raise UserError(f"{message}: use compile='auto' or False")
        warnings.warn(f"not compiled: {message}", stacklevel=3)
        wanted = False
    if not isinstance(target, Posterior):
        return Choice(target.prepared(compiled=wanted), tuple(reasons))

    if num_chains > 1 and target.vmap_refusal:
        reasons.append(f"chains one after the other: vmap refuses this model ({target.vmap_refusal})")
    several = num_chains > 1 and not target.chain_batching_given and seconds > _MEASURE_FROM_SECONDS
    if not several and not (wanted and compile == "auto"):
        return Choice(target.prepared(compiled=wanted), tuple(reasons))
    best, line = _measured(target, num_chains, count, several, wanted, compile)
    return Choice(best, (*reasons, line))


def _trial(target: Target) -> str | None:
    """Why the gradient cannot be compiled, or None: traced for one example, with nothing generated yet."""
    row = target.example_row()[0]
    try:
        torch.compile(target.gradient_function(), backend="eager", fullgraph=True, dynamic=False)(row)
    except Exception as error:  # Dynamo's own kinds, and whatever a model raises when it is traced
        return str(error).strip().split("\n")[0]
    return None


def _measured(
    target: Posterior, num_chains: int, count: int, several: bool, wanted: bool, compile: Compile
) -> tuple[Posterior, str]:
    """The fastest variant, from the file of earlier measurements or by measuring now.

    Eager ways to batch chains are compared first, if there are `several`; then the best of them is compiled,
    if that is `wanted`, and stays so if that made it faster (or the user said so).
    """
    key = _key(target, num_chains, count)
    path = _cache_file()
    try:
        known: dict[str, dict[str, float]] = json.loads(path.read_text())
    except (OSError, ValueError):
        known = {}
    times = dict(known.get(key, {}))
    before = dict(times)
    ways = _ways(target) if several else [target.chain_batching]
    best = min(ways, key=lambda way: _time(target, way, False, num_chains, count, times))
    compiled = target.prepared(compiled=True, chain_batching=best)
    faster = wanted and (compile is True or _time(compiled, best, True, num_chains, count, times) < times[best])
    origin = f"measured earlier, {path}"
    if times != before:
        origin = "measured now"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, known | {key: times})
        except OSError:
            origin += f", and not kept: {path} cannot be written"
    shown = ", ".join(f"{way} {1e3 * value:.3g} ms" for way, value in sorted(times.items(), key=lambda p: p[1]))
    chosen = compiled if faster else target.prepared(compiled=False, chain_batching=best)
    word = f"{best}, {'compiled' if faster else 'eager'}"
    return chosen, f"gradient by {word} ({shown} per micro-batch of {num_chains} chains; {origin})"


def _ways(target: Posterior) -> list[ChainBatching]:
    ways: list[ChainBatching] = ["loop"] if target.vmap_refusal else ["vmap", "loop"]
    return [*ways, "streams"] if target.device.type == "cuda" else ways


def _time(
    target: Posterior, way: ChainBatching, compiled: bool, num_chains: int, count: int, times: dict[str, float]
) -> float:
    """Median seconds of one micro-batch of all chains, kept in `times`; infinite where it cannot run."""
    name = f"{way} compiled" if compiled else way
    if name not in times:
        size = min(count, target.micro_batch_size)
        variant = target if compiled else target.prepared(compiled=False, chain_batching=way)
        theta = target.initial("model", num_chains, 0)
        shared = count == target.num_data
        indices = (torch.arange(num_chains * size, device=target.device) % target.num_data).view(num_chains, size)
        grad, log_lik = torch.empty_like(theta), theta.new_empty(num_chains, size)
        try:
            times[name] = _median_seconds(
                lambda: variant.micro_batch(theta, grad, log_lik, None if shared else indices), target.device
            )
        except torch.OutOfMemoryError:
            times[name] = 1e9  # not inf, which JSON does not know
    return times[name]


def _median_seconds(call: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    samples = []
    for repeat in range(repeats + 2):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        begin = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if repeat >= 2:
            samples.append(time.perf_counter() - begin)
    return statistics.median(samples)


def _key(target: Posterior, num_chains: int, count: int) -> str:
    """Everything that the fastest way may depend on."""
    parts = (
        repr(target.flat.module),
        [tuple(shape) for shape in target.flat.shapes],
        tuple(target.x.shape[1:]),
        min(count, target.micro_batch_size),
        num_chains,
        target.precision,
        torch.__version__,
        torch.cuda.get_device_name(target.device)
        if target.device.type == "cuda"
        else f"cpu {torch.get_num_threads()}",
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


def _cache_file() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "hmc_fast" / "measured.json"
