"""MCLMC: its bias, and what it learns in warm-up."""

import numpy as np
import pytest
import torch

import hmc_fast
from hmc_fast.compute.random_streams import MOMENTUM, NOISE
from hmc_fast.dynamics.isokinetic import isokinetic_kick, random_direction
from hmc_fast.kernels.ops import Counter, normals
from hmc_fast.results.diagnostics import ess_bulk, rhat
from hmc_fast.samplers.protocol import restore, state_tensors
from targets import check_moments


def gaussian(scales):
    precision = torch.tensor(1 / scales**2)
    return hmc_fast.Density(lambda theta: -0.5 * (theta**2 * precision).sum(), len(scales), dtype=torch.float64)


@pytest.mark.statistical
def test_the_bias_of_unadjusted_mclmc_shrinks_with_its_step():
    """Its variances on 20 coordinates: a wide error at a coarse step, hardly any at a fine one."""
    scales, errors = np.linspace(0.5, 2.0, 20), []
    for step_size in (3.2, 0.8):
        run = hmc_fast.run(
            gaussian(scales),
            hmc_fast.MCLMC(step_size, decoherence_length=5.0, steps_per_iteration=int(8 / step_size)),
            chains=64,
            burn_in=200,
            draws=400,
            progress=False,
        )
        draws = np.asarray(run.draws)
        errors.append(np.abs((draws**2).mean((0, 1)) / scales**2 - 1).mean())
    assert errors[0] > 0.1
    assert errors[1] < 0.02, errors


@pytest.mark.parametrize(
    "make", [pytest.param(hmc_fast.MCLMC, marks=pytest.mark.statistical), hmc_fast.AdjustedMCLMC]
)
def test_no_numbers_given(make):
    """Scales over three decades; what is learned is all there is."""
    scales = np.logspace(-2, 1, 12)
    run = hmc_fast.run(
        gaussian(scales),
        make(adapt=True),
        chains=16,
        burn_in=300,
        draws=300,
        init=torch.randn(16, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64),
        progress=False,
    )
    chains = np.moveaxis(np.asarray(run.draws), 0, 1)
    assert rhat(chains).max() < 1.02
    check_moments(run.draws, np.zeros(12), scales**2, bias=0.03 if make is hmc_fast.MCLMC else 0.0)
    assert ess_bulk(chains).min() > 300


def test_steps_and_their_energy_error_follow_the_box():
    """Four steps by hand: half a turn, a turn at random, half a turn, a drift."""
    scales, eps, length = np.array([0.5, 1.0, 2.0]), 0.3, 1.7
    theta = torch.tensor([[0.4, -1.0, 0.7], [-0.2, 0.3, 1.5]], dtype=torch.float64)
    sampler = hmc_fast.MCLMC(eps, decoherence_length=length, steps_per_iteration=4)
    state = sampler.init(gaussian(scales), theta, seed=5)
    _, info = sampler.step(state)

    u, step_size = torch.empty_like(theta), torch.full((2,), eps, dtype=torch.float64)
    random_direction(u, Counter(5, MOMENTUM, torch.tensor([0])))
    potential, change, error = 0.0, 0.0, torch.zeros(2, dtype=torch.float64)
    nu = np.sqrt((np.exp(2 * eps / length) - 1) / 3)
    for t in range(4):
        force = -theta / torch.tensor(scales**2)
        change = change + isokinetic_kick(u, force, step_size / 2)
        now = -0.5 * (theta * force).sum(1)
        if t > 0:
            error += now - potential + change
        potential = now
        u = u + nu * normals(Counter(5, NOISE, torch.tensor([t])), 2, 3).double()
        u = u / u.norm(dim=1, keepdim=True)
        change = isokinetic_kick(u, force, step_size / 2)
        theta = theta + eps * u
    torch.testing.assert_close(state.theta, theta, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(info.energy_error, error, rtol=1e-6, atol=1e-9)


def test_the_decoherence_length_is_in_units_of_the_metric():
    """sqrt(D) where the metric has taken the scales away; the scales themselves would add up to ten."""
    scales = np.logspace(-1, 1, 5)
    theta = torch.tensor(scales) * torch.randn(16, 5, generator=torch.Generator().manual_seed(0))
    sampler = hmc_fast.MCLMC()
    state = sampler.init(gaussian(scales), theta.double(), seed=1, warm_up_iterations=200)
    for _ in range(200):
        sampler.step(state, warming_up=True)
    assert 0.6 < float(state.decoherence_length) / np.sqrt(5) < 1.6


def test_steps_that_are_not_finite_do_not_poison_the_learning():
    """Beyond |theta| = 3 the density is NaN: a hard wall that the first, longest steps run into."""

    def log_density(theta):
        return torch.where((theta.abs() > 3).any(), torch.nan, -0.5 * (theta**2).sum())

    target = hmc_fast.Density(log_density, 4, dtype=torch.float64)
    sampler = hmc_fast.MCLMC(50.0, adapt=True)
    state = sampler.init(target, torch.zeros(8, 4, dtype=torch.float64), seed=0, warm_up_iterations=200)
    for _ in range(200):
        _, info = sampler.step(state, warming_up=True)
    assert torch.isfinite(state.theta).all()
    assert torch.isfinite(info.energy_error).all()
    assert 0.01 < float(info.step_size[0]) < 3


def test_what_was_learned_is_frozen_after_burn_in():
    arguments = {"chains": 4, "burn_in": 40, "draws": 30, "progress": False, "seed": 3}
    whole = hmc_fast.run(gaussian(np.logspace(-1, 1, 5)), hmc_fast.MCLMC(), **arguments)
    step_sizes = whole.trace.loc[whole.trace["phase"] == "sampling", "step_size"]
    assert step_sizes.nunique() == 1
    assert whole.trace["step_size"].nunique() > 20


def test_learning_goes_on_from_a_checkpoint():
    target, sampler = gaussian(np.logspace(-1, 1, 5)), hmc_fast.MCLMC()
    theta = torch.zeros(3, 5, dtype=torch.float64)
    state, copy = (sampler.init(target, theta, seed=2, warm_up_iterations=60) for _ in range(2))
    for _ in range(30):
        sampler.step(state, warming_up=True)
    restore(copy, {name: tensor.clone() for name, tensor in state_tensors(state).items()})
    for iteration in range(30, 70):
        sampler.step(state, warming_up=iteration < 60)
        sampler.step(copy, warming_up=iteration < 60)
    assert torch.equal(state.theta, copy.theta)
    assert torch.equal(state.coefficients, copy.coefficients)
    assert torch.equal(state.tuner, copy.tuner)


def test_a_single_parameter_is_refused():
    target = hmc_fast.Density(lambda theta: -0.5 * (theta**2).sum(), 1)
    for sampler in (hmc_fast.MCLMC(0.1), hmc_fast.AdjustedMCLMC(0.1, num_leapfrog=2)):
        with pytest.raises(hmc_fast.UserError, match="2 parameters or more"):
            sampler.init(target, torch.zeros(1, 1))
