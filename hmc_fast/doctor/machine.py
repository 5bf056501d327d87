"""Versions, devices, and which of hmc_fast's ways to compute are available."""

import os
import platform
import shutil
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import torch

from ..compute.native.library import NoCompiler, find_compiler

__all__ = ["describe", "find_cpp_compiler"]

_PACKAGES = ("torch", "triton", "numpy", "scipy")


def describe(device: torch.device) -> dict[str, str]:
    """Lines to print, by their names."""
    found = {
        "versions": ", ".join((f"hmc_fast {_version('hmc_fast')}", *(f"{p} {_version(p)}" for p in _PACKAGES))),
        "system": f"Python {platform.python_version()}, {platform.platform(terse=True)}",
        "cpu": f"{_processor()}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}",
        "devices": ", ".join(_gpus()) or "no CUDA GPU",
        "C compiler": _compiler(),
        "C++ compiler": find_cpp_compiler() or "none: nothing runs through torch.compile",
    }
    if device.type == "cuda":
        capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
        found["this device"] = (
            f"{torch.cuda.get_device_name(device)}, capability {capability}, CUDA {torch.version.cuda}, "
            f"cuDNN {torch.backends.cudnn.version()}, bf16 {'yes' if torch.cuda.is_bf16_supported() else 'no'}"
        )
        found["kernels"] = "Triton" if find_spec("triton") else "none: triton is not installed; use --kernels torch"
    else:
        found["kernels"] = "torch twins (Triton kernels are for CUDA GPUs)"
    return found


def find_cpp_compiler() -> str | None:
    """What torch.compile uses on a CPU: CXX, or what is installed."""
    return shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _gpus() -> list[str]:
    properties = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [f"cuda:{index} {p.name} ({p.total_memory / 2**30:.0f} GiB)" for index, p in enumerate(properties)]


def _compiler() -> str:
    try:
        return find_compiler()
    except NoCompiler as missing:
        return f"none: {missing}"
