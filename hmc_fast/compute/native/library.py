"""C source as a function in memory, through the system's C compiler; kept on disk by content."""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from ...cache_folder import cache_folder

__all__ = ["NoCompiler", "find_compiler", "load", "processor"]

_FLAGS = (
    "-O3",
    "-fPIC",
    "-shared",
    "-std=gnu11",
    "-fno-strict-aliasing",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-fno-tree-pre",  # it takes a case out of `x < 0 ? 0 : x` before exp, and with it the vectors (gcc 12)
)


class NoCompiler(Exception):
    """There is no C compiler, or it failed; the message says which."""


def find_compiler() -> str:
    """CC, or what is installed. Raises NoCompiler."""
    named = os.environ.get("CC")
    if named and shutil.which(named.split()[0]) is None:
        raise NoCompiler(f"the C compiler {named} (CC) is not installed")
    compiler = named or shutil.which("gcc") or shutil.which("cc") or shutil.which("clang")
    if compiler is None:
        raise NoCompiler("no C compiler is installed (gcc, cc or clang), or CC is not set")
    return compiler


def load(source: str) -> Any:
    """The function `run` of C source. Raises NoCompiler."""
    compiler = find_compiler()
    native = ("-mcpu=native",) if platform.machine() in ("arm64", "aarch64") else ("-march=native",)
    command = [*compiler.split(), *_FLAGS, *native]
    key = hashlib.sha256("\n".join([*command, processor(), source]).encode()).hexdigest()[:32]
    folder = cache_folder() / "native"
    library = folder / f"{key}.so"
    try:
        return ctypes.CDLL(str(library)).run
    except OSError:  # not there yet, or damaged
        pass
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _compile(command, source, folder, library)
        return ctypes.CDLL(str(library)).run
    except OSError:  # a home that cannot be written, or that may hold no programs
        with tempfile.TemporaryDirectory() as temporary:
            library = Path(temporary) / library.name
            _compile(command, source, Path(temporary), library)
            return ctypes.CDLL(str(library)).run


def _compile(command: list[str], source: str, folder: Path, library: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        text, built = Path(temporary) / "source.c", Path(temporary) / "library.so"
        text.write_text(source)
        try:
            for openmp in ("-fopenmp", "-fopenmp-simd"):  # some compilers have no threads, and compute the same
                full = [*command, openmp, "-o", built, text, "-lm"]
                result = subprocess.run(full, capture_output=True, text=True)
                if result.returncode == 0:
                    break
        except OSError as error:
            raise NoCompiler(f"the C compiler {command[0]} does not run: {error}") from error
        if result.returncode:
            raise NoCompiler(f"the C compiler {command[0]} failed: {result.stderr.strip()[:500]}")
        built.replace(library)


@cache
def processor() -> str:
    """What the machine code may depend on: caches are shared between machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    except OSError:
        return platform.processor()
