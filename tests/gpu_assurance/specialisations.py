"""Runs the tests of the kernels in Triton's interpreter and counts what Triton would compile for them on a GPU: the
last line is a JSON object, kernel -> dtype -> number of distinct specialisations.

A specialisation is a kernel with the types of its arguments, which of them are None, 1 or divisible by 16, and its
compile-time constants.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import torch

from gpu_assurance import launches


def specialised(value, *, generic):
    """What Triton compiles for, of one argument. generic: its value is of no concern."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), value.data_ptr() % 16 == 0
    if isinstance(value, bool) or not isinstance(value, int):
        return type(value).__name__
    kind = "int32" if -(2**31) <= value < 2**31 else "int64"
    if generic:
        return kind
    return "1" if value == 1 else (kind, value % 16 == 0)


class Collect:
    """kernel -> dtype of its first tensor -> specialisations."""

    def __init__(self):
        self.found = defaultdict(lambda: defaultdict(set))

    def launch(self, kernel, name, grid, arguments, options):
        generic = kernel.kwargs["do_not_specialize"] or ()
        values = zip(kernel.arg_names, arguments, strict=False)  # the rest are options
        key = [specialised(value, generic=argument in generic) for argument, value in values]
        dtype = str(next(value.dtype for value in arguments if isinstance(value, torch.Tensor)))
        self.found[name][dtype].add((*key, *sorted(options.items())))
        kernel[grid](*arguments, **options)


if __name__ == "__main__":
    collect = Collect()
    with launches.kernels(collect.launch):
        kernels = str(Path(__file__).parents[1] / "kernels")
        options = ("-m", "not slow and not interpreted", "-k", "not needs_its_interpreter", "-p", "no:benchmark")
        never_on_a_gpu = f"--ignore={kernels}/test_self_check.py"
        status = pytest.main([kernels, never_on_a_gpu, *options])
    counts = {name: {dtype: len(keys) for dtype, keys in found.items()} for name, found in collect.found.items()}
    print(json.dumps(counts))
    sys.exit(status)
