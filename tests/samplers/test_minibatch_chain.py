"""What minibatch chains report of an iteration."""

import torch

import hmc_fast
from targets import linear_regression


def test_an_epoch_of_minibatches_estimates_the_log_likelihood():
    """Every datum once, at a theta that hardly moves: the estimate is the sum over the data."""
    posterior, _ = linear_regression()
    theta = posterior.initial("prior", 3, 0)
    sampler = hmc_fast.SGLD(1e-16, batch_size=posterior.num_data // 4)
    _, info = sampler.step(sampler.init(posterior, theta))
    log_lik = theta.new_empty(3, posterior.num_data)
    posterior.log_likelihood(theta, log_lik)
    torch.testing.assert_close(info.log_likelihood, log_lik.sum(1), rtol=1e-5, atol=1e-5)
    assert info.num_leapfrog == 4
