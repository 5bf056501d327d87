"""`hmc_fast.run`: posterior and sampler in, draws and predictions out."""

import dataclasses
import hashlib
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..atomic_files import write_json, written_atomically
from ..compute.random_streams import check_seed
from ..dynamics.gradient_step import Graph, checked_graph
from ..errors import UserError
from ..results.draw_store import DrawStore, bytes_per_draw, parse_capacity
from ..results.model_average import StreamedAverage, prediction_shape
from ..results.run import Run
from ..samplers.protocol import Sampler
from ..targets.base import Target
from ..targets.posterior import Posterior
from . import checkpoint
from .execution import Compile, choose
from .forecast import check_disk, forecast
from .loop import Loop, Plan

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
    init: "str | Tensor" = "default",
    test: "Tensor | tuple[Tensor, Tensor] | None" = None,
    draw_dtype: torch.dtype | None = None,
    capacity: "int | str | None" = None,
    out: "str | Path | None" = None,
    resume: bool = False,
    config: dict[str, Any] | None = None,
    device: "torch.device | str | None" = None,
    compile: Compile = "auto",
    graph: Graph = "auto",
    profile: bool = False,
    progress: bool = True,
) -> Run:
    """Samples `target` with `sampler`.

    Args:
        target: a `Posterior` or `Density`.
        chains, burn_in, draws, thin: C; iterations before anything is kept; S draws of every chain, one per
            `thin` iterations after that.
        seed: all randomness follows from it; the same seed gives the same draws.
        init: where chains begin: "prior", "uniform", "model" or a tensor, see `Target.initial`. By default
            draws from the prior; for a bare density, which has none, uniform in (-2, 2).
        test: inputs `(T, ...)`, or (inputs, labels), whose predictions are averaged as draws arrive.
        draw_dtype: of stored draws, torch.float16, float32 or float64; None: float16, or a bare density's own
            dtype, as its few coordinates may lie many deviations from 0. The chain itself keeps full precision.
        capacity: of the ring on the device, in draws (64) or bytes ("512MB"). It changes no result.
        out: a directory for `draws.npy`, `trace.csv` and `checkpoint/`; None keeps all in memory.
        resume: continue from the checkpoint in `out`, to the very draws an unbroken run would give.
        config: written to `config.json` in `out` when the run starts; anything JSON can hold.
        device: move the target there first.
        compile: gradients through `torch.compile`: True, False, or "auto", where the work of the run repays
            it (the rule is printed).
        graph: leapfrog steps as CUDA graphs: True, False, or "auto", on a CUDA device where the model allows.
        profile: write a torch profiler trace of a few iterations, `profile.json`, to `out` (or here), and
            print the five largest costs.
        progress: show a bar, or lines where there is no terminal.

    Raises:
        UserError: an option out of its range, a directory that holds a run or cannot be written.
        KeyboardInterrupt: Ctrl-C; with `out`, a checkpoint was written first.
    """
    if chains < 1:
        raise UserError(f"chains {chains} must be at least 1")
    plan = Plan(burn_in, draws, thin)
    check_seed(seed)
    if device is not None:
        target = target.to(device)
    directory = None if out is None else Path(out)
    theta = target.initial(init, chains, seed)
    saved = None
    if resume:
        if directory is None:
            raise UserError("resume needs out, the directory whose checkpoint to continue from")
        saved = checkpoint.read(directory / "checkpoint")
    elif directory is not None:
        refuse_existing(directory)
    draw_dtype = draw_dtype or target.default_draw_dtype
    draw_size = bytes_per_draw(chains, target.num_params, draw_dtype)
    capacity = parse_capacity(capacity, draw_size, draws)
    if directory is not None and saved is None:
        check_disk(directory, draws * draw_size)
    target, reasons = _prepared(target, sampler, plan, chains, compile, saved)
    graph = checked_graph(target, graph)
    fingerprint = _fingerprint(target, sampler, plan, chains, seed, draw_dtype, theta)
    if saved is not None:
        assert directory is not None
        checkpoint.assert_same_run(saved, fingerprint, directory)
    average, inputs = _average(target, test, chains, draws)

    state = sampler.init(target, theta, seed=seed, graph=graph, warm_up_iterations=burn_in)
    if directory is not None:
        _make_directory(directory)
        if config is not None and saved is None:
            write_json(directory / "config.json", config)
    store = DrawStore(
        draws,
        chains,
        target.num_params,
        capacity=capacity,
        dtype=draw_dtype,
        device=target.device,
        path=None if directory is None else _draws_path(directory),
        count=int(saved.numbers["draws"]) if saved is not None else 0,
    )
    loop = Loop(
        target=target,
        sampler=sampler,
        state=state,
        store=store,
        plan=plan,
        average=average,
        test_inputs=inputs,
        checkpoint_directory=None if directory is None else directory / "checkpoint",
        fingerprint=fingerprint,
        trace_path=(directory or Path()) / "profile.json" if profile else None,
    )
    if saved is not None:
        loop.restore(saved)
    if progress:
        average_bytes = 0 if average is None else average.sums.nbytes + average.second.nbytes
        print(*reasons, forecast(target, state, store, average_bytes), sep="\n", file=sys.stderr)
    try:
        loop.run(progress=progress)
    except UserError:
        if directory is not None and not (directory / "checkpoint" / checkpoint.STATE_FILE).exists():
            _remove_start(directory)
        raise

    finished = Run(
        target=target,
        sampler=sampler,
        plan=plan,
        seed=seed,
        draws=store.draws(),
        test=None if average is None else average.result(),
        curve=None if average is None else average.curve.cpu().numpy(),
        function_draws=loop.function_values(),
        rounding=(int(store.counts[0]), int(store.counts[1])),
        seconds=loop.seconds,
        _trace=torch.stack(loop.trace).numpy(),
    )
    if directory is not None:
        loop.save()
        finished.draws = _publish(directory, finished)
    return finished


def _prepared(
    target: Target,
    sampler: Sampler,
    plan: Plan,
    chains: int,
    compile: Compile,
    saved: "checkpoint.Checkpoint | None",
) -> tuple[Target, tuple[str, ...]]:
    """The target, compiled and its chains batched as the rules say, or as the run to resume had it; and why."""
    if saved is not None and "compiled" in saved.fingerprint:
        compiled, chain_batching = saved.fingerprint["compiled"], saved.fingerprint.get("chain_batching")
    else:
        gradients = (plan.kept_iterations(sampler)[-1] + 1) * sampler.gradients_per_iteration(target)
        choice = choose(target, chains, sampler.batch_size or target.num_data, gradients, compile=compile)
        return choice.target, choice.reasons
    if isinstance(target, Posterior):
        return target.prepared(compiled=compiled, chain_batching=chain_batching), ()
    return target.prepared(compiled=compiled), ()


def refuse_existing(directory: Path) -> None:
    """Raises UserError where a run already lives, or where a directory cannot be."""
    try:
        held = [name for name in ("checkpoint", "draws.npy", "config.json") if (directory / name).exists()]
        above = next(folder for folder in (directory, *directory.absolute().parents) if folder.exists())
    except OSError as error:  # such as a name that is too long
        raise UserError(f"{directory} cannot be written ({error.strerror}): choose another directory") from error
    if not above.is_dir():
        raise UserError(f"{directory} cannot be written, {above} is a file: choose another directory")
    if held:
        raise UserError(f"{directory} already holds a run ({held[0]}): choose another directory, or resume it")


def _make_directory(directory: Path) -> None:
    try:
        (directory / "checkpoint").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{directory} cannot be written ({error.strerror}): choose another directory") from error


def _remove_start(directory: Path) -> None:
    """Takes back what a run without a single checkpoint has written."""
    shutil.rmtree(directory / "checkpoint")
    (directory / "config.json").unlink(missing_ok=True)
    if not any(directory.iterdir()):
        directory.rmdir()


def _draws_path(directory: Path) -> Path:
    """The file takes its final name when it is complete: nobody mistakes half a run for a whole one."""
    finished = directory / "draws.npy"
    return finished if finished.exists() else directory / "checkpoint" / "draws.npy"


def _publish(directory: Path, finished: Run) -> np.ndarray:
    """Writes `trace.csv`, gives `draws.npy` its final name, and returns a view of it."""
    with written_atomically(directory / "trace.csv") as temporary:
        finished.trace.to_csv(temporary, index=False)
    path = _draws_path(directory)
    if path != directory / "draws.npy":
        os.replace(path, directory / "draws.npy")
    return np.load(directory / "draws.npy", mmap_mode="r")


def _average(
    target: Target, test: "Tensor | tuple[Tensor, Tensor] | None", chains: int, draws: int
) -> tuple[StreamedAverage | None, Tensor | None]:
    """The streamed average over the test inputs, checked on one of them before any work starts."""
    if test is None:
        return None, None
    if not isinstance(target, Posterior):
        raise UserError("a bare Density predicts nothing: leave test out")
    inputs, labels = test if isinstance(test, tuple) else (test, None)
    inputs = inputs.to(target.device, target.dtype if inputs.is_floating_point() else None)
    if inputs.shape[1:] != target.x.shape[1:]:
        raise UserError(
            f"test inputs have shape {tuple(inputs.shape[1:])} per example, the data {tuple(target.x.shape[1:])}"
        )
    if labels is not None:
        if len(labels) != len(inputs):
            raise UserError(f"there are {len(inputs)} test inputs and {len(labels)} test labels")
        labels = labels.to(target.device)
    width = prediction_shape(target.predict(target.initial("model", 1, 0), inputs[:1]))[2]
    if labels is not None and target.likelihood.task == "classification":
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= width:
            raise UserError(f"test labels lie in {low}..{high}: they must be in 0..{width - 1}")
    average = StreamedAverage(
        target.likelihood.task,
        (chains, len(inputs), width),
        labels=labels,
        num_draws=draws,
        device=target.device,
    )
    return average, inputs


def _fingerprint(
    target: Target,
    sampler: Sampler,
    plan: Plan,
    chains: int,
    seed: int,
    draw_dtype: torch.dtype,
    theta: Tensor,
) -> dict[str, Any]:
    """What determines the draws: a checkpoint is resumed only under the same."""
    settings = {
        f"{sampler.name} {name}": _digest(value) if isinstance(value, Tensor) else repr(value)
        for name, value in vars(sampler).items()
    }
    data = {"data": _digest(target.x) + _digest(target.y)} if isinstance(target, Posterior) else {}
    return {
        "sampler": sampler.name,
        **settings,
        **dataclasses.asdict(plan),
        "chains": chains,
        "seed": seed,
        "draw_dtype": str(draw_dtype),
        "temperature": target.temperature,
        "compiled": target.compiled,
        "chain_batching": target.chain_batching if isinstance(target, Posterior) else None,
        "prior": [(s.start, s.stop, s.family, s.shape, _scale_name(s.scale)) for s in target.prior],
        "initial parameters": _digest(theta),
        **data,
    }


def _scale_name(scale: "float | Tensor") -> str:
    return _digest(scale) if isinstance(scale, Tensor) else repr(scale)


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.detach().cpu().contiguous().numpy().tobytes()).hexdigest()[:16]
