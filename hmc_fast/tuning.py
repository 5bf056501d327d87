"""How a run computes: compiled or not, chains batched how. Chosen before the run, by rules that are printed.

The same seed must give the same draws, and both choices change rounding. So whether to compile follows from
counted work alone, never from a clock; and what was measured once about chains is kept in a file and taken
from there the next time.
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
from typing import Any, Literal

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from .errors import UserError
from .gradient import ChainBatching
from .jsonfile import write_json
from .posterior import Posterior
from .target import Target

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
    """What `choose` came to. reasons: one line per choice, to be printed."""

    compiled: bool
    chain_batching: ChainBatching | None
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
    compiled = compile is True or (compile == "auto" and seconds > _REPAYS * work.compile_seconds)
    if compiled:
        failure = _trial(target)
        if failure and compile is True:
            raise UserError(f"torch.compile cannot take this model ({failure}): use compile='auto' or False")
        if failure:
            warnings.warn(
                f"the gradient is not compiled: torch.compile cannot take this model ({failure})", stacklevel=3
            )
            compiled = False
    if compile == "auto":
        verdict = "compiled" if compiled else "not compiled"
        reasons.append(
            f"gradient {verdict}: about {seconds:.3g} s of eager gradients ({gradients:,} of "
            f"{work.flops / 1e9:.3g} GFLOP) against {work.compile_seconds:.0f} s to compile; it pays from "
            f"{_REPAYS:.0f} times that"
        )
    chain_batching = None
    if isinstance(target, Posterior):
        chain_batching = target.chain_batching
        if num_chains > 1 and target.vmap_refusal:
            reasons.append(f"chains one after the other: vmap refuses this model ({target.vmap_refusal})")
        if num_chains > 1 and not target.chain_batching_given and seconds > _MEASURE_FROM_SECONDS:
            chain_batching, line = _measured(target, num_chains, count)
            reasons.append(line)
    return Choice(compiled, chain_batching, tuple(reasons))


def _trial(target: Target) -> str | None:
    """Why the gradient cannot be compiled, or None: traced for one example, with nothing generated yet."""
    row = target.example_row()[0]
    try:
        torch.compile(target.gradient_function(), backend="eager", fullgraph=True, dynamic=False)(row)
    except Exception as error:  # Dynamo's own kinds, and whatever a model raises when it is traced
        return str(error).strip().split("\n")[0]
    return None


def _measured(target: Posterior, num_chains: int, count: int) -> tuple[ChainBatching, str]:
    """The fastest way to batch chains, from the file of earlier measurements or by measuring now."""
    key = _key(target, num_chains, count)
    path = _cache_file()
    try:
        known: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        known = {}
    times: dict[ChainBatching, float] | None = known.get(key)
    origin = f"measured earlier, {path}"
    if times is None:
        origin = "measured now"
        times = _time_candidates(target, num_chains, count)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, known | {key: times})
        except OSError:
            origin += f", and not kept: {path} cannot be written"
    ranked = sorted(times.items(), key=lambda pair: pair[1])
    best: ChainBatching = ranked[0][0]
    shown = ", ".join(f"{name} {1e3 * value:.3g} ms" for name, value in ranked)
    return best, f"chains by {best} ({shown} per gradient of {num_chains} chains; {origin})"


def _time_candidates(target: Posterior, num_chains: int, count: int) -> dict[ChainBatching, float]:
    """Seconds of one eager micro-batch of all chains, median of a few, per way that the model allows."""
    names: list[ChainBatching] = ["vmap", "loop"]
    if target.device.type == "cuda":
        names.append("streams")
    size = min(count, target.micro_batch_size)
    theta = target.initial("model", num_chains, 0)
    indices = (torch.arange(num_chains * size, device=target.device) % target.num_data).view(num_chains, size)
    grad, log_lik = torch.empty_like(theta), theta.new_empty(num_chains, size)
    times: dict[ChainBatching, float] = {}
    for name in names:
        candidate = target.prepared(compiled=False, chain_batching=name)
        call = lambda c=candidate: c.log_likelihood_and_grad(theta, grad, log_lik, indices)  # noqa: E731
        try:
            times[name] = _median_seconds(call, target.device)
        except RuntimeError:  # vmap refuses what it has no rule for; memory may run out
            continue
    return times


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
    return Path(base) / "hmc_fast" / "chain_batching.json"
