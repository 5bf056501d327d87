"""The first step size, by doubling and halving."""

import math

import pytest
import torch

from hmc_fast.adaptation import (
    find_step_size,
)


@pytest.mark.parametrize("start", [1e-6, 1.0, 1e6])
def test_search_ends_within_a_factor_of_two(start):
    scale = torch.tensor([1e-3, 1.0, 50.0], dtype=torch.float64)
    right = -math.log(0.8) * scale
    found = find_step_size(lambda step: torch.exp(-step / scale), torch.full_like(scale, start))
    assert ((found / right > 0.49) & (found / right < 2.01)).all()


def test_search_steps_back_from_nan():
    found = find_step_size(
        lambda step: torch.where(step > 0.1, torch.nan, torch.ones_like(step)), torch.ones(1, dtype=torch.float64)
    )
    assert 0.05 < float(found) <= 0.1
