"""The step size that gives microcanonical dynamics a chosen variance of energy."""

import numpy as np
import pytest
import torch

from hmc_fast.adaptation import EnergyVariance


def test_energy_variance_finds_the_step_size_of_its_target():
    """dE = eps^3 z has variance eps^6: with D v = 1e-3 the step size is 1e-3^(1/6)."""
    state = torch.zeros(EnergyVariance.rows, dtype=torch.float64)
    tuner = EnergyVariance(state, 10, 1e-4)
    tuner.restart(3.0)
    generator = torch.Generator().manual_seed(0)
    steps = []
    for _ in range(2000):
        error = tuner.step_size**3 * torch.randn(8, generator=generator, dtype=torch.float64)
        tuner.update(error, torch.ones(8, dtype=torch.bool))
        steps.append(float(tuner.step_size))
    # the weights favour draws near the target, so the centre of the estimate lies a little off
    assert np.mean(steps[500:]) == pytest.approx(1e-3 ** (1 / 6), rel=0.1)


def test_a_step_that_is_not_finite_makes_the_next_shorter_and_forgets_the_past():
    tuner = EnergyVariance(torch.zeros(EnergyVariance.rows, dtype=torch.float64), 10, 1e-4)
    tuner.restart(0.3)
    counted = torch.tensor([True, True])
    tuner.update(torch.tensor([0.03, 0.02], dtype=torch.float64), counted)
    learned = float(tuner.step_size)
    tuner.update(torch.tensor([0.03, torch.nan], dtype=torch.float64), torch.tensor([True, False]))
    assert torch.isfinite(tuner.state).all()
    assert float(tuner.step_size) != pytest.approx(0.8 * learned), "a chain that does not count changes nothing"
    learned = float(tuner.step_size)
    tuner.update(torch.tensor([0.03, torch.inf], dtype=torch.float64), counted)
    assert tuner.state.tolist() == pytest.approx([0.0, 0.0, 0.8 * learned])
