"""The guard of microcanonical dynamics on minibatches: what is ordinary, and what is undone."""

import numpy as np
import pytest
import torch
from scipy import stats

import hmc_fast
from cases import sample
from hmc_fast.adaptation import EnergyGuard
from targets import check_moments

EVERY = torch.ones(2, dtype=torch.bool)


def learned(shape, number=3000, scale=0.5, seed=0):
    """A guard after many Gamma distributed errors of random sign, of scale 1 and 10, and what it undid."""
    errors = stats.gamma(shape, scale=scale).rvs((number, 1), random_state=seed) * [1.0, 10.0]
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(number, 1))
    guard = EnergyGuard(torch.zeros(EnergyGuard.rows, 2, dtype=torch.float64))
    spikes = [guard.update(torch.tensor(error), EVERY) for error in errors * signs]
    return guard, torch.stack(spikes).numpy()


@pytest.mark.parametrize("shape", [0.7, 1.5, 6.0])
def test_two_percent_of_stationary_errors_are_undone(shape):
    """The averages remember about 100 steps, and clip what is undone, which makes it somewhat more."""
    _, spikes = learned(shape)
    assert 0.015 < spikes.mean() < 0.05
    assert np.array_equal(spikes[:, 0], spikes[:, 1]), "a scale of their own"


@pytest.mark.parametrize("p", [0.05, 0.5, 0.98])
def test_quantiles(p):
    guard = EnergyGuard(torch.tensor([[3.0, 30.0], [2.0, 200.0], [50.0, 50.0]], dtype=torch.float64))
    expected = stats.gamma(9 / 2, scale=2 / 3).ppf(p)
    np.testing.assert_allclose(guard.quantile(stats.norm.ppf(p)).numpy(), [expected, 10 * expected], rtol=0.01)


def test_the_first_steps_are_exempt_unless_they_are_not_finite():
    guard = EnergyGuard(torch.zeros(EnergyGuard.rows, 2, dtype=torch.float64))
    for step in range(10):
        error = torch.tensor([10.0**step, torch.nan if step == 4 else 1.0], dtype=torch.float64)
        assert guard.update(error, EVERY).tolist() == [False, step == 4]
    spike = guard.update(torch.tensor([torch.inf, 1e3], dtype=torch.float64), EVERY)
    assert spike.tolist() == [True, False], "nine errors have been counted in the other"
    assert torch.isfinite(guard.state).all()


def test_a_chain_that_has_not_begun_is_not_counted():
    guard, _ = learned(2.0, number=50)
    before = guard.state.clone()
    spike = guard.update(torch.full((2,), 1e9, dtype=torch.float64), torch.tensor([True, False]))
    assert spike.tolist() == [True, False]
    assert torch.equal(guard.state[:, 1], before[:, 1])
    assert before[0, 0] < guard.state[0, 0] < 2 * before[0, 0], "a spike is clipped"


class Cliff(torch.nn.Module):
    """A linear regression whose output is not finite beyond a weight of 3."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(2))

    def forward(self, x):
        return x @ self.w + torch.where(self.w[0] > 3.0, torch.nan, 0.0)


def test_a_chain_survives_a_step_into_nan():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 2, generator=generator)
    data = x, x @ torch.tensor([2.5, 0.0]) + torch.randn(40, generator=generator)
    posterior = hmc_fast.Posterior(Cliff(), data, likelihood=hmc_fast.Gaussian(1.0), prior=hmc_fast.Normal(1.0))
    options = {"chains": 4, "burn_in": 20, "draws": 100, "init": torch.tensor([2.5, 0.0]), "test": x}
    make = {"step_size": 0.2, "decoherence_length": 0.5, "batch_size": 10}
    run = sample(posterior, hmc_fast.MCLMC(**make), **options)
    assert not run.ended_early
    assert np.isfinite(run.draws).all()
    assert np.max(run.draws[..., 0]) <= 3.0
    assert np.isfinite(run.history.log_density).all()
    bare = sample(posterior, hmc_fast.MCLMC(**make, guard=False), **options)
    assert bare.ended_early


def test_a_start_that_is_nan_is_not_hidden():
    x = torch.ones(8, 2)
    posterior = hmc_fast.Posterior(Cliff(), (x, torch.zeros(8)), likelihood=hmc_fast.Gaussian(1.0))
    sampler = hmc_fast.MCLMC(0.1, batch_size=4)
    with pytest.raises(hmc_fast.UserError, match="log likelihood of example 0 is nan"):
        sample(posterior, sampler, chains=2, burn_in=2, draws=4, init=torch.tensor([4.0, 0.0]))


@pytest.mark.statistical
def test_what_is_undone_does_not_bias_the_moments():
    """The same run without it: fine steps, half of the data in a batch."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(200, 10, generator=generator, dtype=torch.float64)
    y = x.sum(1) + 0.5 * torch.randn(200, generator=generator, dtype=torch.float64)
    model = torch.nn.Linear(10, 1, bias=False).double()
    posterior = hmc_fast.Posterior(model, (x, y), likelihood=hmc_fast.Gaussian(0.5), prior=hmc_fast.Normal(1.0))
    covariance = np.linalg.inv((4 * x.T @ x + torch.eye(10)).numpy())
    mean = covariance @ (4 * x.T @ y).numpy()
    sampler = hmc_fast.MCLMC(0.02, decoherence_length=0.18, batch_size=100, steps_per_iteration=25)
    run = sample(posterior, sampler, chains=64, burn_in=20, draws=40, init=torch.tensor(mean), compile=False)
    check_moments(run.draws, mean, np.diag(covariance), bias=0.03)


def test_the_step_size_shrinks_in_burn_in_where_a_step_is_not_finite():
    x = torch.ones(8, 2)
    posterior = hmc_fast.Posterior(Cliff(), (x, torch.full((8,), 3.0)), likelihood=hmc_fast.Gaussian(0.5))
    sampler = hmc_fast.MCLMC(0.5, decoherence_length=0.5, batch_size=4)
    run = sample(posterior, sampler, chains=2, burn_in=10, draws=30, init=torch.tensor([2.8, 0.0]))
    steps = run.history.step_size
    assert steps[9, 0] < 0.5
    assert len(np.unique(steps[9:])) == 1
    assert (steps == steps[:, :1]).all(), "one for all chains"
    powers = np.log(steps / 0.5) / np.log(0.8)
    np.testing.assert_allclose(powers, powers.round(), atol=1e-9)


@pytest.mark.parametrize("warming_up", [False, True])
def test_it_shrinks_nothing_after_burn_in(warming_up):
    posterior = hmc_fast.Posterior(
        Cliff(), (torch.ones(8, 2), torch.full((8,), 3.0)), likelihood=hmc_fast.Gaussian(0.5)
    )
    sampler = hmc_fast.MCLMC(0.5, decoherence_length=0.5, batch_size=4)
    state = sampler.init(posterior, torch.tensor([[2.8, 0.0], [2.9, 0.0]]), seed=0)
    for _ in range(10):
        sampler.step(state, warming_up=warming_up)
    assert (float(state.step_size) < 0.5) == warming_up


def test_refused():
    with pytest.raises(hmc_fast.UserError, match="guard is for minibatches"):
        hmc_fast.MCLMC(0.1, guard=True)
