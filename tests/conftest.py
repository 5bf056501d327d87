"""Where kernels run: on a CUDA device if there is one, else in Triton's interpreter on the CPU."""

import os

import pytest
import torch

HAS_CUDA = torch.cuda.is_available()
if not HAS_CUDA:
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported, which happens later


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if HAS_CUDA:
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Every device on which `impl="triton"` can be asked for: the CPU through the interpreter, or a GPU."""
    if request.param == "cpu" and HAS_CUDA:
        pytest.skip("the interpreter is off where a CUDA device is present")
    return str(request.param)
