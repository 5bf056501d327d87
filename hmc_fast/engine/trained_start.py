"""Chains that begin at members trained for them.

A run trains once: resuming reads the members back from its folder.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checked_files import Unreadable, read_npy
from ..errors import UserError
from ..targets.base import Target
from ..targets.fingerprint import digest
from .checkpoint import Checkpoint
from .ensemble import Training
from .output import Output, OutputFolder

__all__ = ["read_members", "training_of"]


def training_of(init: Any) -> Training | None:
    """The training that `init` asks for, or None."""
    if isinstance(init, type) and issubclass(init, Training):
        raise UserError("init is the class Training: give an object such as hmc_fast.Training(epochs=50)")
    if isinstance(init, str) and init == "train":
        return Training()
    return init if isinstance(init, Training) else None


def read_members(output: Output, training: Training, saved: Checkpoint, target: Target, chains: int) -> Tensor:
    """The members at which the chains of the run in `output` began, `(C, D)`.

    Raises:
        UserError: it did not begin with this training, or the file is damaged.
    """
    assert isinstance(output, OutputFolder)  # memory has no checkpoint
    folder, path = output.directory, output.members_path
    if saved.fingerprint.get("training") != training.fingerprint():
        raise UserError(
            f"the checkpoint in {folder} was made without this training: resume with the same init, or choose "
            "another directory"
        )
    if saved.fingerprint.get("chains") != chains:
        raise UserError(
            f"the checkpoint in {folder} was made with chains {saved.fingerprint.get('chains')}, not {chains}: "
            "resume with the same settings, or choose another directory"
        )
    try:
        members = torch.from_numpy(np.array(read_npy(path)))
    except Unreadable as error:
        raise UserError(f"{path} {error}: the run cannot be resumed, start a new one") from error
    if digest(members) != saved.fingerprint.get("initial parameters"):
        raise UserError(f"{path} is damaged (its hash is another): the run cannot be resumed, start a new one")
    if members.shape != (chains, target.num_params):
        raise UserError(
            f"the members in {path} have shape {tuple(members.shape)}, not ({chains}, {target.num_params}): resume "
            "with the same model, or choose another directory"
        )
    return members.to(target.device, target.dtype)
