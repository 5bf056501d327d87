"""Samplers without a Metropolis test against the stationary law of their own discretisation.

On a Gaussian posterior every step is affine, so the moments of theta follow from the step's matrix: a discrete
Lyapunov equation, averaged over all ways to cut the data into minibatches where there are any. Steps are coarse:
that law differs from the posterior, and only the right noise factor and the right order of operations meet it.
"""

import itertools

import numpy as np
import pytest
import torch

import hmc_fast
from hmc_fast.compute.random_streams import NOISE
from hmc_fast.dynamics.minibatches import Minibatches
from hmc_fast.kernels.ops import Counter, normals
from targets import check_moments, linear_regression

EPS, FRICTION, TEMPERATURE = 0.35, 1.5, 1.4


class Step:
    """An affine map of (theta, m, 1) in D + D + 1 numbers, and the covariance of the noise it has added."""

    def __init__(self, dim):
        self.dim, self.matrix = dim, np.eye(2 * dim + 1)
        self.noise = np.zeros_like(self.matrix)

    def _then(self, matrix, std=0.0, where=slice(0)):
        self.matrix, self.noise = matrix @ self.matrix, matrix @ self.noise @ matrix.T
        self.noise[where, where] += std**2 * np.eye(self.dim) if std else 0.0

    def drift(self, h):
        matrix = np.eye(2 * self.dim + 1)
        matrix[: self.dim, self.dim : -1] = h * np.eye(self.dim)
        self._then(matrix)

    def kick(self, h, force):
        """force: b, H of the gradient b - H theta."""
        matrix = np.eye(2 * self.dim + 1)
        matrix[self.dim : -1, : self.dim], matrix[self.dim : -1, -1] = -h * force[1], h * force[0]
        self._then(matrix)

    def refresh(self, share, std):
        matrix = np.eye(2 * self.dim + 1)
        matrix[self.dim : -1, self.dim : -1] *= share
        self._then(matrix, std, slice(self.dim, -1))

    def ornstein_uhlenbeck(self, h):
        share = np.exp(-FRICTION * h)
        self.refresh(share, np.sqrt(1 - share**2))

    def langevin(self, eps, force):
        matrix = np.eye(2 * self.dim + 1)
        matrix[: self.dim, : self.dim] -= eps / 2 * force[1]
        matrix[: self.dim, -1] = eps / 2 * force[0]
        self._then(matrix, np.sqrt(eps), slice(0, self.dim))


def sgld(step, eps, force):
    step.langevin(eps, force)


def sghmc(step, eps, force):
    step.refresh(1 - eps * FRICTION, np.sqrt(2 * eps * FRICTION))
    step.kick(eps, force)
    step.drift(eps)


def baoab(step, eps, force):
    step.kick(eps / 2, force)
    step.drift(eps / 2)
    step.ornstein_uhlenbeck(eps)
    step.drift(eps / 2)
    step.kick(eps / 2, force)


def obabo(step, eps, force):
    step.ornstein_uhlenbeck(eps / 2)
    step.kick(eps / 2, force)
    step.drift(eps)
    step.kick(eps / 2, force)
    step.ornstein_uhlenbeck(eps / 2)


def stationary(dim, algorithm, eps, epochs):
    """Mean and variance of theta at the end of an epoch. epochs: the ways in which one may run, equally likely,
    each a list of forces, one per step."""
    steps = []
    for forces in epochs:
        steps.append(Step(dim))
        for force in forces:
            algorithm(steps[-1], eps, force)
    matrices, noises = np.stack([s.matrix for s in steps]), np.mean([s.noise for s in steps], 0)
    moments = np.zeros_like(noises)  # of (theta, m, 1), second order
    moments[-1, -1] = 1.0
    for _ in range(20_000):
        previous = moments
        moments = np.mean(matrices @ moments @ np.swapaxes(matrices, 1, 2), 0) + noises
        if np.allclose(moments, previous, rtol=1e-12, atol=1e-14):
            break
    mean = moments[:dim, -1]
    return mean, np.diag(moments)[:dim] - mean**2


def gaussian(covariance, mean=0.0, **options):
    precision = torch.tensor(np.linalg.inv(covariance))

    def log_density(theta):
        centred = theta - mean
        return -0.5 * centred @ precision.to(theta.device) @ centred

    return hmc_fast.Density(log_density, len(covariance), dtype=torch.float64, **options)


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
    run = hmc_fast.run(
        gaussian(covariance, mean, temperature=TEMPERATURE),
        make(eps, steps_per_iteration=6),
        chains=256,
        burn_in=20,
        draws=150,
        init=torch.zeros(2),
        draw_dtype=torch.float32,
        progress=False,
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
    run = hmc_fast.run(
        posterior,
        make(eps, batch_size=2, steps_per_iteration=6),  # two epochs
        chains=256,
        burn_in=20,
        draws=150,
        draw_dtype=torch.float32,
        progress=False,
    )
    check_moments(run.draws, *expected)


def test_psgld_is_rmsprop_in_burn_in_and_sgld_after():
    eps, decay, damping, scale = 0.3, 0.9, 1e-3, torch.tensor([0.2, 1.0], dtype=torch.float64)
    target = gaussian(np.diag(scale.numpy() ** 2))
    sampler = hmc_fast.PSGLD(eps, decay=decay, damping=damping, steps_per_iteration=1)
    state = sampler.init(target, scale.repeat(256, 1), warm_up_iterations=40)
    mean_square = torch.zeros(256, 2, dtype=torch.float64)
    for t in range(40):
        share = max(1 / (t + 1), 1 - decay)
        mean_square = (1 - share) * mean_square + share * (state.theta / scale**2) ** 2
        sampler.step(state, warming_up=True)
    torch.testing.assert_close(state.mean_square, mean_square, rtol=1e-6, atol=1e-12)
    preconditioner = 1 / (damping + mean_square.sqrt())
    sampler.steps_per_iteration, draws = 10, []
    for _ in range(150):
        sampler.step(state)
        draws.append(state.theta.numpy().copy())
    torch.testing.assert_close(state.preconditioner, preconditioner, rtol=1e-6, atol=1e-12)
    # a chain's own law, SGLD with step eps G on stiffness k
    rate = eps * preconditioner
    expected = (rate / (1 - (1 - rate / (2 * scale**2)) ** 2)).numpy()
    assert (expected.mean(0) / scale.numpy() ** 2).max() > 1.1, "the discretisation must show"
    check_moments(np.stack(draws)[20:] / np.sqrt(expected), np.zeros(2), np.ones(2))


def test_psgld_without_burn_in_is_refused():
    with pytest.raises(hmc_fast.UserError, match="burn_in 0 leaves PSGLD no iteration"):
        hmc_fast.PSGLD(1e-3).init(gaussian(np.eye(2)), torch.zeros(1, 2, dtype=torch.float64))


def test_sgnht_meets_its_law_in_many_dimensions():
    """The thermostat settles where the momentum has temperature 1; with many dimensions it hardly moves, and the
    rest is SGHMC of that friction and noise of the injected one."""
    dim, eps, friction, stiffness = 100, 0.25, 0.6, 5.0
    kicked = [[np.zeros(1), np.full((1, 1), stiffness)]]

    def moments(thermostat):
        def algorithm(step, h, force):
            step.refresh(1 - h * thermostat, np.sqrt(2 * h * friction))
            step.kick(h, force)
            step.drift(h)

        step = Step(1)
        algorithm(step, eps, kicked[0])
        a, q = step.matrix[:2, :2], step.noise[:2, :2]
        covariance = np.linalg.solve(np.eye(4) - np.kron(a, a), q.ravel()).reshape(2, 2)
        return np.diag(covariance)

    low, high = 0.1, 3.0
    for _ in range(60):  # momentum cools as the friction grows
        middle = (low + high) / 2
        low, high = (middle, high) if moments(middle)[1] > 1 else (low, middle)
    variance = moments(low)[0]
    assert abs(variance / moments(friction)[0] - 1) > 0.05, "a thermostat that stays put must show"
    run = hmc_fast.run(
        gaussian(np.eye(dim) / stiffness),
        hmc_fast.SGNHT(eps, friction=friction, steps_per_iteration=8),
        chains=32,
        burn_in=40,
        draws=125,
        init=torch.zeros(dim),
        draw_dtype=torch.float32,
        progress=False,
    )
    pooled = np.asarray(run.draws).reshape(125, -1, 4)  # dimensions are alike: 25 of them as chains
    check_moments(pooled, np.zeros(4), np.full(4, variance), bias=0.01)


def test_sgnht_cools_what_minibatches_heat():
    """The mean of m^T m / D is 1 exactly, as the thermostat's own mean does not drift; SGHMC's is hotter."""
    posterior, _ = linear_regression(num_data=6, noise_std=1.0)
    temperatures = []
    for make in (hmc_fast.SGHMC, hmc_fast.SGNHT):
        run = hmc_fast.run(
            posterior,
            make(
                0.1, friction=FRICTION, batch_size=2, steps_per_iteration=10
            ),  # 10: ends at every place of an epoch
            chains=256,
            burn_in=20,
            draws=60,
            progress=False,
        )
        kinetic = run.trace[run.trace.phase == "sampling"].pivot(
            index="iteration", columns="chain", values="kinetic_energy"
        )
        by_chain = kinetic.to_numpy().mean(0)  # 2 K / D with D = 2
        temperatures.append((by_chain.mean(), by_chain.std() / np.sqrt(256)))
    (hot, hot_error), (held, held_error) = temperatures
    assert hot - 1 > 0.05 + 5 * hot_error
    assert abs(held - 1) < 4.5 * held_error
    assert held_error < 0.01


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
        torch.testing.assert_close(info.step_size, torch.full((2,), rate, dtype=torch.float32))
        assert sampler.keeps(t) == (t % 4 == 3)


def test_polynomial_decay_is_read_from_the_counter():
    sampler = hmc_fast.SGLD(0.1, steps_per_iteration=5, schedule=hmc_fast.PolynomialDecay(offset=4.0, power=0.6))
    state = sampler.init(gaussian(np.eye(2)), torch.zeros(1, 2, dtype=torch.float64))
    for iteration in range(3):
        _, info = sampler.step(state)
        last = 5 * iteration + 4
        expected = 0.1 * 4.0**0.6 * (4.0 + last) ** -0.6
        torch.testing.assert_close(info.step_size, torch.tensor([expected], dtype=torch.float32))


@pytest.mark.parametrize("name", ["sgld", "sghmc"])
def test_the_end_of_a_cycle_samples_the_target(name):
    """Held constant at its largest, the step would give a variance 25 % off; at the end of a cycle it is small."""
    make = {
        "sgld": lambda **o: hmc_fast.SGLD(0.8, **o),
        "sghmc": lambda **o: hmc_fast.SGHMC(0.6, friction=1.0, **o),
    }[name]
    run = hmc_fast.run(
        gaussian(np.eye(2)),
        make(steps_per_iteration=10, schedule=hmc_fast.CosineCyclical(4, keep=1, exploration=0.25)),
        chains=512,
        burn_in=8,
        draws=20,
        init=torch.zeros(2),
        draw_dtype=torch.float32,
        progress=False,
    )
    check_moments(run.draws, np.zeros(2), np.ones(2), bias=0.05)


def test_batches_of_an_epoch_average_to_the_full_gradient():
    posterior, _ = linear_regression()
    theta = posterior.initial("prior", 3, 0)
    batches = Minibatches(posterior.num_data, 16, 3, 7, theta.device)
    for epoch in range(2):
        indices = [batches.indices(4 * epoch + k).clone() for k in range(4)]
        assert (torch.cat(indices, 1).sort(1).values == torch.arange(64, device=theta.device)).all()
        gradients = [posterior.potential_and_grad(theta, rows)[1] for rows in indices]
        torch.testing.assert_close(torch.stack(gradients).mean(0), posterior.potential_and_grad(theta)[1])
        assert not torch.allclose(gradients[0], gradients[1])
