"""A CUDA device without memory, compiled from C++ for the CPU build of torch under test."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


def unavailable(reason):
    """Skips, but not in .ci/run, where whatever needs no GPU has to run."""
    if os.environ.get("HMC_FAST_CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def on_fake_cuda(tmp_path):
    """Runs a script of this folder where tensors without values can be on CUDA; returns what it prints."""
    if torch.version.cuda is not None:
        unavailable("this torch has CUDA of its own")
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("g++", "clang++", "c++")), None)
    if compiler is None:
        unavailable("no C++ compiler: set CXX")
    library, torch_files = tmp_path / "fake_cuda.so", Path(torch.__file__).parent
    subprocess.run(
        [
            *(compiler, "-shared", "-fPIC", "-std=c++20", str(HERE / "fake_cuda.cpp"), "-o", str(library)),
            *(f"-I{torch_files / 'include'}", f"-L{torch_files / 'lib'}", "-lc10"),
            f"-Wl,-rpath,{torch_files / 'lib'}",
        ],
        check=True,
    )

    def run(script):
        environment = os.environ | {"LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(HERE / script)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return run
