"""The state of a run on disk: one safetensors file, replaced atomically. A resumed run gives the same draws.

There is no generator state to store: every random value is a function of the seed and of counters in the state.
What grows with the run, such as its draws, is in files of rows beside it; the checkpoint stores how many rows it
counts, their SHA-256, and one of itself. The checkpoint before the newest is kept.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..atomic_files import NotWritten, make_folder, rename, written_atomically
from ..errors import UserError
from ..messages import tell
from ..results.row_files import Counted, Damaged, verified
from ..samplers.protocol import restore, state_tensors

__all__ = ["Checkpoint", "exists", "on_host", "read", "restore_state", "saved_state", "write"]

STATE_FILE, PREVIOUS_FILE = "state.safetensors", "previous.safetensors"


@dataclasses.dataclass
class Checkpoint:
    """The contents of a checkpoint.

    Attributes:
        tensors, numbers: by name. fingerprint: the settings of its run. files: of rows, by name.
        hashers: of the rows that the checkpoint counts, by file, once they are verified.
        is_newest: False for the one before, which is read where the newest is damaged.
    """

    tensors: dict[str, Tensor]
    numbers: dict[str, int]
    fingerprint: dict[str, Any]
    files: dict[str, Counted] = dataclasses.field(default_factory=dict)
    hashers: dict[str, Any] = dataclasses.field(default_factory=dict)
    is_newest: bool = True

    def sha256(self) -> str:
        """Of everything stored."""
        hasher = hashlib.sha256(json.dumps([self.numbers, self.fingerprint, self.files], sort_keys=True).encode())
        for name, tensor in sorted(self.tensors.items()):
            hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            hasher.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
        return hasher.hexdigest()


def write(directory: Path, checkpoint: Checkpoint, *, keep_previous: bool = True) -> None:
    """Writes atomically: an interruption leaves the previous checkpoint intact.

    keep_previous: keep the checkpoint that is there as the previous one; False if it is damaged.

    Raises:
        NotWritten: the disk is full, or the folder cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    make_folder(directory)
    path, host = directory / STATE_FILE, on_host(checkpoint.tensors)
    checkpoint = dataclasses.replace(checkpoint, tensors=host)
    metadata = {
        "numbers": json.dumps(checkpoint.numbers),
        "fingerprint": json.dumps(checkpoint.fingerprint),
        "files": json.dumps(checkpoint.files),
        "sha256": checkpoint.sha256(),
    }
    with written_atomically(path) as temporary:
        try:
            save_file(host, temporary, metadata=metadata)
        except SafetensorError as error:  # so it reports those of the operating system
            raise NotWritten(path, OSError(str(error))) from error
        if keep_previous and path.exists():
            rename(path, directory / PREVIOUS_FILE)


def exists(directory: Path) -> bool:
    """Whether there is a checkpoint, damaged or not."""
    return any((directory / name).exists() for name in (STATE_FILE, PREVIOUS_FILE))


def read(directory: Path, files: Mapping[str, Path]) -> Checkpoint:
    """The newest checkpoint in `directory` whose own SHA-256 and those of its files are right.

    files: of rows, by name.

    Raises:
        UserError: there is none.
    """
    if not exists(directory):
        raise UserError(f"{directory / STATE_FILE} does not exist: there is no checkpoint to resume from")
    try:
        return _read(directory / STATE_FILE, files)
    except Damaged as damaged:
        if not (directory / PREVIOUS_FILE).exists():
            raise
        try:
            previous = _read(directory / PREVIOUS_FILE, files)
        except Damaged:
            raise damaged from None
        iteration = previous.numbers["iteration"]
        tell(f"{damaged.what}: continuing from the checkpoint before, of iteration {iteration}")
        return dataclasses.replace(previous, is_newest=False)


def _read(path: Path, files: Mapping[str, Path]) -> Checkpoint:
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        raise Damaged(f"{path} does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        if "fingerprint" in metadata and "sha256" not in metadata:
            raise UserError(f"{path} is a checkpoint of an earlier version of hmc_fast: start a new run")
        numbers, fingerprint, counted = (json.loads(metadata[n]) for n in ("numbers", "fingerprint", "files"))
        saved = Checkpoint(tensors, numbers, fingerprint, {n: Counted(*value) for n, value in counted.items()})
        is_whole = saved.sha256() == metadata["sha256"]
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise Damaged(f"{path} is not a readable checkpoint ({error})") from error
    if not is_whole:
        raise Damaged(f"{path} is not a readable checkpoint (its SHA-256 is another)")
    saved.hashers = {name: verified(files[name], counted) for name, counted in saved.files.items()}
    return saved


def saved_state(state: Any) -> dict[str, Tensor]:
    """A sampler's state as checkpoint tensors; the inverse of `restore_state`."""
    return {f"state.{name}": tensor for name, tensor in state_tensors(state).items()}


def on_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies that share no memory, as safetensors demands."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def restore_state(state: Any, checkpoint: Checkpoint) -> None:
    """Copies a checkpoint's tensors into a freshly initialised state, in place."""
    prefix = "state."
    saved = {name.removeprefix(prefix): t for name, t in checkpoint.tensors.items() if name.startswith(prefix)}
    restore(state, saved)
