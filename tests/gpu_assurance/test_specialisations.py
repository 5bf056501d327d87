"""How many kernels Triton compiles for the tests of the kernels on a GPU: each takes .4 to 1 s there."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

# What the tests need today, by the dtype of a kernel's first tensor. More is an argument whose value makes a kernel
# of its own (see Triton's `do_not_specialize`), or a test of another shape where one would do.
ALLOWED = {"float16": 3, "bfloat16": 3, "float32": 43, "float64": 40, "int64": 3}


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter is off where a CUDA device is present")
def test_kernels_are_compiled_for_few_signatures():
    script = Path(__file__).parent / "specialisations.py"
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "TRITON_INTERPRET": "1",
        "PYTHONPATH": str(script.parents[1]),
    }
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = Counter()
    for counts in json.loads(done.stdout.splitlines()[-1]).values():
        found.update({dtype.removeprefix("torch."): count for dtype, count in counts.items()})
    assert found.keys() == ALLOWED.keys()
    assert {dtype: count for dtype, count in found.items() if count > ALLOWED[dtype]} == {}
