"""Split HMC: order, reversibility, and which subset each kick sees."""

import numpy as np
import pytest
import torch

import hmc_fast
from cases import state_of
from targets import energy, linear_regression


@pytest.mark.parametrize("num_splits", [2, 3, 5, 64])
def test_split_hmc_follows_the_posterior_to_second_order(num_splits):
    """64 data in 3 or 5 subsets of unequal size: were their shares wrong, the error would not vanish."""
    posterior, _ = linear_regression()
    errors = []
    for halvings in range(3):
        sampler = hmc_fast.SplitHMC(0.02 / 2**halvings, num_splits=num_splits, num_leapfrog=6 * 2**halvings)
        state = state_of(sampler, posterior)
        _, info = sampler.step(state)
        errors.append(info.energy_error.abs().numpy())
        start = energy(posterior, posterior.initial(torch.tensor([1.0, -2.0]), 3, 0), state.origin.momentum)
        end = energy(posterior, state.proposal.theta, state.proposal.momentum)
        np.testing.assert_allclose(info.energy_error, end - start, atol=1e-6)
    orders = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    assert (orders > 1.8).all(), orders


@pytest.mark.parametrize("num_splits", [2, 3, 5])
def test_a_split_trajectory_is_its_own_reverse(num_splits):
    posterior, _ = linear_regression()
    sampler = hmc_fast.SplitHMC(0.1, num_splits=num_splits, num_leapfrog=3)
    state = state_of(sampler, posterior)
    state.call(sampler.begin)
    start = state.proposal.theta.clone(), state.proposal.momentum.clone()
    sampler.trajectory(state)
    assert (state.proposal.theta - start[0]).abs().min() > 1e-3
    state.proposal.momentum.neg_()
    sampler.trajectory(state)
    torch.testing.assert_close(state.proposal.theta, start[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(state.proposal.momentum, -start[1], rtol=0, atol=1e-11)


def test_split_hmc_visits_subsets_there_and_back():
    sampler = hmc_fast.SplitHMC(0.1, num_splits=3, num_leapfrog=2)
    visits = list(sampler.visits(2))
    assert [v.subset for v in visits] == [0, 1, 2, 1, 0, 1, 2, 1, 0]
    assert [v.kicks for v in visits] == [1, 1, 2, 1, 2, 1, 2, 1, 1]
    assert [v.drifts for v in visits] == [True] * 8 + [False]
    assert len(visits) == sampler.gradients_per_iteration(None)
