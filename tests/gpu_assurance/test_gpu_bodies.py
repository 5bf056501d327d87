"""The tests that run on a GPU alone also run here, with a CPU in its place (cuda_on_cpu.py)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="they run on the GPU itself")
def test_what_runs_on_a_gpu_runs_on_its_stand_in():
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "1", "PYTHONPATH": str(TESTS)}
    plugin = ["-p", "no:benchmark", "-p", "gpu_assurance.cuda_on_cpu"]
    command = [sys.executable, "-m", "pytest", "-rs", *plugin, str(TESTS)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-3000:]
    assert " passed" in done.stdout
    skipped = [line for line in done.stdout.splitlines() if line.startswith("SKIPPED")]
    without_a_library = [
        line for line in skipped if "could not import" in line
    ]  # whole files, none of them a GPU's
    assert skipped == without_a_library
