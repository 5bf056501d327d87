"""Where a run leaves its draws, trace and checkpoint: in a folder, or nowhere but in memory."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..atomic_files import write_json, written_atomically
from ..errors import UserError
from ..results.trace import Trace
from . import checkpoint
from .forecast import check_disk

__all__ = ["Output", "OutputFolder", "refuse_existing"]


class Output:
    """Nowhere but in memory: nothing is written, so nothing can be resumed. `OutputFolder` says otherwise."""

    profile_path = Path("profile.json")

    @property
    def draws_path(self) -> Path | None:
        """The file that draws go to as they arrive."""
        return None

    def read_checkpoint(self) -> checkpoint.Checkpoint:
        """The checkpoint to resume from. Raises UserError where there is none."""
        raise UserError("resume needs out, the directory whose checkpoint to continue from")

    def assert_same_run(self, saved: checkpoint.Checkpoint, fingerprint: dict[str, Any]) -> None:
        """Raises UserError when the checkpoint belongs to a run with other settings."""

    def check_room(self, draw_bytes: int) -> None:
        """Raises UserError where a new run with so many bytes of draws cannot be put."""

    def create(self) -> None:
        """Makes the folder. Raises UserError where it cannot be written."""

    def write_config(self, config: dict[str, Any]) -> None:
        """Writes the settings of a new run."""

    def write_checkpoint(
        self,
        state: Any,
        extra: dict[str, Tensor],
        numbers: dict[str, int | float],
        fingerprint: dict[str, Any],
    ) -> None:
        """Replaces the checkpoint."""

    def remove_start(self) -> None:
        """Takes back what a run without a single checkpoint has written."""

    def publish(self, trace: Trace, burn_in: int, draws: np.ndarray) -> np.ndarray:
        """Leaves the files of a finished run; returns its draws `(S, C, D)`, from where they now are."""
        return draws


class OutputFolder(Output):
    """A folder with `config.json`, `checkpoint/`, and, once the run is complete, `draws.npy` and `trace.csv`.

    Draws take their final name last: nobody mistakes half a run for a whole one.
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

    def write_checkpoint(
        self,
        state: Any,
        extra: dict[str, Tensor],
        numbers: dict[str, int | float],
        fingerprint: dict[str, Any],
    ) -> None:
        checkpoint.write(self.checkpoint, state, extra, numbers, fingerprint)

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
    """Raises UserError where a run already lives, or where a directory cannot be."""
    try:
        held = [name for name in ("checkpoint", "draws.npy", "config.json") if (directory / name).exists()]
        above = next(folder for folder in (directory, *directory.absolute().parents) if folder.exists())
    except OSError as error:  # such as a name that is too long
        raise _unwritable(directory, error.strerror) from error
    if not above.is_dir():
        raise UserError(f"{directory} cannot be written, {above} is a file: choose another directory")
    if held:
        raise UserError(f"{directory} already holds a run ({held[0]}): choose another directory, or resume it")


def _unwritable(directory: Path, reason: str | None) -> UserError:
    return UserError(f"{directory} cannot be written ({reason}): choose another directory")
