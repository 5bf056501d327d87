"""The destination of a run's draws, trace and checkpoint: a folder, or memory only."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic_files import write_json, written_atomically
from ..errors import UserError
from ..results.trace import Trace
from . import checkpoint
from .forecast import check_disk

__all__ = ["Output", "OutputFolder", "refuse_existing"]


class Output:
    """Memory only: nothing is written, so nothing can be resumed. `OutputFolder` overrides this."""

    profile_path = Path("profile.json")

    @property
    def draws_path(self) -> Path | None:
        """The file to which draws are written as they arrive."""
        return None

    def read_checkpoint(self) -> checkpoint.Checkpoint:
        """The checkpoint to resume from. Raises UserError if there is none."""
        raise UserError("resume needs out, the directory with the checkpoint to continue from")

    def assert_same_run(self, saved: checkpoint.Checkpoint, fingerprint: dict[str, Any]) -> None:
        """Raises UserError if the checkpoint belongs to a run with other settings."""

    def check_room(self, draw_bytes: int) -> None:
        """Raises UserError if there is no room for a new run with this many bytes of draws."""

    def create(self) -> None:
        """Creates the folder. Raises UserError if it cannot be written."""

    def write_config(self, config: dict[str, Any]) -> None:
        """Writes the settings of a new run."""

    def write_checkpoint(self, saved: checkpoint.Checkpoint) -> None:
        """Replaces the checkpoint."""

    def remove_start(self) -> None:
        """Removes the files of a run that failed before its first checkpoint."""

    def publish(self, trace: Trace, burn_in: int, draws: np.ndarray) -> np.ndarray:
        """Writes the files of a finished run; returns its draws `(S, C, D)`, from their final location."""
        return draws


class OutputFolder(Output):
    """A folder with `config.json`, `checkpoint/` and, once the run is complete, `draws.npy` and `trace.csv`.

    The draws get their final name last, so an incomplete run cannot be mistaken for a complete one.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.checkpoint = directory / "checkpoint"
        self.finished_draws = directory / "draws.npy"
        self.profile_path = directory / "profile.json"

    @property
    def draws_path(self) -> Path:
        return self.finished_draws if self.finished_draws.exists() else self.checkpoint / "draws.npy"

    def read_checkpoint(self) -> checkpoint.Checkpoint:
        return checkpoint.read(self.checkpoint)

    def assert_same_run(self, saved: checkpoint.Checkpoint, fingerprint: dict[str, Any]) -> None:
        checkpoint.assert_same_run(saved, fingerprint, self.directory)

    def check_room(self, draw_bytes: int) -> None:
        refuse_existing(self.directory)
        check_disk(self.directory, draw_bytes)

    def create(self) -> None:
        try:
            self.checkpoint.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(self.directory, error.strerror) from error

    def write_config(self, config: dict[str, Any]) -> None:
        write_json(self.directory / "config.json", config)

    def write_checkpoint(self, saved: checkpoint.Checkpoint) -> None:
        checkpoint.write(self.checkpoint, saved)

    def remove_start(self) -> None:
        if (self.checkpoint / checkpoint.STATE_FILE).exists():
            return
        shutil.rmtree(self.checkpoint)
        (self.directory / "config.json").unlink(missing_ok=True)
        if not any(self.directory.iterdir()):
            self.directory.rmdir()

    def publish(self, trace: Trace, burn_in: int, draws: np.ndarray) -> np.ndarray:
        with written_atomically(self.directory / "trace.csv") as temporary:
            trace.frame(burn_in).to_csv(temporary, index=False)
        if not self.finished_draws.exists():
            os.replace(self.draws_path, self.finished_draws)
        return np.load(self.finished_draws, mmap_mode="r")


def refuse_existing(directory: Path) -> None:
    """Raises UserError if the directory already contains a run or cannot be created."""
    try:
        held = [name for name in ("checkpoint", "draws.npy", "config.json") if (directory / name).exists()]
        above = next(folder for folder in (directory, *directory.absolute().parents) if folder.exists())
    except OSError as error:  # such as a name that is too long
        raise _unwritable(directory, error.strerror) from error
    if not above.is_dir():
        raise UserError(f"{directory} cannot be written because {above} is a file: choose another directory")
    if held:
        raise UserError(f"{directory} already contains a run ({held[0]}): choose another directory, or resume it")


def _unwritable(directory: Path, reason: str | None) -> UserError:
    return UserError(f"{directory} cannot be written ({reason}): choose another directory")
