"""Devices by name, and their memory."""

import contextlib
import os
import platform
import sys
from pathlib import Path

import torch

from ..errors import UserError

__all__ = ["free_memory", "hardware", "human", "resolve_device"]


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


def hardware(device: torch.device) -> str:
    """The name of a GPU, or of the processor with its number of cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.machine()
    with contextlib.suppress(OSError, StopIteration):  # Linux
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return f"cpu ({name}, {os.cpu_count()} cores)"


def free_memory(device: torch.device) -> int:
    """Bytes that new tensors may take without swapping, within the limit of the container if there is one."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = sys.maxsize
    with contextlib.suppress(OSError, ValueError, AttributeError):  # not on Windows
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError, KeyError):  # Linux
        free = 1024 * _fields("/proc/meminfo")["MemAvailable:"]
    with contextlib.suppress(OSError, ValueError, KeyError):  # "max" without a limit; files in cache can be dropped
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current"))
        free = min(free, limit - used + _fields("/sys/fs/cgroup/memory.stat")["inactive_file"])
    return free


def _fields(file: str) -> dict[str, int]:
    lines = (line.split() for line in Path(file).read_text().splitlines())
    return {line[0]: int(line[1]) for line in lines}


def human(count: float) -> str:
    """Bytes in binary units: 1.5 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
