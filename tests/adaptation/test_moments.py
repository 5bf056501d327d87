"""Streamed moments, and the diagonal mass made of them."""

import pytest
import torch

from cases import normal
from hmc_fast.adaptation import (
    Moments,
    diagonal_inverse_mass,
)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_moments_are_those_of_all_values(groups):
    values = normal(50, 4, 3) * torch.tensor([1e-3, 1.0, 1e4], dtype=torch.float64) + 1e4
    moments = Moments(torch.zeros(3, groups, 3, dtype=torch.float64))
    for value in values:
        moments.update(value)
    grouped = values.transpose(0, 1).reshape(groups, -1, 3)
    torch.testing.assert_close(moments.mean, grouped.mean(1))
    torch.testing.assert_close(moments.variance, grouped.var(1), rtol=1e-6, atol=0)


def test_moments_are_not_poisoned():
    values = normal(20, 2, 3)
    moments = Moments(torch.zeros(3, 1, 3, dtype=torch.float64))
    for index, value in enumerate(values):
        if index == 7:
            moments.update(torch.full((2, 3), float("nan"), dtype=torch.float64))
            moments.update(torch.full((2, 3), float("inf"), dtype=torch.float64))
        moments.update(value)
    assert torch.isfinite(moments.variance).all()
    torch.testing.assert_close(moments.mean[0], values.mean((0, 1)), rtol=1e-6, atol=1e-9)


def test_diagonal_of_independent_normals_is_exact_whatever_the_draws():
    """Gradients are -x / s^2, so sqrt(var(x) / var(grad)) = s^2 for draws of any spread."""
    scale = torch.tensor([1e-3, 1.0, 1e2], dtype=torch.float64)
    draws = normal(10, 3)
    variance, of_gradients = draws.var(0), (-draws / scale**2).var(0)
    ones = torch.ones(3, dtype=torch.float64)
    torch.testing.assert_close(diagonal_inverse_mass(variance, of_gradients, ones), scale**2)
    torch.testing.assert_close(diagonal_inverse_mass(variance, None, ones), variance)


def test_a_parameter_that_never_moved_keeps_its_mass():
    previous = torch.tensor([3.0, 4.0, 5.0])
    variance = torch.tensor([0.0, 1.0, float("nan")])
    assert diagonal_inverse_mass(variance, torch.ones(3), previous).tolist() == [3.0, 1.0, 5.0]
