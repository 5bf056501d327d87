"""`HMC(adapt=True)`, no other number given, on well-known posteriors: every mean within 0.15 deviations and every
deviation within 15 % of a reference that no Markov chain made, and R-hat under 1.02."""

import math

import numpy as np
import pytest
import torch

import hmc_fast
from hmc_fast.results.diagnostics import rhat

pytestmark = pytest.mark.statistical


def judged(log_density, dim, mean, std, transform=None):
    density = hmc_fast.Density(log_density, dim, dtype=torch.float64)
    run = hmc_fast.run(density, hmc_fast.HMC(adapt=True), chains=8, burn_in=600, draws=600, progress=False)
    chains = np.moveaxis(np.asarray(run.draws), 0, 1)
    if transform is not None:
        chains = transform(chains)
    found_mean, found_std = chains.mean((0, 1)), chains.std((0, 1))
    assert np.abs((found_mean - mean) / std).max() < 0.15, (found_mean, mean, std)
    assert np.abs(found_std / std - 1).max() < 0.15, (found_std, std)
    assert rhat(chains).max() < 1.02, rhat(chains)


def importance_moments(log_density, start, *, draws=100_000, degrees=8.0):
    """Mean and standard deviation by importance sampling from a t distribution with the mode and its curvature."""
    theta = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([theta], max_iter=500, line_search_fn="strong_wolfe", tolerance_grad=1e-9)

    def closure():
        optimizer.zero_grad()
        loss = -log_density(theta)
        loss.backward()
        return loss

    optimizer.step(closure)
    mode = theta.detach()
    covariance = torch.linalg.inv(-torch.func.hessian(log_density)(mode))
    root, generator = torch.linalg.cholesky(1.1 * covariance), np.random.default_rng(0)
    normal = torch.tensor(generator.standard_normal((draws, len(mode))))
    stretch = torch.tensor(degrees / generator.chisquare(degrees, (draws, 1))).sqrt()
    points = mode + stretch * normal @ root.T
    proposal = -(degrees + len(mode)) / 2 * torch.log1p(((stretch * normal) ** 2).sum(1) / degrees)
    values = torch.cat([torch.func.vmap(log_density)(part) for part in points.split(5_000)])
    weights = torch.softmax(values - proposal, 0)
    assert 1 / (weights**2).sum() > 0.1 * draws, "the proposal does not fit"
    mean = weights @ points
    return mean.numpy(), (weights @ (points - mean) ** 2).sqrt().numpy()


def test_correlation_099_and_scales_over_five_decades():
    dim = 6
    scales = np.logspace(-3, 2, dim)
    covariance = (0.99 + 0.01 * np.eye(dim)) * np.outer(scales, scales)
    precision, mean = torch.tensor(np.linalg.inv(covariance)), torch.tensor(3 * scales[::-1].copy())
    judged(lambda theta: -0.5 * (theta - mean) @ precision @ (theta - mean), dim, mean.numpy(), scales)


EFFECTS = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0], dtype=torch.float64)
ERRORS = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0], dtype=torch.float64)


def eight_schools_moments():
    """Of mu, log tau and the eight effects, by quadrature over (mu, log tau): given these all is normal."""
    mu = torch.linspace(-25, 35, 601, dtype=torch.float64)[:, None, None]
    log_tau = torch.linspace(-9, 6, 1201, dtype=torch.float64)[None, :, None]
    tau = log_tau.exp()
    total = tau**2 + ERRORS**2
    log_density = -0.5 * ((EFFECTS - mu) ** 2 / total + total.log()).sum(2)
    log_density = log_density - 0.5 * (mu[..., 0] / 5) ** 2 - torch.log1p((tau[..., 0] / 5) ** 2) + log_tau[..., 0]
    weight = torch.softmax(log_density.flatten(), 0).reshape(log_density.shape)[..., None]
    shrunk = (EFFECTS * tau**2 + mu * ERRORS**2) / total
    spread = tau**2 * ERRORS**2 / total
    everything = torch.cat((mu.expand_as(weight), log_tau.expand_as(weight), shrunk), 2)
    mean = (weight * everything).sum((0, 1))
    variance = (weight * (everything - mean) ** 2).sum((0, 1))
    variance[2:] += (weight * spread).sum((0, 1))
    return mean.numpy(), variance.sqrt().numpy()


def test_eight_schools_without_centring():
    """Rubin 1981: mu ~ N(0, 5^2), tau ~ half-Cauchy(5), effects mu + tau z."""

    def log_density(theta):
        mu, log_tau, z = theta[0], theta[1], theta[2:]
        tau = log_tau.exp()
        prior = -0.5 * (mu / 5) ** 2 - torch.log1p((tau / 5) ** 2) + log_tau - 0.5 * (z**2).sum()
        return prior - 0.5 * (((EFFECTS - mu - tau * z) / ERRORS) ** 2).sum()

    def effects(chains):
        mu, tau = chains[..., :1], np.exp(chains[..., 1:2])
        return np.concatenate((chains[..., :2], mu + tau * chains[..., 2:]), -1)

    judged(log_density, 10, *eight_schools_moments(), transform=effects)


def test_logistic_regression_on_raw_scales():
    """Ten predictors whose scales span three decades."""
    generator = torch.Generator().manual_seed(1)
    scales = torch.logspace(-1, 2, 10, dtype=torch.float64)
    x = torch.randn(200, 10, generator=generator, dtype=torch.float64) * scales
    weights = torch.randn(10, generator=generator, dtype=torch.float64) / scales
    y = (torch.rand(200, generator=generator, dtype=torch.float64) < torch.sigmoid(x @ weights)).double()

    def log_density(theta):
        location = x @ theta[1:] + theta[0]
        return (y * location - torch.nn.functional.softplus(location)).sum() - 0.5 * ((theta / 10) ** 2).sum()

    judged(log_density, 11, *importance_moments(log_density, [0.0] * 11))


def test_linear_regression_on_a_raw_predictor():
    """Intercept and slope of a predictor far from 0: correlation -.99; the noise's scale is unknown too."""
    generator = torch.Generator().manual_seed(2)
    x = 100 + 15 * torch.randn(400, generator=generator, dtype=torch.float64)
    y = 26 + 0.6 * x + 18 * torch.randn(400, generator=generator, dtype=torch.float64)

    def log_density(theta):
        residual = (y - theta[0] - theta[1] * x) / theta[2].exp()
        return -0.5 * (residual**2).sum() - 400 * theta[2] - torch.log1p((theta[2].exp() / 2.5) ** 2) + theta[2]

    judged(log_density, 3, *importance_moments(log_density, [20.0, 0.5, 3.0]))


def test_mixture_of_two_normals():
    """Ordered means, both scales and the share unknown; 1,000 data."""
    generator = torch.Generator().manual_seed(3)
    y = torch.cat(
        (
            torch.randn(630, generator=generator, dtype=torch.float64) - 2.75,
            torch.randn(370, generator=generator, dtype=torch.float64) + 2.75,
        )
    )

    def log_density(theta):
        first, second = theta[0], theta[0] + theta[1].exp()
        share = theta[4]
        one = torch.nn.functional.logsigmoid(share) - theta[2] - 0.5 * ((y - first) / theta[2].exp()) ** 2
        two = torch.nn.functional.logsigmoid(-share) - theta[3] - 0.5 * ((y - second) / theta[3].exp()) ** 2
        prior = -0.5 * (first / 2) ** 2 - 0.5 * (second / 2) ** 2 + theta[1]
        prior = prior - 0.5 * (theta[2].exp() / 2) ** 2 - 0.5 * (theta[3].exp() / 2) ** 2 + theta[2] + theta[3]
        prior = prior + 5 * (torch.nn.functional.logsigmoid(share) + torch.nn.functional.logsigmoid(-share))
        return prior + torch.logaddexp(one, two).sum()

    judged(log_density, 5, *importance_moments(log_density, [-2.75, math.log(5.5), 0.0, 0.0, 0.5]))


def test_time_series_of_order_one():
    """Level, persistence on (-1, 1) and noise of an AR(1) series of 200: constrained through tanh and exp."""
    generator = np.random.default_rng(4)
    series = np.zeros(200)
    for t in range(1, 200):
        series[t] = 0.5 + 0.8 * series[t - 1] + 0.3 * generator.standard_normal()
    y = torch.tensor(series)

    def log_density(theta):
        persistence = torch.tanh(theta[1])
        residual = (y[1:] - theta[0] - persistence * y[:-1]) / theta[2].exp()
        jacobian = torch.log1p(-(persistence**2))
        return -0.5 * (residual**2).sum() - 199 * theta[2] - 0.5 * (theta[0] / 10) ** 2 + jacobian - theta[2] ** 2

    judged(log_density, 3, *importance_moments(log_density, [0.5, 1.0, -1.0]))
