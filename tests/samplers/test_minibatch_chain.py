"""What minibatch chains report of an iteration."""

import pytest
import torch

import hmc_fast
from cases import classifier
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


def test_each_step_has_the_coefficients_that_its_schedule_says():
    """Evaluated for a whole iteration at once; what is reported is the step size of its last step."""
    schedule, used = hmc_fast.CosineCyclical(3, exploration=0.2), []

    class Watched(hmc_fast.SGHMC):
        def update(self, chain):
            used.append(chain.coefficients[0].tolist())
            super().update(chain)

    posterior = classifier()[0]
    sampler = Watched(0.02, friction=5.0, batch_size=16, steps_per_iteration=4, schedule=schedule)
    state = sampler.init(posterior, posterior.initial("prior", 2, 0), seed=1)
    told = [float(sampler.step(state)[1].step_size[0]) for _ in range(4)]
    sizes = 0.02 * schedule.multiplier(torch.arange(16), 4)
    assert told == pytest.approx(sizes[3::4].tolist())
    explores = schedule.explores(torch.arange(16), 4)
    noise = torch.where(explores, 0.0, 2 * sizes * 5.0).sqrt()
    expected = torch.stack([sizes, sizes, 1 - 5.0 * sizes, noise], dim=1)
    torch.testing.assert_close(torch.tensor(used).double(), expected, rtol=1e-6, atol=1e-7)
