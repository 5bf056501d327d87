"""The runs of the experiments: each is carried out once and kept in a folder named by a hash of its settings.

Every method produces weights `(S, C, D)`, so all can be evaluated in the same way.
"""

import contextlib
import dataclasses
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from .. import __version__
from ..arguments import shown
from ..atomic_files import make_folder, write_json, written_atomically
from ..checked_files import Unreadable, read_json, read_npy
from ..compute.device import resolve_device
from ..engine.checkpoint import exists
from ..errors import UserError
from ..flag_values import fits
from ..models import build
from ..presets.build import draw, make_dataset, make_posterior
from ..presets.resolve import resolve
from ..presets.sampler_arguments import arguments_of
from ..presets.settings import drawn_from
from ..presets.table import RunSpecification
from ..results.run_folder import write_scores
from ..targets.posterior import Posterior
from ..targets.priors import suggested_trajectory_length
from .approximations import Approximation, approximate
from .settings import EPOCHS, ExperimentSettings

__all__ = ["Job", "Lab", "Sample"]
_MOST_REPETITIONS = 10_000


@dataclass(frozen=True)
class Job:
    """A run to be carried out: its display name, its identity, and the function that writes it to a folder."""

    name: str
    identity: dict[str, Any]
    make: Callable[[Path], None]

    @property
    def folder(self) -> str:
        text = json.dumps({**self.identity, "version": __version__}, sort_keys=True, default=str)
        return f"{self.identity['method']}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


@dataclass(frozen=True)
class Sample:
    """The weights that a method produced.

    Attributes:
        draws: `(S, C, D)`. passes: `(S,)`, passes over the training data by all C chains together up to each draw.
        acceptance_rate: None without a Metropolis test.
    """

    name: str
    directory: Path
    lab: "Lab"
    draws: np.ndarray
    passes: np.ndarray
    seconds: float
    acceptance_rate: float | None
    divergences: int

    @cached_property
    def probs(self) -> np.ndarray:
        """Class probabilities of every draw at the test points, float32 `(S, C, T, K)`; cached in the folder."""
        path = self.directory / f"test_probs-{len(self.lab.dataset.y_test)}.npy"
        shape = (*self.draws.shape[:2], len(self.lab.labels), self.lab.dataset.num_classes)
        with contextlib.suppress(Unreadable):  # made again
            if (probs := read_npy(path)).shape == shape:
                return probs
        _save(path, self.predict(self.lab.dataset.x_test))
        return read_npy(path)

    @property
    def bma(self) -> np.ndarray:
        """The average over all draws, `(T, K)`."""
        return self.probs.mean((0, 1), dtype=np.float64)

    def predict(self, inputs: Tensor, most: int | None = None) -> np.ndarray:
        """Class probabilities at `inputs (T, ...)` of at most `most` evenly spread draws per chain."""
        chosen = np.arange(len(self.draws))
        if most is not None and most < len(chosen):
            chosen = np.unique(np.linspace(0, len(self.draws) - 1, most).astype(np.int64))
        posterior = self.lab.posterior
        inputs = inputs.to(posterior.device)
        rows = []
        for index in chosen:
            theta = torch.from_numpy(np.array(self.draws[index])).to(posterior.device, posterior.dtype)
            rows.append(posterior.predict(theta, inputs).float().cpu().numpy())
        return np.stack(rows)


def _save(path: Path, array: np.ndarray) -> None:
    with written_atomically(path) as temporary:
        np.save(temporary, array)


def _damaged(directory: Path, what: str) -> UserError:
    return UserError(f"the run in {directory} {what}: remove this directory, and the run is made again")


class Lab:
    """The data, the network and the runs of one preset.

    Raises:
        UserError: a preset that is not a classification, or settings out of range.
    """

    def __init__(self, preset: str, settings: ExperimentSettings, *, all_data: bool = False) -> None:
        self.preset, self.settings = preset, settings
        self.obtained: dict[str, Sample] = {}  # by folder
        for name in ("chains", "draws", "long_draws", "seeds", "epochs", "sampler_epochs", "members"):
            value = getattr(settings, name)
            if value is not None and value < 1:
                raise UserError(f"--{name.replace('_', '-')} {value} must be at least 1")
        for name, value in (("seeds", settings.seeds), ("members", settings.members)):
            if value > _MOST_REPETITIONS:
                raise UserError(f"--{name} {value} must be at most {_MOST_REPETITIONS:,}: each is a run of its own")
        if settings.burn_in < 0 or settings.train_size < 0 or settings.test_size < 0:
            raise UserError("--burn-in, --train-size and --test-size must be positive, or 0")
        self.device = resolve_device(settings.device)
        common = ("prior_variance", "data_dir", "precision", "compile", "chains", "seed")
        self._common = {name: getattr(settings, name) for name in common}
        self._common |= {"device": str(self.device), "progress": False}
        own = self._specification().settings
        full = make_dataset(own)
        if full.task != "classification":
            raise UserError(f"preset {preset!r} is a regression: experiments compare class probabilities")
        train_size = len(full.y_train) if all_data or not settings.train_size else settings.train_size
        self.dataset = full.subset(train_size, settings.test_size or None)
        self._runs_on = full.subset(train_size)  # the whole test set, so that a run serves every --test-size
        self.share = train_size / len(full.y_train)  # of all training data
        self.epochs, self.sampler_epochs = (
            asked or round(usual / self.share)
            for asked, usual in zip((settings.epochs, settings.sampler_epochs), EPOCHS[preset], strict=True)
        )
        self.posterior: Posterior = make_posterior(own, self.dataset, self.device)[0]

    @property
    def labels(self) -> np.ndarray:
        return self.dataset.y_test.numpy()

    def _specification(self, **changes: Any) -> RunSpecification:
        """The preset's run with these changes; None keeps the preset's value."""
        given = self._common | changes
        return resolve(self.preset, {name: value for name, value in given.items() if value is not None})

    def _identity(self) -> dict[str, Any]:
        return {"preset": self.preset, "train_size": len(self.dataset.y_train)}

    def hmc(self, name: str = "HMC", **changes: Any) -> Job:
        """Full-batch HMC with the experiment's settings and with changes, named as in `hmc_fast.sample`."""
        own = ("burn_in", "draws", "step_size", "trajectory_length")
        own_values = {key: getattr(self.settings, key) for key in own}
        if own_values["trajectory_length"] is None:  # the paper's length; presets for a first look use shorter ones
            own_values["trajectory_length"] = suggested_trajectory_length(self.settings.prior_variance)
        return self.sampler(name, **{"sampler": "hmc", "init": "prior", **own_values, **changes})

    def sampler(self, name: str, **changes: Any) -> Job:
        """A sampler of the command line with its preset's values and with changes."""
        specification = self._specification(**changes)
        identity = {"method": specification.sampler.name, **drawn_from(specification.flat()), **self._identity()}
        return Job(name, identity, partial(self._draw, specification))

    def minibatch(self, name: str, sampler: str, **changes: Any) -> Job:
        """A minibatch sampler. A preset's step size and friction are meant for the full training set. On a subset
        they are derived from HMC's step size, which is stable there: half of it, or for sgld twice its square."""
        if self.share < 1:
            step_size = self.settings.step_size
            friction = arguments_of(self._specification(sampler=sampler).sampler).get("friction")
            changes = {"step_size": 2 * step_size**2 if sampler == "sgld" else 0.5 * step_size, **changes}
            changes |= {"friction": friction * self.share**0.5} if friction is not None else {}
        return self.sampler(name, sampler=sampler, **changes)

    def _draw(self, specification: RunSpecification, directory: Path) -> None:
        resume = exists(directory / "checkpoint")
        if directory.exists() and not resume:
            shutil.rmtree(directory)  # interrupted before its first checkpoint
        settings = dataclasses.replace(specification.settings, resume=resume)
        run = draw(dataclasses.replace(specification, settings=settings), directory, self._runs_on)
        share = min(1.0, (run.sampler.batch_size or run.target.num_data) / run.target.num_data)
        spent = share * run.trace.groupby("iteration")["leapfrog_steps"].sum().cumsum().to_numpy()
        _save(directory / "passes.npy", spent[run.plan.kept_iterations(run.sampler)])
        test = self._runs_on  # written last: metrics.json marks the run as complete
        write_scores(directory, self.preset, run, test.y_test.numpy(), test.y_mean, test.y_std)

    def fit(self, name: str, method: str, *, seed: int = 0, **options: Any) -> Job:
        """An approximation by training, see `approximations.approximate`."""
        options = {"epochs": self.epochs, **options}
        identity = {
            "method": method,
            "seed": seed,
            **options,
            **self._identity(),
            "prior_variance": self.settings.prior_variance,
        }

        def make(directory: Path) -> None:
            if directory.exists():
                shutil.rmtree(directory)
            begin = time.perf_counter()
            made = approximate(method, self.posterior, self._networks(), self.dataset, seed=seed, **options)
            self._keep(directory, made, time.perf_counter() - begin)

        return Job(name, identity, make)

    def _networks(self) -> Callable[[int], torch.nn.Module]:
        own = self._specification().settings
        return lambda seed: build(
            own.model, self.dataset, width=own.width, activation=own.activation, norm=own.norm, seed=seed
        )

    def _keep(self, directory: Path, made: Approximation, seconds: float) -> None:
        make_folder(directory)
        _save(directory / "draws.npy", made.draws)
        _save(directory / "passes.npy", made.passes)
        write_json(directory / "metrics.json", {"seconds": seconds})

    def obtain(self, jobs: Sequence[Job]) -> list[Sample]:
        """The samples of `jobs`, in order, from the cache or carried out now under a progress bar."""
        root = self.settings.cache
        missing = [job for job in jobs if not (root / job.folder / "metrics.json").exists()]
        unique = {job.folder: job for job in missing}
        if unique:
            self._make(list(unique.values()), len(jobs))
        samples = [self._read(job) for job in jobs]
        self.obtained.update((job.folder, sample) for job, sample in zip(jobs, samples, strict=True))
        return samples

    def stuck(self, below: float = 0.2) -> list[Sample]:
        """All samples obtained with an acceptance rate below `below`."""
        return [
            s for s in self.obtained.values() if (1.0 if s.acceptance_rate is None else s.acceptance_rate) < below
        ]

    def _make(self, jobs: Sequence[Job], total: int) -> None:
        from tqdm import tqdm

        show = self.settings.progress
        terminal = sys.stderr.isatty()
        with tqdm(total=len(jobs), unit="run", disable=not (show and terminal)) as bar:
            for index, job in enumerate(jobs):
                begin = time.perf_counter()
                bar.set_description(job.name)
                self._make_alone(job)
                bar.update()
                if show and not terminal:
                    seconds = time.perf_counter() - begin
                    kept = f", {total - len(jobs)} from the cache" if index == 0 else ""
                    line = f"run {index + 1}/{len(jobs)}  {job.name}  {seconds:.0f} s{kept}"
                    print(line, file=sys.stderr, flush=True)

    def _make_alone(self, job: Job) -> None:
        """Locks the run, so that another process that needs it waits and then finds it done."""
        directory = self.settings.cache / job.folder
        locks = self.settings.cache / "locks"
        make_folder(locks)
        with FileLock(locks / job.folder):
            if not (directory / "metrics.json").exists():
                job.make(directory)

    def _read(self, job: Job) -> Sample:
        directory = self.settings.cache / job.folder
        try:
            metrics = read_json(directory / "metrics.json")
            draws, passes = read_npy(directory / "draws.npy"), read_npy(directory / "passes.npy")
        except Unreadable as error:
            raise _damaged(directory, str(error)) from error
        for name, kind in (("seconds", float), ("acceptance_rate", float | None), ("divergences", int | None)):
            if not fits(value := metrics.get(name), kind):
                raise _damaged(directory, f"has {shown(value)} as {name!r}")
        if draws.ndim != 3 or draws.shape[2] != self.posterior.num_params or passes.shape != draws.shape[:1]:
            raise _damaged(directory, f"has draws of shape {draws.shape} and passes of shape {passes.shape}")
        return Sample(
            name=job.name,
            directory=directory,
            lab=self,
            draws=draws,
            passes=passes,
            seconds=metrics["seconds"],
            acceptance_rate=metrics.get("acceptance_rate"),
            divergences=metrics.get("divergences") or 0,
        )
