"""Two implementations compared, as users have it done on their machine: defects are found and named."""

import functools
import types
from typing import Any

import pytest
import torch

from hmc_fast.doctor import formulas
from hmc_fast.kernels import ops, reference, self_check

CPU = torch.device("cpu")
# On a GPU the doctor makes these comparisons (tests/doctor).
INTERPRETED = pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter is off where a CUDA device is")


def spoilt(function: Any, *, by: float = 1e-3) -> Any:
    """`function` with the last numbers of its result, or of the last tensor that it writes, off by a little."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        before = [a.clone() if isinstance(a, torch.Tensor) else a for a in args]
        result = function(*args, **kwargs)
        changed = [
            a
            for a, b in zip(args, before, strict=True)
            if isinstance(a, torch.Tensor) and not torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)
        ]
        returned = result if isinstance(result, tuple) else (result,) if result is not None else ()
        target = ([*returned, *changed])[-1]
        if target.dtype == torch.bool:
            target[..., -1] ^= True
        else:
            target[..., -1] += by if target.is_floating_point() else 1
        return result

    return run


def namespace(**replaced: Any) -> Any:
    return types.SimpleNamespace(**{name: getattr(reference, name) for name in self_check.OPERATIONS} | replaced)


@pytest.mark.parametrize("operation", self_check.OPERATIONS)
def test_twins_are_their_formulas(operation: str) -> None:
    count, found = self_check.compare(reference, formulas, operation, CPU)
    assert count > 2
    assert not found, str(found[0])


@pytest.mark.parametrize("operation", self_check.OPERATIONS)
def test_a_defect_is_found_by_name(operation: str) -> None:
    wrong = namespace(**{operation: spoilt(getattr(reference, operation))})
    count, found = self_check.compare(wrong, formulas, operation, CPU)
    assert {entry.operation for entry in found} == {operation}
    assert len(found) > count // 2


def test_single_precision_sums_are_found() -> None:
    def single(momentum: torch.Tensor, *, inverse_mass: torch.Tensor | None = None) -> torch.Tensor:
        squares = momentum**2 if inverse_mass is None else momentum**2 * inverse_mass
        return (squares.sum(1) / 2).double()

    _, found = self_check.compare(namespace(kinetic_energy=single), formulas, "kinetic_energy", CPU)
    assert found


def test_nan_and_another_dtype_differ() -> None:
    def nan(out: torch.Tensor, *_: Any) -> None:
        out.fill_(torch.nan)

    def half(*args: Any, **kwargs: Any) -> torch.Tensor:
        return reference.normals(*args, **kwargs).half()

    for name, function in (("force", nan), ("normals", half)):
        count, found = self_check.compare(namespace(**{name: function}), formulas, name, CPU)
        assert len(found) == count


@INTERPRETED
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("operation", self_check.OPERATIONS)
def test_kernels_are_their_twins(operation: str, dtype: torch.dtype) -> None:
    kernels, shapes = self_check.triton_operations(), ((1, 1), (3, 1023))
    count, found = self_check.compare(kernels, reference, operation, CPU, shapes=shapes, dtype=dtype)
    assert count > 1
    assert not found, str(found[0])


@INTERPRETED
def test_a_kernel_with_a_defect_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "kick_drift", spoilt(ops.kick_drift))
    kernels = self_check.triton_operations()
    _, found = self_check.compare(kernels, reference, "kick_drift", CPU, shapes=((3, 31),))
    assert "kick_drift, 3 x 31" in str(found[0])


def test_twins_may_be_asked_for_on_a_gpu() -> None:
    on_gpu: Any = types.SimpleNamespace(is_cuda=True)
    assert ops._use_triton(on_gpu, None)
    with ops.using("torch"):
        assert not ops._use_triton(on_gpu, None)
        assert ops._use_triton(on_gpu, "triton")
    assert ops._use_triton(on_gpu, None)
