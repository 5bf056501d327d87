"""The state of a run on disk: one safetensors file, replaced atomically. A resumed run gives the same draws.

There is no generator state to store: every random value is a function of the seed and of counters in the state.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from torch import Tensor

from ..atomic_files import written_atomically
from ..errors import UserError
from ..samplers.protocol import restore, state_tensors

__all__ = ["Checkpoint", "assert_same_run", "read", "restore_state", "saved_state", "write"]

STATE_FILE = "state.safetensors"
# How gradients were computed: a resumed run repeats it. Layout and micro-batch size, which affect rounding alone,
# may differ: on another device, or because the user says so.
COMPUTED = ("path", "chain_batching", "layout", "micro_batch_size")
_MAY_DIFFER = COMPUTED[2:]


@dataclasses.dataclass
class Checkpoint:
    """The contents of a checkpoint: named tensors, integers, and the settings of its run."""

    tensors: dict[str, Tensor]
    numbers: dict[str, int]
    fingerprint: dict[str, Any]


def write(directory: Path, checkpoint: Checkpoint) -> None:
    """Writes atomically: an interruption leaves the previous checkpoint intact."""
    from safetensors.torch import save_file

    directory.mkdir(parents=True, exist_ok=True)
    tensors = {name: t.detach().cpu().contiguous().clone() for name, t in checkpoint.tensors.items()}
    metadata = {"numbers": json.dumps(checkpoint.numbers), "fingerprint": json.dumps(checkpoint.fingerprint)}
    with written_atomically(directory / STATE_FILE) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def read(directory: Path) -> Checkpoint:
    """The checkpoint in `directory`.

    Raises:
        UserError: there is none, it cannot be read, or an earlier version wrote it.
    """
    from safetensors import SafetensorError, safe_open

    path = directory / STATE_FILE
    if not path.exists():
        raise UserError(f"{path} does not exist: there is no checkpoint to resume from")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise UserError(f"{path} is not a readable checkpoint ({error}): start a new run") from error
    fingerprint = json.loads(metadata["fingerprint"])
    missing = [name for name in COMPUTED if name not in fingerprint]
    if missing:
        raise UserError(
            f"the checkpoint in {directory} does not say with which {missing[0]} it was computed: an earlier "
            "version of hmc_fast wrote it, so finish the run with that version, or start a new one"
        )
    return Checkpoint(tensors, json.loads(metadata["numbers"]), fingerprint)


def saved_state(state: Any) -> dict[str, Tensor]:
    """A sampler's state as checkpoint tensors; the inverse of `restore_state`."""
    return {f"state.{name}": tensor for name, tensor in state_tensors(state).items()}


def restore_state(state: Any, checkpoint: Checkpoint) -> None:
    """Copies a checkpoint's tensors into a freshly initialised state, in place."""
    prefix = "state."
    saved = {name.removeprefix(prefix): t for name, t in checkpoint.tensors.items() if name.startswith(prefix)}
    restore(state, saved)


def assert_same_run(checkpoint: Checkpoint, fingerprint: dict[str, Any], directory: Path) -> None:
    """Raises UserError if the checkpoint belongs to a run with other settings, naming the first that differs."""
    for name, value in json.loads(json.dumps(fingerprint)).items():
        stored = checkpoint.fingerprint.get(name)
        if stored != value and name not in _MAY_DIFFER:
            raise UserError(
                f"the checkpoint in {directory} was made with {name} {stored!r}, not {value!r}: resume with the "
                "same settings, or choose another directory"
            )
