"""Exact samplers in simulated experiments: the joint-distribution test and simulation-based calibration.

Both ask the one question that no moment of one posterior answers: does the kernel target the posterior of *this*
prior, *this* likelihood and *these* data? A wrong temperature, a lost N/B, a prior forgotten in the test, all show.
"""

import functools

import numpy as np
import pytest
import torch
from scipy import stats

import hmc_fast
from replicates import Replicates

pytestmark = pytest.mark.statistical

NUM_DATA, DIM = 12, 3
SAMPLERS = {
    "hmc": lambda: hmc_fast.HMC(0.42, num_leapfrog=4, jitter=0.3),
    "hmc, two-stage": lambda: hmc_fast.HMC(0.33, num_leapfrog=4, jitter=0.3, integrator=hmc_fast.TWO_STAGE),
    "hmc, density ratio": lambda: hmc_fast.HMC(0.42, num_leapfrog=4, jitter=0.3, acceptance="density_ratio"),
    "ghmc": lambda: hmc_fast.GHMC(0.4, friction=0.6),
    "ghmc, drifting": lambda: hmc_fast.GHMC(0.4, friction=0.6, acceptance_drift=0.3),
    "split_hmc": lambda: hmc_fast.SplitHMC(0.45, num_splits=3, num_leapfrog=2),
    "adjusted_mclmc": lambda: hmc_fast.AdjustedMCLMC(0.75, num_leapfrog=4, jitter=0.3),
    "amagold": lambda: hmc_fast.AMAGOLD(0.15, friction=1.0, batch_size=5, num_leapfrog=5),
}
FAMILIES = ("linear", "logistic")


def quantities(theta, target):
    """What is compared, `(C, Q)`: parameters, their squares and products, and the log likelihood."""
    log_lik = theta.new_empty(len(theta), target.num_data)
    target.log_likelihood(theta, log_lik)
    products = [theta[:, 0] * theta[:, 1], theta[:, 1] * theta[:, 2]]
    return torch.cat((theta, theta**2, torch.stack([*products, log_lik.sum(1)], 1)), 1).numpy()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", SAMPLERS)
def test_joint_distribution(name, family):
    """Geweke 2004: (theta, data) starts from its exact joint distribution, and then parameters given data (one
    iteration of the sampler) alternate with data given parameters. Every chain is an independent experiment, and
    after any number of turns theta must still follow its prior (the form of Gandy & Scott 2020, arXiv:2001.06465).
    """
    chains, turns = 16_000, 25
    generator = torch.Generator().manual_seed(5)
    theta = torch.randn(chains, DIM, generator=generator, dtype=torch.float64)
    target = Replicates.simulate(theta, NUM_DATA, family, generator)
    expected = quantities(theta, target)
    sampler, accepted = SAMPLERS[name](), []
    for turn in range(turns):
        state = sampler.init(target, theta, seed=turn)
        _, info = sampler.step(state)
        accepted.append(info.accepted.double().mean())
        theta = state.theta
        target.resample(theta, generator)
    assert 0.3 < np.mean(accepted) < 0.998, "the test must matter"
    found = quantities(theta, target)
    error = np.sqrt(expected.var(0) / chains + found.var(0) / chains)
    z = (found.mean(0) - expected.mean(0)) / error
    assert (np.abs(z) < 4).all(), z
    for column in range(DIM):
        assert stats.kstest(theta[:, column].numpy(), "norm").pvalue > 1e-4


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", SAMPLERS)
def test_simulation_based_calibration(name, family):
    """Talts et al. 2018 (arXiv:1804.06788): among nearly independent draws of the posterior of simulated data, the
    parameters that made the data have a uniform rank. Chains begin at draws of the prior of their own."""
    chains, draws, thin, burn_in = 1500, 15, 8, 60
    generator = torch.Generator().manual_seed(11)
    truth = torch.randn(chains, DIM, generator=generator, dtype=torch.float64)
    target = Replicates.simulate(truth, NUM_DATA, family, generator)
    sampler = SAMPLERS[name]()
    state = sampler.init(
        target,
        torch.randn(chains, DIM, generator=generator, dtype=torch.float64),
        seed=3,
        warm_up_iterations=burn_in,
    )
    for _ in range(burn_in):
        sampler.step(state, warming_up=True)
    below = np.zeros_like(quantities(truth, target), dtype=int)
    true_values = quantities(truth, target)
    for _ in range(draws):
        for _ in range(thin):
            sampler.step(state)
        below += quantities(state.theta, target) < true_values
    expected = chains / (draws + 1)
    counts = np.stack([np.bincount(ranks, minlength=draws + 1) for ranks in below.T])
    chi_square = ((counts - expected) ** 2 / expected).sum(1)
    p_values = stats.chi2.sf(chi_square, draws)
    assert (p_values > 1e-4).all(), (p_values, counts)


@pytest.mark.parametrize("defect", ["warm", "prior forgotten", "likelihood doubled"])
def test_these_tests_can_fail(defect, monkeypatch):
    """A posterior that is 30 % too warm, or lacks its prior, or counts its data twice, is caught by both."""
    if defect == "warm":
        monkeypatch.setattr(Replicates, "temperature", 1.3)
    elif defect == "prior forgotten":
        plain = Replicates.__init__

        def flat(self, *arguments):
            plain(self, *arguments)
            self.prior = (hmc_fast.kernels.ops.Segment(0, DIM, hmc_fast.kernels.ops.FLAT),)

        monkeypatch.setattr(Replicates, "__init__", flat)
    else:
        plain_gradient = Replicates.log_likelihood_and_grad

        @functools.wraps(plain_gradient)
        def doubled(self, theta, grad, log_lik, indices=None):
            plain_gradient(self, theta, grad, log_lik, indices)
            grad.mul_(2)
            log_lik.mul_(2)

        monkeypatch.setattr(Replicates, "log_likelihood_and_grad", doubled)
    with pytest.raises(AssertionError):
        test_joint_distribution("hmc", "linear")
    with pytest.raises(AssertionError):
        test_simulation_based_calibration("hmc", "linear")
