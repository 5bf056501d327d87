"""`hmc_fast.run`: posterior and sampler in, draws and predictions out."""

import dataclasses
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..arguments import positive, whole_number
from ..atomic_files import NotWritten
from ..compute.device import resolve_device
from ..compute.random_streams import check_seed
from ..dynamics.gradient_step import Graph, checked_graph
from ..errors import UserError
from ..kernels import ops
from ..messages import tell
from ..results.draw_precision import Spread
from ..results.draw_store import DrawStore, numpy_dtype
from ..results.run import Run
from ..results.streamed_predictions import StreamedPredictions
from ..results.trace import TRACE_COLUMNS, Plan, Trace
from ..samplers.protocol import Sampler, state_tensors
from ..targets.base import Target
from ..targets.reading import ended_workers_told
from .checkpoint import Checkpoint
from .ensemble import Training
from .execution import Compile, choose
from .expected_work import expected_gradients
from .fingerprint import assert_same_run, fingerprint
from .forecast import DiskUse, disk_use, forecast
from .kernel_check import check_kernels
from .loop import Diverged, Loop
from .output import Output, OutputFolder
from .start import refuse_undefined_start
from .storage import Storage, storage_of
from .trained_start import read_members, training_of

__all__ = ["run"]


def run(
    target: Target,
    sampler: Sampler,
    *,
    chains: int = 4,
    burn_in: int = 50,
    draws: int = 200,
    thin: int = 1,
    seed: int = 0,
    init: "str | Tensor | Training" = "default",
    test: "Tensor | tuple[Tensor, Tensor] | None" = None,
    draw_dtype: "torch.dtype | Literal['auto']" = "auto",
    capacity: "int | str | None" = None,
    out: "str | Path | None" = None,
    resume: bool = False,
    checkpoint_seconds: float = 60.0,
    config: dict[str, Any] | None = None,
    device: "torch.device | str | None" = None,
    compile: Compile = "auto",
    graph: Graph = "auto",
    kernels: ops.Kernels = "auto",
    profile: bool = False,
    progress: bool = True,
) -> Run:
    """Samples `target` with `sampler`.

    Args:
        target: a `Posterior` or `Density`.
        chains, burn_in, draws, thin: C; discarded initial iterations; S draws of every chain, one per `thin`
            iterations after burn-in.
        seed: determines all randomness; the same seed gives the same draws.
        init: initial states: "prior", "uniform", "model" or a tensor, see `Target.initial`. "default": draws from
            the prior; "model" where part of that is a function; uniform in (-2, 2) for a bare density. "train", or
            `Training(...)`: members of a deep ensemble, trained together from a fresh network each. They are kept
            in `out`, so that a resumed run does not train again.
        test: inputs `(T, ...)`, or (inputs, labels), whose predictions are averaged as draws arrive.
        draw_dtype: of stored draws, torch.float16, float32 or float64. "auto": float16 where the second half of
            burn-in shows that it holds every coordinate's spread (`results/draw_precision.py`), else the target's
            dtype; for a bare density its own. The chain itself always keeps full precision.
        capacity: of the ring buffer on the device, in draws (64) or bytes ("512MB"). It does not affect results.
        out: a directory for `draws.npy`, `trace.csv` and `checkpoint/`; None keeps everything in memory.
        resume: continue from the checkpoint in `out`; the draws are those of an uninterrupted run
            (docs/durability.md).
        checkpoint_seconds: between two checkpoints in `out`; what comes after the last is repeated on resuming.
        config: written to `config.json` in `out` when the run starts; any JSON object. The prior in words is added
            as "prior" unless it has that key.
        device: move the target there first.
        compile: trajectories or gradients compiled, as C or by torch's compiler: True, False, or "auto", if the run
            is long enough to pay off (the estimate is printed).
        graph: leapfrog steps as CUDA graphs: True, False, or "auto", on a CUDA device if the model allows it.
        kernels: on a CUDA device, "auto" uses Triton kernels, after one check of each against its definition on a
            machine; "torch" their twins in torch, which are slower.
        profile: write a torch profiler trace of a few iterations, `profile.json`, to `out` (or the working
            directory), and print the five largest costs.
        progress: show a progress bar, or lines without a terminal.

    Raises:
        UserError: an option out of range, a directory that already contains a run, is in use or cannot be written,
            a damaged run to resume, a disk that is full (its run can be resumed once there is room), or a chain
            that diverges before there is a draw. One that diverges later ends the run with the draws before.
        Interrupted: a KeyboardInterrupt, by Ctrl-C, SIGTERM or SIGHUP; with `out`, after writing a checkpoint.
    """
    # All validation happens here, before anything is written.
    _check_kinds(target, sampler)
    chains = whole_number("chains", chains)
    if kernels not in ("auto", "torch"):
        raise UserError(f"kernels {kernels!r} is unknown: use 'auto' or 'torch'")
    check_seed(seed)
    plan = Plan(burn_in, draws, thin)
    positive("checkpoint_seconds", checkpoint_seconds)
    target = target if device is None else target.to(resolve_device(device))
    target = target.with_kernels(kernels)
    if target.stream is not None and (sampler.batch_size is None or sampler.has_metropolis_test):
        target.stream.refuse_changes()
    with (
        ops.using(target.kernels),
        nullcontext() if target.stream is None else target.stream.open(),
        Output() if out is None else OutputFolder(Path(out)) as output,
    ):
        training = training_of(init)
        if training is not None:
            training.trainable(target)
        theta = target.initial(init if training is None else training.start, chains, seed)
        saved = output.read_checkpoint() if resume else None
        storage = storage_of(target, plan, chains, draw_dtype, capacity, saved)
        worst = draws * storage.draw_bytes(storage.dtype or target.dtype)
        if saved is None:
            output.refuse_existing()
            output.check_room(DiskUse(draws=worst))  # before anything of that length is made
            if sampler.batch_size is None or training is not None:
                refuse_undefined_start(target, theta)
        graph = checked_graph(target, graph)
        if training is not None and saved is not None:
            theta = read_members(output, training, saved, target, chains)
        elif training is not None:
            # What they refuse, before time is spent on training.
            sampler.init(target, theta, seed=seed, warm_up_iterations=burn_in)
            if test is not None:
                StreamedPredictions(target, test, chains, draws)
            _begin(output, target, config)
            theta = training.members(target, chains, seed, compile=compile, graph=graph, progress=progress)
            output.write_members(theta.cpu().numpy())
            if sampler.batch_size is None:
                refuse_undefined_start(target, theta)
        target, reasons = _prepared(target, sampler, plan, chains, compile, graph, saved)
        if target.kernels == "auto" and (checked := check_kernels(target, chains)):
            reasons += (checked,)
        predictions = None if test is None else StreamedPredictions(target, test, chains, draws)
        determined_by = {}
        if out is not None:
            determined_by = fingerprint(target, sampler, plan, theta, seed, draw_dtype, predictions, training)
        if saved is not None and out is not None:
            assert_same_run(saved.fingerprint, determined_by, Path(out))

        state = sampler.init(target, theta, seed=seed, graph=graph, warm_up_iterations=burn_in)
        loop = Loop(
            target=target,
            sampler=sampler,
            state=state,
            plan=plan,
            kept=(kept := plan.kept_iterations(sampler)),
            trace=Trace.empty(kept[-1] + 1, chains),
            predictions=predictions,
            output=output,
            fingerprint=determined_by,
            checkpoint_seconds=checkpoint_seconds,
        )
        disk = disk_use(state, loop.trace, predictions, worst) if output.is_kept else None
        if disk is not None and saved is None:
            output.check_room(disk)
        if progress:
            notes = () if target.stream is None else (target.stream.note,)
            notes += tuple(filter(None, [getattr(sampler, "remark", "")]))
            draw_bytes = storage.draw_bytes(storage.dtype)
            memory = forecast(
                target,
                state,
                loop.trace,
                predictions,
                capacity=storage.capacity(storage.dtype),
                draw_bytes=draw_bytes,
                all_draws=draws * draw_bytes,
                disk=disk,
            )
            tell(*notes, *reasons, memory)
        try:
            _begin(output, target, None if saved is not None else config)
            _open(loop, storage, saved)
            with ended_workers_told():
                loop.run(progress=progress, profile=profile)
            return _publish(loop, seed)
        except NotWritten as error:
            if loop.saved_iteration < 0:
                output.remove_start()
            raise loop.not_written(error) from error
        except Exception as error:
            output.remove_start()
            if isinstance(error, Diverged):  # minibatches may have met an example only now
                refuse_undefined_start(target, theta)
            raise


def _begin(output: Output, target: Target, config: dict[str, Any] | None) -> None:
    """Creates the folder, with the config of a new run."""
    output.create()
    if config is not None:
        output.write_config({"prior": target.prior_in_words} | config)


def _check_kinds(target: Any, sampler: Any) -> None:
    """Raises UserError for a class, for arguments that changed places, and for a bare model."""
    if not isinstance(target, Target):
        what = f"the class {target.__name__}" if isinstance(target, type) else f"a {type(target).__name__}"
        raise UserError(f"target is {what}: give a Posterior or a Density first, then the sampler")
    if isinstance(sampler, type) or not (hasattr(sampler, "init") and hasattr(sampler, "step")):
        what = f"the class {sampler.__name__}" if isinstance(sampler, type) else f"a {type(sampler).__name__}"
        raise UserError(f"sampler is {what}: give an object such as hmc_fast.HMC(step_size=0.01, num_leapfrog=10)")


def _prepared(
    target: Target,
    sampler: Sampler,
    plan: Plan,
    chains: int,
    compile: Compile,
    graph: Graph,
    saved: Checkpoint | None,
) -> tuple[Target, tuple[str, ...]]:
    """The target, compiled and batched by the rules of `choose` or as in the run to resume, and the reasons."""
    if saved is not None and "path" in saved.fingerprint:
        path, batching = saved.fingerprint["path"], saved.fingerprint.get("chain_batching")
        return target.prepared(path=path, chain_batching=batching), ()
    gradients, reason = expected_gradients(sampler, target, plan)
    choice = choose(target, chains, sampler.batch_size or target.num_data, gradients, compile=compile, graph=graph)
    return choice.target, (*reason, *choice.reasons)


def _open(loop: Loop, storage: Storage, saved: Checkpoint | None) -> None:
    """Reserves room for all that the run will write, or opens it where the checkpoint ends."""
    output, predictions, draws = loop.output, loop.predictions, storage.draws

    def open_store(dtype: torch.dtype) -> DrawStore:
        return DrawStore(
            draws,
            *storage.shape,
            capacity=storage.capacity(dtype),
            dtype=dtype,
            device=loop.target.device,
            rows=output.rows("draws", (draws, *storage.shape), numpy_dtype(dtype), saved),
        )

    loop.open_store = open_store
    if storage.dtype is None:
        loop.spread = Spread(loop.state.theta)
        output.reserve_draws(draws * storage.draw_bytes(loop.target.dtype))
    else:
        loop.store = open_store(storage.dtype)
    if output.is_kept:
        shape = (len(loop.trace), len(TRACE_COLUMNS), storage.shape[0])
        loop.trace_rows = output.rows("trace", shape, np.float64, saved)
        if predictions is not None:
            predictions.values = output.rows("function_values", predictions.values.shape, np.float32, saved)
            loop.curve_rows = output.rows("curve", tuple(predictions.average.curve.shape), np.float64, saved)
    if saved is not None:
        loop.restore(saved)


def _publish(loop: Loop, seed: int) -> Run:
    """The finished run, with its files under their final names."""
    if loop.saved_iteration != loop.iteration:
        loop.save()
    predictions, draws = loop.predictions, loop.draws_so_far.draws()
    plan, ended_early = dataclasses.replace(loop.plan, draws=len(draws)), ""
    if loop.divergence:
        ended_early = f"The run ended early, with {len(draws)} of {loop.plan.draws} draws: {loop.divergence}."
        tell(ended_early)
    trace = loop.trace[: loop.end]
    return Run(
        target=loop.target,
        sampler=loop.sampler,
        plan=plan,
        seed=seed,
        draws=loop.output.publish(trace, plan.burn_in, draws),
        test=None if predictions is None else predictions.average.result(),
        curve=None if predictions is None else predictions.average.curve[: len(draws)].cpu().numpy(),
        function_draws=loop.function_values(),
        history=trace,
        rounding=(int(loop.draws_so_far.counts[0]), int(loop.draws_so_far.counts[1])),
        rounding_effect=loop.rounding_effect(),
        seconds=loop.seconds,
        ended_early=ended_early,
        final_state={} if loop.sampler.has_metropolis_test else _copied(loop.state),
    )


def _copied(state: Any) -> dict[str, Tensor]:
    """The state's tensors, on the host."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in state_tensors(state).items()}
