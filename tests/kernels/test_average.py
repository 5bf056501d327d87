"""A draw's softmax into the streamed average: the kernel against its twin, both against float64."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import special
from torch import Tensor

from hmc_fast.kernels import launch, ops

IMPLS = pytest.mark.parametrize("impl", ["triton", "torch"])
# The device's exp is that of a rounded product: its relative error grows with the distance to the maximum,
# up to 87 before a float32 underflows. An entropy near 0 has the rounding of log(1 + small).
TOLERANCE: dict[torch.dtype, Any] = {
    torch.float32: {"rtol": 2e-5, "atol": 1e-6},
    torch.float64: {"rtol": 1e-12, "atol": 1e-13},
}


def beyond_a_gpu(value: Any) -> Any:
    """Where it would be another kernel to compile."""
    return pytest.param(value, marks=pytest.mark.interpreted)


GUARD = 4096  # elements behind each buffer, more than one program's


class Buffers:
    """What a call writes, begun at numbers other than 0, each with a guard behind it."""

    def __init__(self, logits: Tensor, dtype: torch.dtype = torch.float32) -> None:
        self.whole: list[Tensor] = []
        self.sums = self._buffer(logits.shape, 2.0, torch.float64, logits.device)
        self.entropies = self._buffer(logits.shape[:2], 3.0, torch.float64, logits.device)
        self.probabilities = self._buffer(logits.shape, 7.0, dtype, logits.device)

    def _buffer(self, shape: torch.Size, value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
        self.whole.append(torch.full((shape.numel() + GUARD,), value, dtype=dtype, device=device))
        return self.whole[-1][: shape.numel()].view(shape)

    def add(self, logits: Tensor, impl: str) -> "Buffers":
        ops.accumulate_softmax(logits, self.sums, self.entropies, self.probabilities, impl=impl)
        for whole in self.whole:
            assert bool((whole[-GUARD:] == whole[-1]).all()), "written past the end"
        assert self.whole[0][-1] == 2
        return self


def random_logits(device: str, *shape: int, scale: float = 3.0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).to(device, dtype)


def exact(logits: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Softmax and entropies in float64, by scipy."""
    p = special.softmax(logits.double().cpu().numpy(), axis=-1)
    return p, special.entr(p).sum(-1)


def assert_adds(got: Buffers, logits: Tensor, tolerance: dict[str, Any]) -> None:
    """The buffers hold what one call must add to where they began."""
    p, entropies = exact(logits)
    relative = tolerance | {"atol": 1e-30}  # small probabilities too are right in their leading digits
    np.testing.assert_allclose(got.probabilities.cpu().numpy(), p, **relative)
    np.testing.assert_allclose(got.sums.cpu().numpy() - 2, p, **tolerance)
    np.testing.assert_allclose(got.entropies.cpu().numpy() - 3, entropies, **tolerance)


@IMPLS
@pytest.mark.parametrize("chains", [1, 3])
@pytest.mark.parametrize("points", [1, 1437])
@pytest.mark.parametrize("classes", [beyond_a_gpu(1), beyond_a_gpu(2), 3, 10, beyond_a_gpu(100), 1000])
def test_shapes(device: str, classes: int, points: int, chains: int, impl: str) -> None:
    if chains * points * classes > 200_000:
        points = 67  # the interpreter takes a while per program, here one row
    logits = random_logits(device, chains, points, classes)
    assert_adds(Buffers(logits).add(logits, impl), logits, TOLERANCE[torch.float32])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("classes", [10, beyond_a_gpu(2500)])
def test_kernel_and_twin_in_every_dtype(device: str, classes: int, dtype: torch.dtype) -> None:
    logits = random_logits(device, 2, 41, classes, dtype=dtype)
    inside = torch.float64 if dtype == torch.float64 else torch.float32
    got, expected = (Buffers(logits, inside).add(logits, impl) for impl in ("triton", "torch"))
    for name in ("sums", "entropies", "probabilities"):
        torch.testing.assert_close(getattr(got, name), getattr(expected, name), **TOLERANCE[inside])
    assert_adds(got, logits, TOLERANCE[inside])
    assert_adds(expected, logits, TOLERANCE[inside])


@IMPLS
def test_calls_accumulate(device: str, impl: str) -> None:
    draws = random_logits(device, 9, 2, 37, 10)
    buffers = Buffers(draws[0])
    for logits in draws:
        buffers.add(logits, impl)
    p, entropies = exact(draws)
    np.testing.assert_allclose(buffers.sums.cpu().numpy() - 2, p.sum(0), rtol=2e-6, atol=1e-12)
    np.testing.assert_allclose(buffers.entropies.cpu().numpy() - 3, entropies.sum(0), rtol=1e-5)
    np.testing.assert_allclose(buffers.probabilities.cpu().numpy(), p[-1], rtol=1e-5)


@IMPLS
def test_sums_add_the_very_probabilities_that_are_kept(device: str, impl: str) -> None:
    """So that a repeat of a state adds what its first visit added."""
    logits = random_logits(device, 2, 37, 10)
    buffers = Buffers(logits)
    buffers.sums.zero_()
    ops.accumulate_softmax(logits, buffers.sums, buffers.entropies, buffers.probabilities, impl=impl)
    assert torch.equal(buffers.sums, buffers.probabilities.double())


@IMPLS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
def test_extreme_logits(device: str, dtype: torch.dtype, impl: str) -> None:
    """Neither overflow, nor 0 * log 0, nor a loss of digits far from 0."""
    inf = math.inf
    rows = [
        ([1e4, -1e4, 0.0], [1, 0, 0]),
        ([1e4, 1e4, -1e4], [0.5, 0.5, 0]),
        ([-1e4, -1e4, -1e4], [1 / 3, 1 / 3, 1 / 3]),
        ([1e4, 1e4 - 1, -inf], [special.expit(1), special.expit(-1), 0]),
        ([-1e38, 1e38, 1e38], [0, 0.5, 0.5]),
        ([0.0, -80.0, -1000.0], [1, math.exp(-80), 0]),
    ]
    logits = torch.tensor([[row for row, _ in rows]], dtype=dtype, device=device)
    buffers = Buffers(logits, dtype).add(logits, impl)
    p = np.array([[p for _, p in rows]], dtype=np.float64)
    tolerance = TOLERANCE[dtype]
    np.testing.assert_allclose(buffers.probabilities.cpu().numpy(), p, rtol=tolerance["rtol"], atol=1e-30)
    np.testing.assert_allclose(buffers.sums.cpu().numpy() - 2, p, **tolerance)
    np.testing.assert_allclose(buffers.entropies.cpu().numpy() - 3, special.entr(p).sum(-1), **tolerance)


@IMPLS
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # NumPy's, from inside the interpreter
def test_nan_stays_in_its_row(device: str, impl: str) -> None:
    logits = random_logits(device, 2, 50, 10)
    logits[0, 3, 9], logits[1, 0, 0], logits[1, 49], logits[0, 7, 2] = math.nan, math.nan, -math.inf, math.inf
    bad = torch.zeros(2, 50, dtype=torch.bool, device=device)
    bad[0, 3] = bad[1, 0] = bad[1, 49] = bad[0, 7] = True
    buffers = Buffers(logits).add(logits, impl)
    assert torch.equal(buffers.entropies.isnan(), bad)
    for values in (buffers.sums, buffers.probabilities):
        assert torch.equal(values.isnan(), bad[..., None].expand_as(values))
        assert bool(values[~bad].isfinite().all())


def test_values_do_not_depend_on_the_rows_per_program(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = random_logits(device, 2, 143, 10)
    results = []
    for block in (launch.BLOCK, 128):
        monkeypatch.setattr(launch, "BLOCK", block)
        results.append(Buffers(logits).add(logits, "triton"))
    for other in results[1:]:
        for a, b in zip(results[0].whole, other.whole, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("classes", "taken"), [(2**14, None), (2**14 + 1, "torch")])
def test_very_wide_rows_take_the_twin(classes: int, taken: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, asked = random_logits("cpu", 1, 2, classes), []
    monkeypatch.setattr(ops, "_use_triton", lambda _, impl: asked.append(impl))  # and so falsy: the twin
    buffers = Buffers(logits)
    ops.accumulate_softmax(logits, buffers.sums, buffers.entropies, buffers.probabilities)
    assert asked == [taken]


@pytest.mark.interpreted
def test_very_wide_rows_are_right_all_the_same(device: str) -> None:
    logits = random_logits(device, 1, 2, 2**14 + 1)
    assert_adds(Buffers(logits).add(logits, "triton"), logits, TOLERANCE[torch.float32])


def _bad_calls() -> dict[str, tuple[str, Callable[[Tensor, Buffers], dict[str, Tensor]]]]:
    return {
        "rank": ("logits must be", lambda x, _: {"logits": x[0]}),
        "stride": ("logits must be", lambda x, _: {"logits": x.mT}),
        "empty": ("logits must be", lambda x, _: {"logits": x[:, :0]}),
        "integers": ("logits dtype", lambda x, _: {"logits": x.long()}),
        "sums shape": ("sums must be", lambda _, b: {"sums": b.sums[:, :-1].contiguous()}),
        "sums dtype": ("sums dtype", lambda _, b: {"sums": b.sums.float()}),
        "entropies": ("entropies must be", lambda _, b: {"entropies": b.sums}),
        "half": ("probabilities dtype", lambda _, b: {"probabilities": b.probabilities.half()}),
        "device": ("is on meta", lambda _, b: {"sums": b.sums.to("meta")}),
    }


@pytest.mark.parametrize("name", _bad_calls())
def test_bad_arguments_are_refused(device: str, name: str) -> None:
    message, change = _bad_calls()[name]
    logits = random_logits(device, 2, 5, 3)
    buffers = Buffers(logits)
    arguments = {name: getattr(buffers, name) for name in ("sums", "entropies", "probabilities")}
    with pytest.raises(ValueError, match=message):
        ops.accumulate_softmax(**{"logits": logits, **arguments, **change(logits, buffers)}, impl="triton")


@pytest.mark.gpu
def test_can_be_captured() -> None:
    logits = random_logits("cuda", 2, 143, 10)
    got, expected = Buffers(logits).add(logits, "triton"), Buffers(logits).add(logits, "torch")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ops.accumulate_softmax(logits, got.sums, got.entropies, got.probabilities, impl="triton")
    for scale in (2, -1):
        logits.mul_(scale)
        graph.replay()
        expected.add(logits, "torch")
    for a, b in zip(got.whole, expected.whole, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=1e-6)
