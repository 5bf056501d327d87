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
from discretisation import EPS, FRICTION, TEMPERATURE, baoab, obabo, sghmc, sgld, stationary, ubu
from hmc_fast.compute.random_streams import NOISE
from hmc_fast.kernels.ops import Counter, normals
from targets import check_moments, gaussian, linear_regression

# name -> (discretisation, step size, sampler)
FULL_BATCH = {
    "sgld": (sgld, 0.3, lambda eps, **o: hmc_fast.SGLD(eps, **o)),
    "sghmc": (sghmc, EPS, lambda eps, **o: hmc_fast.SGHMC(eps, friction=FRICTION, **o)),
    "baoab": (baoab, 0.7, lambda eps, **o: hmc_fast.UnderdampedLangevin(eps, friction=FRICTION, **o)),
    "obabo": (
        obabo,
        0.7,
        lambda eps, **o: hmc_fast.UnderdampedLangevin(eps, friction=FRICTION, scheme="obabo", **o),
    ),
    "ubu": (ubu, 0.8, lambda eps, **o: hmc_fast.UBU(eps, friction=FRICTION, **o)),
}
SYMMETRIC = {"smsubu": (ubu, 0.2, lambda eps, **o: hmc_fast.SMSUBU(eps, friction=FRICTION, **o))}


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


def regression(noise_std):
    """The conjugate regression on six examples, the gradient on some of them, and every cut into three batches of
    two."""
    posterior, known = linear_regression(num_data=6, noise_std=noise_std)
    x, y = (tensor.cpu().numpy() for tensor in (posterior.x, posterior.y))
    y = y.reshape(-1)

    def force(rows):
        """Likelihood of the rows times N/B, and a standard normal prior."""
        rows = list(rows)
        weight = len(x) / len(rows) / noise_std**2
        return weight * x[rows].T @ y[rows], weight * x[rows].T @ x[rows] + np.eye(2)

    orders = [np.reshape(order, (3, 2)) for order in itertools.permutations(range(6))]
    cuts = sorted({tuple(tuple(sorted(batch)) for batch in order) for order in orders})
    assert len(cuts) == 90
    return posterior, known, force, cuts


@pytest.mark.parametrize(("name", "eps"), [("sgld", 0.2), ("sghmc", 0.3), ("ubu", 0.2), ("smsubu", 0.2)])
def test_minibatch_noise_meets_the_discretisation(name, eps):
    algorithm, _, make = FULL_BATCH.get(name) or SYMMETRIC[name]
    posterior, _, force, cuts = regression(noise_std=1.0)
    random = stationary(2, algorithm, eps, [[force(batch) for batch in cut] for cut in cuts])
    swept = stationary(2, algorithm, eps, [[force(batch) for batch in (*cut, *cut[::-1])] for cut in cuts])
    quiet = stationary(2, algorithm, eps, [[force(range(6))] * 3])
    assert abs(random[1] / quiet[1] - 1).max() > 0.03, "the gradient noise must show"
    if name in ("ubu", "smsubu"):
        assert abs(random[1] / swept[1] - 1).max() > 0.03, "the order of the batches must show"
    run = sample(
        posterior,
        make(eps, batch_size=2, steps_per_iteration=6),  # two epochs
        chains=1024,
        burn_in=15,
        draws=40,
    )
    check_moments(run.draws, *(swept if name in SYMMETRIC else random))


@pytest.mark.statistical
@pytest.mark.parametrize(("name", "coarse"), [("ubu", 0.4), ("smsubu", 0.8)])
def test_bias_halves_twice_when_the_step_size_halves(name, coarse):
    """On the variances, measured; minibatch noise included, which adds first-order bias where batches are drawn
    independently (`docs/samplers.md`)."""
    posterior, known, *_ = regression(noise_std={"ubu": 1.0, "smsubu": 3.0}[name])
    batches = {"batch_size": 2} if name in SYMMETRIC else {}
    _, _, make = FULL_BATCH.get(name) or SYMMETRIC[name]
    biases = []
    for eps in (coarse, coarse / 2):
        sampler = make(eps, steps_per_iteration=round(6 * coarse / eps), **batches)
        run = sample(posterior, sampler, chains=4096, burn_in=20, draws=50)
        squares = (run.draws - known.mean) ** 2
        biases.append(np.mean(squares.mean((0, 1)) / known.variance - 1))
    assert abs(biases[0]) > 0.09
    # the standard error of the finer one is .002 of .03; terms of higher order are a tenth
    assert 3.3 < biases[0] / biases[1] < 5.2, biases


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
