"""A network whose posterior is known in closed form: fixed random features, a linear last layer, Gaussian noise.

y = W phi(x) + b + noise,   phi(x) = tanh(A x + a) frozen,   W ~ N(0, s_w^2),  b ~ N(0, s_b^2)
"""

import numpy as np
import pytest
import torch
from torch import nn

import hmc_fast
from hmc_fast.results.diagnostics import ess_bulk
from targets import check_moments

pytestmark = pytest.mark.statistical

FEATURES, NOISE_STD, WEIGHT_VARIANCE, BIAS_VARIANCE = 8, 0.3, 0.5, 2.0


class Features(nn.Module):
    def __init__(self, generator):
        super().__init__()
        self.register_buffer("matrix", torch.randn(2, FEATURES, generator=generator))
        self.register_buffer("shift", torch.randn(FEATURES, generator=generator))

    def forward(self, x):
        return torch.tanh(x @ self.matrix + self.shift)


@pytest.fixture(scope="module")
def problem():
    generator = torch.Generator().manual_seed(3)
    features = Features(generator)
    x = torch.randn(40, 2, generator=generator)
    y = torch.sin(x.sum(1)) + NOISE_STD * torch.randn(40, generator=generator)
    model = nn.Sequential(features, nn.Linear(FEATURES, 1))
    posterior = hmc_fast.Posterior(
        model,
        (x, y),
        likelihood=hmc_fast.Gaussian(NOISE_STD),
        prior=hmc_fast.PerGroup({"1.weight": hmc_fast.Normal(WEIGHT_VARIANCE)}, hmc_fast.Normal(BIAS_VARIANCE)),
    )
    design = torch.cat((features(x), torch.ones(40, 1)), 1).double().numpy()
    prior = np.diag([1 / WEIGHT_VARIANCE] * FEATURES + [1 / BIAS_VARIANCE])
    covariance = np.linalg.inv(design.T @ design / NOISE_STD**2 + prior)
    mean = covariance @ design.T @ y.double().numpy() / NOISE_STD**2
    x_test = 2 * torch.randn(25, 2, generator=generator)
    test_design = torch.cat((features(x_test), torch.ones(25, 1)), 1).double().numpy()
    return model, posterior, mean, covariance, x_test, test_design


def test_its_posterior_and_its_predictions(problem):
    _, posterior, mean, covariance, x_test, test_design = problem
    run = hmc_fast.run(
        posterior,
        hmc_fast.HMC(adapt=True),
        chains=16,
        burn_in=150,
        draws=250,
        draw_dtype=torch.float32,
        progress=False,
    )
    check_moments(run.draws, mean, np.diag(covariance))
    draws = np.asarray(run.draws, dtype=np.float64)
    # the whole covariance, in coordinates in which it is the identity
    whitened = np.moveaxis((draws - mean) @ np.linalg.cholesky(np.linalg.inv(covariance)), 0, 1)
    independent = ess_bulk(whitened).min()
    error = np.cov(whitened.reshape(-1, FEATURES + 1).T) - np.eye(FEATURES + 1)
    assert np.abs(error).max() < 5 * np.sqrt(2 / independent), (error, independent)
    # predictions: mean, and the two kinds of variance
    prediction = run.predict(x_test)
    epistemic = np.einsum("td,de,te->t", test_design, covariance, test_design)
    np.testing.assert_allclose(prediction.mean, test_design @ mean, atol=5 * np.sqrt(epistemic.max() / independent))
    np.testing.assert_allclose(prediction.epistemic, epistemic, rtol=5 * np.sqrt(2 / independent))
    np.testing.assert_allclose(prediction.aleatoric, NOISE_STD**2, rtol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_low_precision_gradient_leaves_the_law_alone(problem, precision):
    """bf16 keeps 8 bits of a product: another trajectory, still reversible, and the test is exact."""
    model, posterior, mean, covariance, *_ = problem
    low = hmc_fast.Posterior(
        model,
        (posterior.x, posterior.y),
        likelihood=hmc_fast.Gaussian(NOISE_STD),
        prior=hmc_fast.PerGroup({"1.weight": hmc_fast.Normal(WEIGHT_VARIANCE)}, hmc_fast.Normal(BIAS_VARIANCE)),
        precision=precision,
    )
    run = hmc_fast.run(
        low,
        hmc_fast.HMC(0.02, num_leapfrog=24, jitter=0.3),
        chains=64,
        burn_in=150,
        draws=400,
        draw_dtype=torch.float32,
        progress=False,
    )
    assert 0.2 < run.acceptance_rate < 0.99
    check_moments(run.draws, mean, np.diag(covariance))
