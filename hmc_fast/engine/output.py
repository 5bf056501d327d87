"""The destination of a run's draws, trace and checkpoint: a folder, or memory only."""

import contextlib
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from ..atomic_files import (
    NotWritten,
    allocate,
    make_folder,
    open_file,
    remove,
    remove_leftovers,
    rename,
    write_json,
    written_atomically,
)
from ..errors import UserError
from ..results.row_files import RowFile, Rows, is_begun
from ..results.trace import Trace
from . import checkpoint
from .forecast import DiskUse, check_disk

__all__ = ["Output", "OutputFolder", "is_unbegun", "refuse_existing"]

_ITERATIONS = 2000  # written to trace.csv at a time
_ROWS = ("draws", "trace", "function_values", "curve")  # the files that grow


class Output:
    """Memory only: nothing is written, so nothing can be resumed. `OutputFolder` overrides this.

    As a context, it is nobody else's from `create` or `read_checkpoint` on.
    """

    profile_path = Path("profile.json")
    is_kept = False  # whether checkpoints are

    def __enter__(self) -> "Output":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def read_checkpoint(self) -> "checkpoint.Checkpoint | None":
        """The checkpoint to resume from; None if the run was stopped before its first one. Raises UserError if
        there is none."""
        raise UserError("resume needs out, the directory with the checkpoint to continue from")

    def refuse_existing(self) -> None:
        """Raises UserError if there is a run already."""

    def check_room(self, needed: DiskUse) -> None:
        """Raises UserError if there is no room for this."""

    def create(self) -> None:
        """Creates the folder. Raises UserError if it cannot be written."""

    def write_config(self, config: dict[str, Any]) -> None:
        """Writes the settings of a new run."""

    def write_members(self, members: np.ndarray) -> None:
        """Keeps the trained members `(C, D)` at which chains begin; before the first checkpoint."""

    def rows(
        self, name: str, shape: tuple[int, ...], dtype: Any, saved: "checkpoint.Checkpoint | None" = None
    ) -> Rows:
        """Where rows of this shape go; with a checkpoint, after those that it counts."""
        return Rows(shape, dtype)

    def reserve_draws(self, size: int) -> None:
        """Reserves bytes for draws whose type is not known yet."""

    def write_checkpoint(self, saved: checkpoint.Checkpoint) -> None:
        """Replaces the checkpoint."""

    def remove_start(self) -> None:
        """Removes the files of a new run that failed before it had anything to continue."""

    def publish(self, trace: Trace, burn_in: int, draws: np.ndarray) -> np.ndarray:
        """Writes the files of a finished run; returns its draws `(S, C, D)`, from their final location."""
        return draws


class OutputFolder(Output):
    """A folder with `config.json`, `checkpoint/` and, once the run is complete, `draws.npy` and `trace.csv`.

    The draws get their final name last, so an incomplete run cannot be mistaken for a complete one.
    """

    is_kept = True

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.checkpoint = directory / "checkpoint"
        self.finished_draws = directory / "draws.npy"
        self.members_path = self.checkpoint / "members.npy"
        self.profile_path = directory / "profile.json"
        self._lock: FileLock | None = None
        self._keep_previous = True
        self._is_start = False  # nothing is lost by removing it
        self._has_checkpoint = False

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and issubclass(kind, Exception) and not self._has_checkpoint:
            self.remove_start()
        if self._lock is not None:
            self._lock.release()

    def _path(self, name: str) -> Path:
        """Of a file of rows."""
        is_finished = name == "draws" and self.finished_draws.exists()
        return self.finished_draws if is_finished else self.checkpoint / f"{name}.npy"

    def _take(self) -> None:
        """Locks the folder, and removes what killed processes left in it."""
        lock = FileLock(self.checkpoint / "lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise UserError(
                f"{self.directory} is in use by another process: wait for its end, or choose another directory"
            ) from None
        except (OSError, NotImplementedError) as error:
            raise _unwritable(self.directory, f"its lock: {error}") from error
        self._lock = lock
        for path in (self.directory / "config.json", self.directory / "trace.csv", self.members_path):
            remove_leftovers(path)
        remove_leftovers(self.checkpoint / checkpoint.STATE_FILE)

    def read_checkpoint(self) -> checkpoint.Checkpoint | None:
        if self.checkpoint.is_dir():
            self._take()
        if is_unbegun(self.directory):
            return None
        saved = checkpoint.read(self.checkpoint, {name: self._path(name) for name in _ROWS})
        self._keep_previous = saved.is_newest
        return saved

    def refuse_existing(self) -> None:
        if self._lock is None:
            refuse_existing(self.directory)

    def check_room(self, needed: DiskUse) -> None:
        check_disk(self.directory, needed)

    def create(self) -> None:
        if self._lock is not None:
            return
        try:
            make_folder(self.checkpoint)
        except NotWritten as error:
            raise _unwritable(self.directory, error.reason) from error
        self._take()
        refuse_existing(self.directory)  # again, now that nobody else can create one
        self._is_start = True

    def write_config(self, config: dict[str, Any]) -> None:
        write_json(self.directory / "config.json", config)

    def write_members(self, members: np.ndarray) -> None:
        with written_atomically(self.members_path) as temporary:
            np.save(temporary, members)

    def rows(
        self, name: str, shape: tuple[int, ...], dtype: Any, saved: checkpoint.Checkpoint | None = None
    ) -> RowFile:
        counted = saved.files.get(name) if saved is not None else None
        if counted is None or saved is None:
            return RowFile(self._path(name), shape, dtype)
        return RowFile(self._path(name), shape, dtype, count=counted.rows, hasher=saved.hashers[name])

    def reserve_draws(self, size: int) -> None:
        path = self._path("draws")
        descriptor = open_file(path)
        try:
            allocate(path, descriptor, size)
        finally:
            os.close(descriptor)

    def write_checkpoint(self, saved: checkpoint.Checkpoint) -> None:
        checkpoint.write(self.checkpoint, saved, keep_previous=self._keep_previous)
        self._keep_previous = self._has_checkpoint = True
        self._is_start = self._is_start and saved.numbers["iteration"] == 0

    def remove_start(self) -> None:
        if not self._is_start:
            return
        with contextlib.suppress(OSError):  # what stopped the run says more; or there is something else in it
            (self.directory / "config.json").unlink(missing_ok=True)
            shutil.rmtree(self.checkpoint)
            self.directory.rmdir()

    def publish(self, trace: Trace, burn_in: int, draws: np.ndarray) -> np.ndarray:
        with written_atomically(self.directory / "trace.csv") as temporary:
            for first in range(0, len(trace), _ITERATIONS):
                part = trace[first : first + _ITERATIONS].frame(burn_in, first)
                part.to_csv(temporary, mode="a", header=not first, index=False)
        unfinished = self.checkpoint / "draws.npy"
        if not self.finished_draws.exists() and np.load(unfinished, mmap_mode="r").shape == draws.shape:
            rename(unfinished, self.finished_draws)
        elif not self.finished_draws.exists():  # the run has ended early
            with written_atomically(self.finished_draws) as temporary, temporary.open("wb") as file:
                np.save(file, draws)
        remove(unfinished)
        return np.load(self.finished_draws, mmap_mode="r")


def refuse_existing(directory: Path) -> None:
    """Raises UserError if the directory already contains a run or cannot be created. A start that was cut off
    before its first checkpoint is no run."""
    try:
        held = [name for name in ("checkpoint", "draws.npy", "config.json") if (directory / name).exists()]
        above = next(folder for folder in (directory, *directory.absolute().parents) if folder.exists())
        unbegun = is_unbegun(directory)
    except OSError as error:  # such as a name that is too long
        raise _unwritable(directory, error.strerror) from error
    if not above.is_dir():
        raise UserError(f"{directory} cannot be written because {above} is a file: choose another directory")
    if held and not unbegun:
        raise UserError(f"{directory} already contains a run ({held[0]}): choose another directory, or resume it")


def is_unbegun(directory: Path) -> bool:
    """Whether a run was cut off before its first checkpoint: the folder has `checkpoint/`, and nothing in it."""
    folder = directory / "checkpoint"
    paths = [directory / "draws.npy", *(folder / f"{name}.npy" for name in _ROWS)]
    return folder.is_dir() and not checkpoint.exists(folder) and not any(is_begun(path) for path in paths)


def _unwritable(directory: Path, reason: str | None) -> UserError:
    return UserError(f"{directory} cannot be written ({reason}): choose another directory")
