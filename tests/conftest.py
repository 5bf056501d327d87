"""Where kernels run: on a CUDA device if there is one, else in Triton's interpreter on the CPU."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported

import pytest
import torch

import targets
from hmc_fast import samplers
from hmc_fast.engine import runner
from hmc_fast.engine.execution import Choice

HAS_CUDA = torch.cuda.is_available()
if not HAS_CUDA:
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported, which happens later


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--path",
        choices=("eager", "traced", "compiled", "loop", "captured"),
        default="eager",
        help="how samplers compute; the protocol, HMC and SGHMC must pass on each (Makefile: COMPILED)",
    )


@pytest.fixture(autouse=True)
def _path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every target compiled, or every sampler's unit captured on the GPU, whatever a run would choose."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(request.getfixturevalue("tmp_path_factory").getbasetemp()))
    path = request.config.getoption("--path")
    monkeypatch.setattr(targets, "PATH", path)
    if path in ("traced", "compiled", "loop"):
        monkeypatch.setattr(runner, "choose", lambda target, *_, **__: Choice(target.prepared(path=path), ()))
    if path == "captured":
        for sampler in samplers.SAMPLERS:
            plain = sampler.init

            def init(self, target, theta, *, seed=0, graph=True, warm_up_iterations=0, plain=plain):
                return plain(self, target, theta, seed=seed, graph=graph, warm_up_iterations=warm_up_iterations)

            monkeypatch.setattr(sampler, "init", init)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    never = [item for item in items if item.get_closest_marker("gpu") and item.get_closest_marker("interpreted")]
    if never:
        config.hook.pytest_deselected(items=never)
        items[:] = [item for item in items if item not in set(never)]
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
