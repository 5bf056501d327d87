"""UBU and SMS-UBU: the flow without a force, the order of operations, and what the anchor does."""

from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch

import hmc_fast
from cases import SAMPLERS, sample
from hmc_fast.compute.random_streams import FLOW, OPENING
from hmc_fast.dynamics.coefficients import FlowCoefficients
from hmc_fast.kernels.ops import Counter, normals
from targets import check_moments, gaussian, linear_regression


@pytest.mark.parametrize("x", [1e-12, 1e-6, 1e-3, 0.05, 0.2499, 0.2501, 1.0, 30.0])
def test_coefficients_of_the_flow_are_exact(x):
    """Against sixty decimal digits: in float64 the formula alone would lose all digits below x = 1e-5."""
    friction = 0.7
    found = FlowCoefficients.of(0.3, torch.tensor([x], dtype=torch.float64) / friction, friction)
    with localcontext() as context:
        context.prec = 60
        exact = Decimal(x)
        a = (-exact).exp()
        s = (2 * exact - 3 + 4 * a - a * a).sqrt()
        shared = (1 - a) ** 2 / s
        gamma = Decimal(friction)
        expected = [(1 - a) / gamma, a, (1 - a * a - shared**2).sqrt(), shared, s / gamma]
    assert found.kick == 0.3
    np.testing.assert_allclose(torch.cat(found[1:]).numpy(), [float(e) for e in expected], rtol=1e-13)


def test_an_iteration_is_u_b_u_with_halves_at_its_ends():
    """Step by step, with an inverse mass and temperature; three steps, two iterations."""
    eps, friction, mass = 0.2, 1.3, torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)
    target = gaussian(np.eye(3), temperature=1.7)
    sampler = hmc_fast.UBU(eps, friction=friction, steps_per_iteration=3, inverse_mass=mass)
    state = sampler.init(target, torch.ones(2, 3, dtype=torch.float64), seed=3)
    theta = torch.ones(2, 3, dtype=torch.float64)
    m = None

    def flow(theta, m, duration, stream, step):
        _, drift, decay, noise, shared, spread = FlowCoefficients.of(
            0.0, torch.tensor([duration], dtype=torch.float64), friction
        )
        first, second = (normals(Counter(3, stream + i, torch.tensor([step])), 2, 3).double() for i in (0, 1))
        moved = theta + drift * mass * m + spread * mass.sqrt() * first
        return moved, decay * m + (shared * first + noise * second) / mass.sqrt()

    for iteration in range(2):
        if m is None:
            state.refresh_momentum()
            m = state.momentum.clone()
        theta, m = flow(theta, m, eps / 2, OPENING, 3 * iteration)
        for k in range(3):
            m = m - eps * theta / 1.7
            theta, m = flow(theta, m, eps if k < 2 else eps / 2, FLOW, 3 * iteration + k)
        sampler.step(state)
        torch.testing.assert_close(state.theta, theta, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(state.momentum, m, rtol=1e-6, atol=1e-7)


def test_without_noise_and_friction_it_is_leapfrog():
    """U(eps/2) is then a drift, so a trajectory turns round to where it began."""
    target, theta = gaussian(np.diag([1.0, 0.3])), torch.tensor([[0.4, -0.2]], dtype=torch.float64)
    sampler = hmc_fast.UBU(0.05, friction=1e-30, steps_per_iteration=20)
    state = sampler.init(target, theta, seed=0)
    sampler.step(state)
    middle = state.theta.clone()
    state.momentum.neg_()
    sampler.step(state)
    assert not torch.allclose(middle, theta, atol=0.1)
    torch.testing.assert_close(state.theta, theta, rtol=1e-9, atol=1e-9)


def controlled(**options):
    return hmc_fast.SMSUBU(0.05, friction=2.0, batch_size=16, control_variate=True, **options)


def test_the_control_variate_takes_the_noise_where_the_chain_began():
    """There every minibatch has the gradient of all data; elsewhere an epoch averages to it."""
    posterior, _ = linear_regression()
    theta = posterior.initial("prior", 3, 0)
    for moved in (0.0, 0.5):
        found = []
        for batch in torch.arange(64).split(16):
            sampler = controlled(steps_per_iteration=1)
            state = sampler.init(posterior, theta, seed=1)
            state.theta.add_(moved)
            rows = batch.expand(3, -1)
            log_lik = theta.new_empty(3, 16)
            sampler.gradient(state, posterior, log_lik, rows)
            sampler.update(state)
            found.append(state.grad.clone())
        state.theta.copy_(theta + moved)
        state.evaluate()
        torch.testing.assert_close(torch.stack(found).mean(0), state.grad)
        assert torch.allclose(torch.stack(found), state.grad.expand(4, -1, -1)) == (moved == 0.0)


def test_a_localised_posterior_is_the_product_with_its_gaussian():
    """In one dimension by hand: N(0, 1) times N(2, 1/3) is N(1.5, 1/4); each chain has its own."""
    kappa, target = 3.0, gaussian(np.eye(1))
    starts = torch.where(torch.arange(256) % 2 == 0, 2.0, -1.0)[:, None].double()
    sampler = hmc_fast.SMSUBU(0.05, friction=2.0, steps_per_iteration=40, localisation=kappa)
    run = sample(target, sampler, chains=256, burn_in=10, draws=20, init=starts)
    for first, mean in ((0, 1.5), (1, -0.75)):
        check_moments(run.draws[:, first::2], np.full(1, mean), np.full(1, 0.25), bias=0.01)


def test_localisation_is_told(capsys):
    posterior, _ = linear_regression()
    sampler = hmc_fast.SMSUBU(0.05, friction=2.0, batch_size=16, localisation=7.5)
    run = hmc_fast.run(posterior, sampler, chains=2, burn_in=2, draws=4)
    told = capsys.readouterr()
    assert "localised: a Gaussian factor of precision 7.5" in told.out + told.err
    assert "localised" in str(run.diagnosis())
    assert "localised" not in str(sample(posterior, SAMPLERS["smsubu"](), burn_in=2, draws=4).diagnosis())


@pytest.mark.parametrize(("num_data", "batch_size", "steps"), [(64, 16, 8), (64, 24, 6), (64, None, 1)])
def test_an_iteration_is_a_sweep(num_data, batch_size, steps):
    posterior, _ = linear_regression(num_data)
    sampler = hmc_fast.SMSUBU(0.05, friction=2.0, batch_size=batch_size)
    assert sampler.gradients_per_iteration(posterior) == steps
    assert hmc_fast.UBU(0.05, friction=2.0, batch_size=16).gradients_per_iteration(posterior) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"friction": 0.0}, "friction 0.0"),
        ({"friction": 1.0, "localisation": -1.0}, "localisation -1.0"),
        ({"friction": 1.0, "control_variate": True}, "control variate is for minibatches"),
    ],
)
def test_refused(options, message):
    with pytest.raises(hmc_fast.UserError, match=message):
        hmc_fast.SMSUBU(0.1, **options)
