"""Samplers without a Metropolis test against the stationary distribution of their own discretisation.

On a Gaussian posterior every step is affine, so the moments of theta follow from the step's matrix: a discrete
Lyapunov equation, averaged over all ways to cut the data into minibatches where there are any. Steps are coarse:
it differs from the posterior, and only the right noise factor and the right order of operations meet it.
"""

import itertools

import numpy as np
import pytest
import torch

import hmc_fast
from cases import sample
from discretisation import EPS, FRICTION, TEMPERATURE, baoab, obabo, sghmc, sgld, stationary
from hmc_fast.compute.random_streams import NOISE
from hmc_fast.kernels.ops import Counter, normals
from targets import check_moments, gaussian, linear_regression

FULL_BATCH = {
    "sgld": (sgld, 0.3, lambda eps, **o: hmc_fast.SGLD(eps, **o)),
    "sghmc": (sghmc, EPS, lambda eps, **o: hmc_fast.SGHMC(eps, friction=FRICTION, **o)),
    "baoab": (baoab, 0.7, lambda eps, **o: hmc_fast.UnderdampedLangevin(eps, friction=FRICTION, **o)),
    "obabo": (
        obabo,
        0.7,
        lambda eps, **o: hmc_fast.UnderdampedLangevin(eps, friction=FRICTION, scheme="obabo", **o),
    ),
}


@pytest.mark.parametrize("name", FULL_BATCH)
def test_full_gradients_meet_the_discretisation(name):
    algorithm, eps, make = FULL_BATCH[name]
    covariance, mean = np.array([[1.0, 0.3], [0.3, 0.3]]), 0.7
    precision = np.linalg.inv(covariance) / TEMPERATURE
    expected = stationary(2, algorithm, eps, [[(precision @ np.full(2, mean), precision)]])
    np.testing.assert_allclose(expected[0], mean, rtol=1e-6)
    share = expected[1] / (TEMPERATURE * np.diag(covariance))
    if name == "baoab":
        np.testing.assert_allclose(share, 1, rtol=1e-6)  # its configurations are exact
    else:
        assert abs(share - 1).max() > 0.08, "the discretisation must show"
    run = sample(
        gaussian(covariance, mean, temperature=TEMPERATURE),
        make(eps, steps_per_iteration=6),
        chains=1024,
        burn_in=15,
        draws=40,
        init=torch.zeros(2),
    )
    check_moments(run.draws, *expected)


@pytest.mark.parametrize("name", ["sgld", "sghmc"])
def test_minibatch_noise_meets_the_discretisation(name):
    """The conjugate regression on six examples: every cut into three batches of two is enumerated."""
    algorithm, _, make = FULL_BATCH[name]
    eps = {"sgld": 0.2, "sghmc": 0.3}[name]
    posterior, _ = linear_regression(num_data=6, noise_std=1.0)
    x, y = (tensor.cpu().numpy() for tensor in (posterior.x, posterior.y))
    y = y.reshape(-1)

    def force(rows):
        """Likelihood of the rows times N/B, and a standard normal prior."""
        rows = list(rows)
        weight = len(x) / len(rows)
        return weight * x[rows].T @ y[rows], weight * x[rows].T @ x[rows] + np.eye(2)

    orders = [np.reshape(order, (3, 2)) for order in itertools.permutations(range(6))]
    cuts = {tuple(tuple(sorted(batch)) for batch in order) for order in orders}
    assert len(cuts) == 90
    expected = stationary(2, algorithm, eps, [[force(batch) for batch in cut] for cut in cuts])
    quiet = stationary(2, algorithm, eps, [[force(range(6))] * 3])
    assert (expected[1] / quiet[1]).max() > 1.05, "the gradient noise must show"
    run = sample(
        posterior,
        make(eps, batch_size=2, steps_per_iteration=6),  # two epochs
        chains=1024,
        burn_in=15,
        draws=40,
    )
    check_moments(run.draws, *expected)


def test_a_cycle_explores_without_noise_and_then_samples():
    """SGLD step by step: its step size is a learning rate, so it falls as (1 + cos) / 2."""
    eps, target = 0.1, gaussian(np.eye(3))
    schedule = hmc_fast.CosineCyclical(4, exploration=0.5)
    sampler = hmc_fast.SGLD(eps, steps_per_iteration=1, schedule=schedule)
    theta = torch.ones(2, 3, dtype=torch.float64)
    state = sampler.init(target, theta, seed=3)
    for t in range(8):
        rate = eps * (1 + np.cos(np.pi * (t % 4) / 4)) / 2
        noise = normals(Counter(3, NOISE, torch.tensor([t])), 2, 3) if t % 4 >= 2 else torch.zeros(2, 3)
        theta = theta - rate / 2 * theta + rate**0.5 * noise.double()
        _, info = sampler.step(state)
        torch.testing.assert_close(state.theta, theta, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(info.step_size, torch.full((2,), rate, dtype=torch.float64))
        assert sampler.keeps(t) == (t % 4 == 3)


def test_polynomial_decay_is_read_from_the_counter():
    sampler = hmc_fast.SGLD(0.1, steps_per_iteration=5, schedule=hmc_fast.PolynomialDecay(offset=4.0, power=0.6))
    state = sampler.init(gaussian(np.eye(2)), torch.zeros(1, 2, dtype=torch.float64))
    for iteration in range(3):
        _, info = sampler.step(state)
        last = 5 * iteration + 4
        expected = 0.1 * 4.0**0.6 * (4.0 + last) ** -0.6
        torch.testing.assert_close(info.step_size, torch.tensor([expected], dtype=torch.float64))


@pytest.mark.parametrize("name", ["sgld", "sghmc"])
def test_the_end_of_a_cycle_samples_the_target(name):
    """Held constant at its largest, the step would give a variance 25 % off; at the end of a cycle it is small."""
    make = {
        "sgld": lambda **o: hmc_fast.SGLD(0.8, **o),
        "sghmc": lambda **o: hmc_fast.SGHMC(0.6, friction=1.0, **o),
    }[name]
    run = sample(
        gaussian(np.eye(2)),
        make(steps_per_iteration=10, schedule=hmc_fast.CosineCyclical(4, keep=1, exploration=0.25)),
        chains=512,
        burn_in=8,
        draws=20,
        init=torch.zeros(2),
    )
    check_moments(run.draws, np.zeros(2), np.ones(2), bias=0.05)
