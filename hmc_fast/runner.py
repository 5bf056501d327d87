"""`hmc_fast.run`: posterior and sampler in, draws and predictions out."""

import dataclasses
import hashlib
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from .bma import StreamedAverage
from .diagnostics import ess_bulk, rhat
from .engine import checkpoint
from .engine.forecast import check_disk, forecast
from .engine.loop import TRACE_COLUMNS, Loop, Plan
from .errors import UserError
from .jsonfile import write_json
from .posterior import Posterior, Target
from .predictions import Classification, Regression
from .samplers.base import Sampler
from .store import DrawStore, bytes_per_draw, parse_capacity
from .streams import check_seed

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Run", "run"]

# Weights whose R-hat and ESS `summary` reports: a spread-out sample of them, as the rest behave alike.
_SUMMARY_WEIGHTS = 1000


@dataclasses.dataclass
class Run:
    """A finished run.

    Attributes:
        draws: `(S, C, D)` in draw_dtype; a memory-mapped `.npy` when the run had a directory.
        test: the streamed average over the test inputs, or None.
        curve: float64 `(S, 2 + 2C)`, see `StreamedAverage.curve`; None without test labels.
        function_draws: float32 `(C, S, Q)`, predictions at the first test points, draw by draw.
        rounding: values of the stored draws that overflowed, and that became subnormal.
    """

    target: Target
    sampler: Sampler
    plan: Plan
    seed: int
    draws: np.ndarray
    test: Classification | Regression | None
    curve: np.ndarray | None
    function_draws: np.ndarray
    rounding: tuple[int, int]
    seconds: float
    _trace: np.ndarray  # (I, C, columns)

    @property
    def num_chains(self) -> int:
        return int(self.draws.shape[1])

    @property
    def gradients(self) -> int:
        """Gradient evaluations, each of one chain, full batch or minibatch."""
        return int(self._trace[:, :, TRACE_COLUMNS.index("leapfrog_steps")].sum())

    @property
    def trace(self) -> "pd.DataFrame":
        """One row per chain and iteration; log_likelihood is the sum over the data (SG samplers: estimated
        on the iteration's minibatches)."""
        import pandas as pd

        iterations, chains, _ = self._trace.shape
        index = np.indices((iterations, chains))
        phase = np.where(index[0].ravel() < self.plan.burn_in, "burn_in", "sampling")
        frame = pd.DataFrame({"chain": index[1].ravel(), "iteration": index[0].ravel(), "phase": phase})
        for column, name in enumerate(TRACE_COLUMNS):
            frame[name] = self._trace[:, :, column].ravel()
        whole = ["accepted", "divergent", "leapfrog_steps"]
        frame[whole] = frame[whole].astype(np.int64)
        return frame

    @property
    def acceptance_rate(self) -> float | None:
        """Share of accepted proposals after burn-in; None without a Metropolis test."""
        if not self.sampler.has_metropolis_test:
            return None
        return float(self._trace[self.plan.burn_in :, :, TRACE_COLUMNS.index("accepted")].mean())

    @property
    def divergences(self) -> int:
        """Divergent proposals after burn-in."""
        return int(self._trace[self.plan.burn_in :, :, TRACE_COLUMNS.index("divergent")].sum())

    def predict(self, inputs: Tensor, *, batch_size: int = 1024) -> Classification | Regression:
        """The average over all draws of the predictions at `inputs (T, ...)`; memory is bounded by
        `batch_size` inputs, not by the number of draws.

        Raises:
            UserError: the target is a bare density, which predicts nothing.
        """
        target = self.target
        if not isinstance(target, Posterior):
            raise UserError("a bare Density predicts nothing: build a Posterior from a model to predict")
        inputs = inputs.to(target.device, target.dtype if inputs.is_floating_point() else None)
        average: StreamedAverage | None = None
        previous: np.ndarray | None = None
        for draw in self.draws:
            if previous is None or not np.array_equal(draw, previous):
                theta = torch.from_numpy(np.array(draw)).to(target.device, target.dtype)
                predictions = target.predict(theta, inputs, batch_size=batch_size)
                previous = draw
            if average is None:
                average = StreamedAverage(
                    target.likelihood.task, _shape(predictions), device=target.device
                )
            average.update(predictions)
        assert average is not None
        return average.result()

    def summary(self) -> "pd.DataFrame":
        """Mean, sd, bulk ESS and R-hat: predictions first, if the run had test inputs, then weights (at most
        1,000 of each, evenly spread)."""
        import pandas as pd

        blocks = []
        if self.function_draws.shape[2]:
            blocks.append(("function", np.arange(self.function_draws.shape[2]), self.function_draws))
        chosen = np.unique(np.linspace(0, self.draws.shape[2] - 1, _SUMMARY_WEIGHTS).astype(np.int64))
        blocks.append(("weight", chosen, np.moveaxis(self.draws[:, :, chosen], 0, 1)))
        frames = []
        for kind, index, values in blocks:
            values = values.astype(np.float64)
            frames.append(
                pd.DataFrame(
                    {
                        "kind": kind,
                        "index": index,
                        "mean": values.mean((0, 1)),
                        "sd": values.std((0, 1), ddof=1),
                        "ess_bulk": ess_bulk(values),
                        "r_hat": rhat(values),
                    }
                )
            )
        return pd.concat(frames, ignore_index=True)

    def to_arviz(self) -> Any:
        """An `arviz.InferenceData`: parameters by name, function values, and sample statistics.

        Raises:
            UserError: arviz is not installed.
        """
        try:
            import arviz
        except ImportError as error:
            raise UserError("to_arviz needs arviz: pip install 'hmc_fast[arviz]'") from error
        draws = np.moveaxis(np.asarray(self.draws, dtype=np.float32), 0, 1)  # (C, S, D)
        posterior: dict[str, np.ndarray] = {}
        if isinstance(self.target, Posterior):
            flat = self.target.flat
            edges = np.cumsum([0, *flat.sizes])
            for name, shape, begin, end in zip(flat.names, flat.shapes, edges[:-1], edges[1:], strict=True):
                posterior[name] = draws[:, :, begin:end].reshape(*draws.shape[:2], *shape)
        else:
            posterior["theta"] = draws
        if self.function_draws.shape[2]:
            posterior["function"] = self.function_draws
        trace = self._trace[self.plan.kept_iterations(self.sampler)]
        stats = {
            "lp": trace[:, :, 0] + trace[:, :, 1],
            "acceptance_rate": trace[:, :, TRACE_COLUMNS.index("accept_prob")],
            "diverging": trace[:, :, TRACE_COLUMNS.index("divergent")].astype(bool),
            "n_steps": trace[:, :, TRACE_COLUMNS.index("leapfrog_steps")].astype(np.int64),
        }
        return arviz.from_dict(
            posterior=posterior, sample_stats={name: np.moveaxis(v, 0, 1) for name, v in stats.items()}
        )


def run(
    target: Target,
    sampler: Sampler,
    *,
    chains: int = 4,
    burn_in: int = 50,
    draws: int = 200,
    thin: int = 1,
    seed: int = 0,
    init: "Literal['prior', 'model'] | Tensor" = "prior",
    test: "Tensor | tuple[Tensor, Tensor] | None" = None,
    draw_dtype: torch.dtype = torch.float16,
    capacity: "int | str | None" = None,
    out: "str | Path | None" = None,
    resume: bool = False,
    config: dict[str, Any] | None = None,
    device: "torch.device | str | None" = None,
    progress: bool = True,
) -> Run:
    """Samples `target` with `sampler`.

    Args:
        target: a `Posterior` or `Density`.
        chains, burn_in, draws, thin: C; iterations before anything is kept; S draws of every chain, one per
            `thin` iterations after that.
        seed: all randomness follows from it; the same seed gives the same draws.
        init: where chains begin, see `Target.initial`.
        test: inputs `(T, ...)`, or (inputs, labels), whose predictions are averaged as draws arrive.
        draw_dtype: of stored draws, torch.float16 or torch.float32. The chain itself keeps full precision.
        capacity: of the ring on the device, in draws (64) or bytes ("512MB"). It changes no result.
        out: a directory for `draws.npy`, `trace.csv` and `checkpoint/`; None keeps all in memory.
        resume: continue from the checkpoint in `out`, to the very draws an unbroken run would give.
        config: written to `config.json` in `out` when the run starts; anything JSON can hold.
        device: move the target there first.
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
        target = target.to(device)  # type: ignore[attr-defined]
    directory = None if out is None else Path(out)
    theta = target.initial(init, chains, seed)
    fingerprint = _fingerprint(target, sampler, plan, chains, seed, draw_dtype, theta)
    saved = None
    if resume:
        if directory is None:
            raise UserError("resume needs out, the directory whose checkpoint to continue from")
        saved = checkpoint.read(directory / "checkpoint")
        checkpoint.assert_same_run(saved, fingerprint, directory)
    elif directory is not None:
        refuse_existing(directory)
    average, inputs = _average(target, test, chains, draws)
    draw_size = bytes_per_draw(chains, target.num_params, draw_dtype)
    capacity = parse_capacity(capacity, draw_size, draws)
    if directory is not None and saved is None:
        check_disk(directory, draws * draw_size)

    state = sampler.init(target, theta, seed=seed)
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
    )
    if saved is not None:
        loop.restore(saved)
    if progress:
        average_bytes = 0 if average is None else average.sums.nbytes + average.second.nbytes
        print(forecast(target, state, store, average_bytes), file=sys.stderr)
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


def refuse_existing(directory: Path) -> None:
    """Raises UserError where a run already lives, or where a directory cannot be."""
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory} is a file: choose another directory")
    for name in ("checkpoint", "draws.npy", "config.json"):
        if (directory / name).exists():
            raise UserError(
                f"{directory} already holds a run ({name}): choose another directory, or resume it"
            )


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
    temporary = directory / "trace.csv.tmp"
    finished.trace.to_csv(temporary, index=False)
    os.replace(temporary, directory / "trace.csv")
    path = _draws_path(directory)
    if path != directory / "draws.npy":
        os.replace(path, directory / "draws.npy")
    return np.load(directory / "draws.npy", mmap_mode="r")


def _shape(predictions: Tensor) -> tuple[int, int, int]:
    chains, points, width = predictions.flatten(2).shape if predictions.ndim > 2 else (*predictions.shape, 1)
    return chains, points, width


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
    width = _shape(target.predict(target.initial("model", 1, 0), inputs[:1]))[2]
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
    target: Target, sampler: Sampler, plan: Plan, chains: int, seed: int, draw_dtype: torch.dtype, theta: Tensor
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
        "prior": [(s.start, s.stop, s.family, s.shape, _scale_name(s.scale)) for s in target.prior],
        "initial parameters": _digest(theta),
        **data,
    }


def _scale_name(scale: "float | Tensor") -> str:
    return _digest(scale) if isinstance(scale, Tensor) else repr(scale)


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.detach().cpu().contiguous().numpy().tobytes()).hexdigest()[:16]
