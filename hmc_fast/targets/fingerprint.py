"""What tells one model from another: its structure, and the numbers in it that are not sampled."""

import hashlib
import re
from collections.abc import Iterable

import torch
from torch import Tensor

from .flat_module import FlatModel

__all__ = ["constants", "digest", "printed", "structure"]


def digest(*tensors: Tensor) -> str:
    """A hash of the tensors' values, sixteen hexadecimal digits."""
    hasher = hashlib.sha256()
    for tensor in tensors:
        hasher.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()[:16]


def printed(value: object) -> str:
    """Its repr, without addresses in memory."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def structure(flat: FlatModel) -> list[str]:
    """The lines in which torch prints the module, and the parameters that are sampled."""
    return printed(flat.module).splitlines() + [
        f"{name} {tuple(shape)}" for name, shape in zip(flat.names, flat.shapes, strict=True)
    ]


def constants(flat: FlatModel) -> str:
    """A hash of the buffers and of the parameters that are not sampled."""
    return digest(*_constants(flat))


def _constants(flat: FlatModel) -> Iterable[Tensor]:
    sampled = set(flat.names)
    yield from (tensor for name, tensor in flat.module.named_parameters() if name not in sampled)
    yield from flat.module.buffers()
