"""Adaptation: each machine alone against what is known, then HMC with no numbers given."""

import math

import numpy as np
import pytest
import torch

import hmc_fast
from hmc_fast.adaptation import (
    DualAveraging,
    Moments,
    PrincipalVariance,
    Windows,
    diagonal_inverse_mass,
    find_step_size,
)
from hmc_fast.results.diagnostics import rhat
from targets import correlated_gaussian, linear_regression


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


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


@pytest.mark.parametrize("groups", [1, 4])
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


def test_principal_variance_is_the_largest_eigenvalue():
    root = normal(6, 6, seed=3)
    vectors = normal(400, 8, 6, seed=4) @ root
    principal = PrincipalVariance(torch.zeros(7, dtype=torch.float64))
    for rows in vectors:
        principal.update(rows)
    largest = float(torch.linalg.eigvalsh(vectors.reshape(-1, 6).T @ vectors.reshape(-1, 6) / 3200)[-1])
    assert float(principal.value) == pytest.approx(largest, rel=0.1)


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


def test_windows_are_those_of_stan():
    windows = Windows.of(1000)
    assert windows.first == 75
    assert windows.ends == (100, 150, 250, 450, 950)
    assert [i for i in range(1000) if windows.closes(i)] == [99, 149, 249, 449, 949]
    assert not windows.is_slow(74)
    assert windows.is_slow(75)
    assert windows.is_slow(949)
    assert not windows.is_slow(950)
    assert Windows.of(100).ends == (90,)  # too short for Stan's lengths: 15, 75 and 10 %
    for burn_in in range(1, 300):
        assert all(0 < end <= burn_in for end in Windows.of(burn_in).ends)


def adapted(target, *, burn_in=300, draws=300, chains=8, seed=0, init, **settings):
    return hmc_fast.run(
        target,
        hmc_fast.HMC(adapt=True, **settings),
        chains=chains,
        burn_in=burn_in,
        draws=draws,
        seed=seed,
        init=init,
        draw_dtype=torch.float32,
        progress=False,
    )


@pytest.mark.parametrize(
    "settings",
    [{}, {"pool": False}, {"integrator": hmc_fast.TWO_STAGE}, {"num_leapfrog": 20}, {"target_acceptance": 0.65}],
)
def test_no_numbers_given_on_a_correlated_target(settings):
    known = correlated_gaussian()
    run = adapted(known.density, init=normal(8, 3), **settings)
    draws = np.moveaxis(run.draws, 0, 1).astype(np.float64)
    assert rhat(draws).max() < 1.03
    assert (np.abs(draws.mean((0, 1)) - known.mean) < 0.15 * np.sqrt(known.variance)).all()
    np.testing.assert_allclose(draws.std((0, 1)), np.sqrt(known.variance), rtol=0.15)
    # in few dimensions hardly any step that is stable errs: the acceptance may lie far above its target
    assert run.acceptance_rate > settings.get("target_acceptance", 0.8) - 0.1


@pytest.mark.parametrize("target_acceptance", [0.65, 0.9])
def test_acceptance_comes_out_at_its_target(target_acceptance):
    density = hmc_fast.Density(lambda t: -0.5 * (t**2).sum(), 200, dtype=torch.float64)
    run = adapted(density, init=normal(8, 200), burn_in=200, draws=100, target_acceptance=target_acceptance)
    probability = run.trace.query("phase == 'sampling'").accept_prob.mean()
    assert probability == pytest.approx(target_acceptance, abs=0.07)


def test_scales_five_orders_apart_are_found():
    scale = torch.logspace(-3, 2, 6, dtype=torch.float64)
    density = hmc_fast.Density(lambda t: -0.5 * ((t / scale) ** 2).sum(), 6, dtype=torch.float64)
    run = adapted(density, init=normal(8, 6))
    np.testing.assert_allclose(run.draws.astype(np.float64).std((0, 1)), scale, rtol=0.15)


def test_what_was_learned_is_frozen_after_burn_in():
    run = adapted(correlated_gaussian().density, burn_in=60, draws=40, init=normal(8, 3))
    steps = run.trace.pivot(index="iteration", columns="chain", values="step_size").to_numpy()
    assert len(np.unique(steps[60:])) == 1
    assert len(np.unique(steps[:60, 0])) > 30


def test_chains_apart_have_step_sizes_of_their_own():
    run = adapted(correlated_gaussian().density, burn_in=60, draws=5, pool=False, init=normal(8, 3))
    steps = run.trace.pivot(index="iteration", columns="chain", values="step_size").to_numpy()
    assert len(np.unique(steps[-1])) == 8


def test_divergences_do_not_poison_adaptation():
    """A density that is NaN on half the line: proposals there are rejected, and what is learned stays finite."""

    def log_density(theta):
        return torch.where(theta[0] > 0, torch.log(theta[0]), torch.nan) - theta.abs().sum()

    density = hmc_fast.Density(log_density, 2, dtype=torch.float64)
    run = adapted(density, burn_in=150, draws=400, init=normal(8, 2).abs() + 0.1)
    assert run.trace.divergent.sum() > 0
    assert np.isfinite(run.trace.step_size).all()
    assert 0.03 < run.trace.step_size.iloc[-1] < 3
    assert run.draws[..., 0].mean() == pytest.approx(2.0, abs=0.3)  # Gamma(2): mean 2


def test_adapted_on_a_model():
    posterior, known = linear_regression()
    run = adapted(posterior, init="prior", burn_in=150, draws=200)
    np.testing.assert_allclose(
        run.draws.astype(np.float64).mean((0, 1)), known.mean, atol=0.15 * known.variance.max() ** 0.5
    )


def test_adaptation_needs_burn_in():
    with pytest.raises(hmc_fast.UserError, match="give burn_in iterations"):
        adapted(correlated_gaussian().density, burn_in=0, init=torch.zeros(3))
