"""What float16 draws cost: predictions of a trained digits network from rounded and from exact draws."""

import numpy as np
import pytest
import torch

import hmc_fast
from hmc_fast.datasets import load
from hmc_fast.models import mlp

pytestmark = pytest.mark.statistical


def test_float16_draws_change_no_digits_probability_by_a_thousandth():
    data = load("digits")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = mlp(64, (50, 50), 10)
    posterior = hmc_fast.Posterior(
        model, (data.x_train, data.y_train), likelihood="categorical", prior=hmc_fast.Normal(0.2)
    )
    run = hmc_fast.run(
        posterior,
        hmc_fast.HMC(0.02, num_leapfrog=35),
        chains=2,
        burn_in=40,
        draws=15,
        draw_dtype=torch.float32,
        progress=False,
    )
    assert run.acceptance_rate > 0.5
    exact = torch.as_tensor(np.asarray(run.draws)).flatten(0, 1)
    rounded = exact.half().float()
    assert (exact != rounded).float().mean() > 0.9

    def average(draws):
        return torch.stack([posterior.predict(row[None], data.x_test)[0] for row in draws]).mean(0)

    with torch.no_grad():
        change = (average(exact) - average(rounded)).abs().max()
    assert change < 1e-3, change
