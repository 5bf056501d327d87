"""Triton kernels beside their torch twins before the first run on a GPU: one that is wrong there is never used."""

import hashlib
import time
from importlib import metadata, resources

import torch

from ..atomic_files import write_json
from ..cache_folder import cache_folder
from ..checked_files import Unreadable, read_json
from ..errors import UserError
from ..kernels import reference, self_check
from ..targets.base import Target

__all__ = ["check_kernels"]


def check_kernels(target: Target, num_chains: int) -> str | None:
    """Compares every operation, in the variants that a run of `target` uses, unless they agreed here before.

    Returns what to print, None if nothing was done.

    Raises:
        UserError: naming the first operation that disagrees.
    """
    # By the alignment of rows and the prior's families a kernel is compiled anew: this run's, of any length.
    shapes = ((min(num_chains, 3), 4096 + target.num_params % 16),)
    used = {
        (s.family, self_check.Varies(isinstance(s.scale, torch.Tensor), s.mean is not None)) for s in target.prior
    }
    priors = {
        name: sorted(varies for other, varies in used if other == family)
        for name, (family, _) in self_check.FAMILIES.items()
        if family in {other for other, _ in used}
    }
    key = _key(target.device, shapes, priors, target.dtype)
    file = cache_folder() / "kernels.json"
    try:
        agreed = read_json(file)
    except Unreadable:  # checked anew
        agreed = {}
    if key in agreed:
        return None
    begin, name = time.perf_counter(), _name(target.device)
    kernels = self_check.triton_operations()
    for operation in self_check.OPERATIONS:
        _, found = self_check.compare(
            kernels,
            reference,
            operation,
            target.device,
            shapes=shapes,
            priors=priors,
            dtype=target.dtype,
        )
        if found:
            raise UserError(
                f"the Triton kernel {operation!r} is wrong on this {name} ({found[0]}): use kernels='torch' "
                "(--kernels torch), and python -m hmc_fast.doctor for the rest"
            )
    line = f"kernels agree with their definitions on this {name} ({time.perf_counter() - begin:.1f} s, once)"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, agreed | {key: f"{name}, torch {torch.__version__}"})
    except OSError:
        line += f", to be repeated, because {file} cannot be written"
    return line


def _key(device: torch.device, *variant: object) -> str:
    """Of everything on which a kernel's machine code may depend."""
    sources = sorted(
        (file.name, file.read_text())
        for file in resources.files("hmc_fast.kernels").iterdir()
        if file.name.endswith(".py")
    )
    parts = (_name(device), _driver(), torch.__version__, metadata.version("triton"), sources, variant)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device)


def _driver() -> int:
    return int(getattr(torch._C, "_cuda_getDriverVersion", int)())
