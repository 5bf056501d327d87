"""The Metropolis test: exact decisions, both rules, differences of large energies."""

import math

import pytest
import torch

from hmc_fast.dynamics import metropolis
from hmc_fast.kernels import ops

INF, NAN = math.inf, math.nan


def test_what_is_not_finite_is_rejected_and_diverges():
    energy = torch.tensor([NAN, INF, -INF, 1e9, 2000.0, 999.0, -5.0], dtype=torch.float64)
    for rule in ("log_ratio", "density_ratio"):
        accepted, prob, divergent = metropolis.metropolis_test(energy, torch.full((7,), 1e-7), rule)
        assert accepted.tolist() == [False] * 6 + [True]
        assert divergent.tolist() == [True, True, True, True, True, False, False]
        assert prob.tolist() == pytest.approx([0, 0, 0, 0, 0, 0, 1.0])
        for untested, expected in ((True, [False] * 3 + [True] * 4), (False, [False] * 6 + [True])):
            outcome = metropolis.metropolis_test(
                energy, torch.full((7,), 1e-7), rule, untested=torch.tensor([untested])
            )
            assert outcome.accepted.tolist() == expected


def test_both_rules_agree_and_have_the_right_frequency():
    generator = torch.Generator().manual_seed(0)
    energy = 2 * torch.randn(200_000, generator=generator, dtype=torch.float64)
    uniform = torch.rand(200_000, generator=generator)
    by_log, prob, _ = metropolis.metropolis_test(energy, uniform, "log_ratio")
    by_density, _, _ = metropolis.metropolis_test(energy, uniform, "density_ratio")
    assert torch.equal(by_log, by_density)
    torch.testing.assert_close(prob, torch.exp(-energy).clamp_max(1))
    assert by_log.double().mean().item() == pytest.approx(prob.mean().item(), abs=0.005)


def test_the_likelihood_difference_survives_large_totals():
    """Per-example differences in float64: float32 totals of this size are 8 apart."""
    log_lik = torch.full((1, 1_000_000), -100.0) + torch.randn(
        1, 1_000_000, generator=torch.Generator().manual_seed(0)
    )
    change = torch.zeros_like(log_lik)
    change[0, :1000] = 0.0009765625  # exactly representable beside 100
    energy = -2.0 * ops.likelihood_difference(log_lik, log_lik + change)
    exact = -2.0 * ((log_lik + change).double() - log_lik.double()).sum().item()
    assert energy.item() == pytest.approx(exact, rel=1e-12)
    assert energy.item() == pytest.approx(-1.953, abs=0.02)
