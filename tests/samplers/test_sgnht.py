"""SGNHT: the thermostat's stationary friction, and the heat of minibatches that it takes away."""

import numpy as np
import torch

import hmc_fast
from cases import sample
from discretisation import FRICTION, Step
from targets import check_moments, gaussian, linear_regression


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
    run = sample(
        gaussian(np.eye(dim) / stiffness),
        hmc_fast.SGNHT(eps, friction=friction, steps_per_iteration=8),
        chains=128,
        burn_in=30,
        draws=32,
        init=torch.zeros(dim),
    )
    pooled = np.asarray(run.draws).reshape(32, -1, 4)  # dimensions are alike: 25 of them as chains
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
            chains=1024,
            burn_in=15,
            draws=20,
            progress=False,
        )
        kinetic = run.trace[run.trace.phase == "sampling"].pivot(
            index="iteration", columns="chain", values="kinetic_energy"
        )
        by_chain = kinetic.to_numpy().mean(0)  # 2 K / D with D = 2
        temperatures.append((by_chain.mean(), by_chain.std() / np.sqrt(1024)))
    (hot, hot_error), (held, held_error) = temperatures
    assert hot - 1 > 0.05 + 5 * hot_error
    assert abs(held - 1) < 4.5 * held_error
    assert held_error < 0.01
