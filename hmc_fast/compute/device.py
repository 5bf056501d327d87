"""Devices by name."""

import torch

from ..errors import UserError

__all__ = ["resolve_device"]


def resolve_device(name: str | torch.device) -> torch.device:
    """ "auto" (a CUDA device if there is one, else the CPU), "cpu", "cuda", "cuda:1".

    Raises:
        UserError: an unknown name, or a device that this machine does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise UserError(f"device {str(name)!r} is unknown: use auto, cpu, cuda or cuda:INDEX") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device {str(name)!r} does not exist here (CUDA devices: {torch.cuda.device_count()}): use cpu or auto"
        )
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device {str(name)!r} is not supported: use auto, cpu, cuda or cuda:INDEX")
    return device
