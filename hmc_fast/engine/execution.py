"""Execution choices made before a run: whether to compile, how to batch chains, and for convolutions on a CPU the
memory layout and the micro-batch size. The reasons are printed.

The same seed must give the same draws, and all choices change rounding. Whether to try an alternative therefore
depends on counted work, never on a clock, and measured times are stored in a file and reused (`measurements.py`).
"""

import math
import warnings
from dataclasses import dataclass
from typing import Literal

import torch

from ..compute.looping import can_compile_loops
from ..compute.operations import count_operations
from ..compute.recording import Unrecordable, record
from ..errors import UserError
from ..targets.base import Target
from .measurements import CALLS, Times, describe, gradient_at, micro_batch

__all__ = ["Choice", "Compile", "Work", "choose", "count_work"]

Compile = Literal["auto", True, False]

# A cost model accurate to about a factor of two, which is all the rules need. Cold compilation, 2 cores: a loop
# around the step of a 10-dimensional Gaussian (29 operations) 6 to 8 s, of the digits MLP (118) 8 to 10 s; LeNet-5
# 8 to 34 s, ResNet-20 (730) 36 to 73 s; from Inductor's cache on disk .3 to 5 s. Eager operations on a CPU: 3 to
# 8 us of overhead each.
_COMPILE_SECONDS, _COMPILE_SECONDS_PER_OPERATION = 5.0, 0.05
_SECONDS_PER_OPERATION = 5e-6
_FLOPS_PER_SECOND = {"cpu": 5e10, "cuda": 1e13}
# A compiled gradient takes .2 to .8 of the eager time, so compilation pays off from this multiple of its cost.
_REPAYS = 3.0
# Recorded, a gradient takes .3 to .7 of the eager time. On the digits MLP recording and checking it costs 40
# gradients (60 ms), recording a whole iteration about as much again: repaid after some 200.
_RECORD_FROM_GRADIENTS = 500
# For shorter runs, measuring takes longer than it can save.
_MEASURE_FROM_SECONDS = 60.0
# Of the run's gradients, what measuring layouts and micro-batch sizes may take. They save 10 to 30 % of the time
# (`targets/posterior.py`) if the defaults do not suit the model, mostly nothing.
_MEASURE_SHARE = 0.05


@dataclass(frozen=True)
class Work:
    """The work of one gradient of all chains, counted rather than timed."""

    operations: int  # torch operations in an eager pass over one micro-batch of one chain
    flops: int  # of matrix products, convolutions and attention, over all examples and chains
    launches: int  # torch operations over all micro-batches and chains

    def seconds(self, device: torch.device) -> float:
        """Rough time of one eager gradient."""
        return self.launches * _SECONDS_PER_OPERATION + self.flops / _FLOPS_PER_SECOND.get(device.type, 1e13)

    @property
    def compile_seconds(self) -> float:
        return _COMPILE_SECONDS + self.operations * _COMPILE_SECONDS_PER_OPERATION


@dataclass(frozen=True)
class Choice:
    """The target as it will run. reasons: one line per choice, to be printed."""

    target: Target
    reasons: tuple[str, ...]


def choose(target: Target, num_chains: int, count: int, gradients: int, *, compile: Compile = "auto") -> Choice:
    """Chooses for a run of `gradients` gradients on `count` examples each.

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
            f"compiling the gradient {'is worth a try' if repays else 'would not pay off'}: about {seconds:.3g} s "
            f"of eager gradients ({gradients:,} of {work.flops / 1e9:.3g} GFLOP) against "
            f"{work.compile_seconds:.0f} s to compile; it pays off from {_REPAYS:.0f} times that"
        )
    wanted = compile is True or (compile == "auto" and repays)
    if num_chains > 1 and target.vmap_refusal:
        reasons.append(f"chains run one after the other: vmap cannot batch this model ({target.vmap_refusal})")

    times = Times(target, num_chains, count)
    best = target.prepared(path="eager")
    if seconds > _MEASURE_FROM_SECONDS:
        best = _fastest(best, times, gradients)

    recordable = best.device.type == "cpu" and best.single_pass(num_chains, count)
    if recordable and (wanted or gradients >= _RECORD_FROM_GRADIENTS):
        refusal = _recording_refusal(best, num_chains, count)
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
        # Fused, operations between convolutions favour the usual layout, whatever suits eager ones.
        compiled = best.prepared(path="compiled", layout=next(iter(best.layouts()), None))
        unknown = target.architecture() is None
        best = compiled if compile is True or unknown else times.fastest([best, compiled])
    measured = f" ({times.keep()})" if times.known else ""
    return Choice(best, (*reasons, f"gradient: {describe(best)}{measured}"))


def _fastest(eager: Target, times: Times, gradients: int) -> Target:
    """How eager gradients are fastest, one choice after the other: chain batching, layout, micro-batch size.

    The last two are tried while their cost, as counted, stays within `_MEASURE_SHARE` of the run's gradients.
    """
    best, count = eager, times.count
    if times.num_chains > 1 and len(best.chain_batchings()) > 1:
        best = times.fastest([best.prepared(path="eager", chain_batching=way) for way in best.chain_batchings()])
    left = _MEASURE_SHARE * gradients * count  # in examples

    ways = [best.prepared(path="eager", layout=layout) for layout in best.layouts()]
    left -= _cost(ways, count)
    if ways and left >= 0:
        best = times.fastest(ways)

    others = [size for size in best.micro_batch_sizes() if size <= count and size != best.micro_batch_size]
    ways = [best, *(best.prepared(path="eager", micro_batch_size=size) for size in others)]
    while len(ways) > 1 and _cost(ways, count) > left:
        ways.pop()
    return times.fastest(ways) if len(ways) > 1 else best


def _cost(ways: list[Target], count: int) -> int:
    """Examples on which measuring all these computes a gradient."""
    return CALLS * sum(min(count, way.micro_batch_size) for way in ways)


def _recording_refusal(target: Target, num_chains: int, count: int) -> str | None:
    """Why the gradient cannot be recorded, or None: recorded at one point, it must hold at another."""
    theta = target.example_row().expand(num_chains, -1).clone()
    grad, log_lik = torch.empty_like(theta), theta.new_empty(num_chains, count)
    gradient = gradient_at(target, theta, grad, log_lik, shared=count == target.num_data)
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
    if not torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()), equal_nan=True):
        return "recorded at one point, they are wrong at another: something is computed outside torch"
    return None


def _compilation_refusal(target: Target) -> str | None:
    """Why the gradient cannot be compiled, or None: traces one example without generating code."""
    row = target.example_row()[0]
    try:
        torch.compile(target.gradient_function(), backend="eager", fullgraph=True, dynamic=False)(row)
    except Exception as error:  # Dynamo's own errors, and whatever a model raises while it is traced
        return str(error).strip().split("\n")[0]
    return None


def count_work(target: Target, num_chains: int, count: int) -> Work:
    """The work of a gradient on `count` examples, extrapolated from one chain's eager pass over a micro-batch."""
    size = min(count, target.micro_batch_size)
    one_pass = micro_batch(target.prepared(path="eager"), target.example_row(), size, shared=False)
    counted = count_operations(one_pass)
    together = target.chain_batching in (None, "vmap")
    return Work(
        operations=counted.number,
        flops=int(counted.flops * num_chains * count / size),
        launches=counted.number * math.ceil(count / size) * (1 if together else num_chains),
    )
