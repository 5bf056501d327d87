"""Dual averaging against its published recursion and a known optimum."""

import math

import pytest
import torch

from cases import normal
from hmc_fast.adaptation import (
    DualAveraging,
)


def test_dual_averaging_finds_the_step_size_of_its_target():
    """Acceptance falls as exp(-step_size): 0.8 is met at -log 0.8. Two step sizes, each on its own."""
    dual = DualAveraging(torch.zeros(5, 2, dtype=torch.float64))
    scale = torch.tensor([1.0, 100.0], dtype=torch.float64)
    dual.restart(torch.tensor([1.0, 1.0], dtype=torch.float64))
    noise = normal(500, 2)
    for row in noise:
        dual.update((torch.exp(-dual.step_size / scale) + 0.1 * row).clamp(0, 1))
    torch.testing.assert_close(dual.averaged / scale, torch.full_like(scale, -math.log(0.8)), rtol=0.1, atol=0)


def test_dual_averaging_follows_the_published_recursion():
    dual = DualAveraging(torch.zeros(5, 1, dtype=torch.float64), target=0.65)
    dual.restart(torch.tensor([0.3], dtype=torch.float64))
    error = average = 0.0
    for t, accept in enumerate((0.1, 0.9, 0.4, 1.0), start=1):
        dual.update(torch.tensor([accept]))
        error = (1 - 1 / (t + 10)) * error + (0.65 - accept) / (t + 10)
        current = math.log(3.0) - math.sqrt(t) / 0.05 * error
        average = t**-0.75 * current + (1 - t**-0.75) * average
        assert float(dual.step_size) == pytest.approx(math.exp(current), rel=1e-6)
        assert float(dual.averaged) == pytest.approx(math.exp(average), rel=1e-6)


def test_nan_counts_as_a_rejection():
    duals = [DualAveraging(torch.zeros(5, 1, dtype=torch.float64)) for _ in range(2)]
    for dual, value in zip(duals, (0.0, float("nan")), strict=True):
        dual.restart(torch.ones(1))
        dual.update(torch.tensor([value]))
    assert torch.equal(duals[0].state, duals[1].state)
