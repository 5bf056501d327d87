"""Integrators: analytic orbits, order, reversibility, volume."""

import math

import pytest
import torch

import hmc_fast
from hmc_fast.dynamics.coefficients import Coefficients
from hmc_fast.dynamics.integrators import INTEGRATORS, LEAPFROG, PhasePoint


def integrate(density, theta, momentum, step_size, num_leapfrog, inverse_mass=None, integrator=LEAPFROG):
    """(theta, momentum) after a trajectory; float64."""
    point = PhasePoint(theta.clone(), momentum.clone(), torch.empty_like(theta), theta.new_empty(len(theta), 1))
    density.log_likelihood_and_grad(point.theta, point.grad, point.log_lik)
    coefficients = Coefficients.buffer(theta)
    Coefficients(kick=step_size, drift=step_size).write(coefficients, density.temperature)
    trajectory = integrator.trajectory(density, point, coefficients, inverse_mass=inverse_mass)
    trajectory.set_length(num_leapfrog)
    trajectory.run()
    return point.theta, point.momentum


def oscillator(stiffness=1.0, temperature=1.0):
    return hmc_fast.Density(
        lambda t: -0.5 * stiffness * (t**2).sum(), 2, dtype=torch.float64, temperature=temperature
    )


START = torch.tensor([[1.0, -0.5], [0.3, 2.0]], dtype=torch.float64)
SPEED = torch.tensor([[0.2, 0.7], [-1.0, 0.1]], dtype=torch.float64)


def test_free_fall_is_exact_and_downhill():
    """A linear potential: leapfrog is exact, and the chain must fall down the potential, not climb it."""
    density = hmc_fast.Density(lambda t: 3.0 * t[0], 2, dtype=torch.float64)
    theta, momentum = integrate(density, START, SPEED, 0.1, 20)
    force = torch.tensor([3.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(theta, START + 2.0 * SPEED + 2.0 * force)
    torch.testing.assert_close(momentum, SPEED + 2.0 * force)


@pytest.mark.parametrize(("stiffness", "temperature"), [(1.0, 1.0), (2.0, 1.0), (2.0, 0.5)])
def test_harmonic_orbit_and_second_order(stiffness, temperature):
    omega = math.sqrt(stiffness / temperature)
    errors = []
    for step_size in (0.02, 0.01):
        theta, momentum = integrate(
            oscillator(stiffness, temperature), START, SPEED, step_size, round(2 / step_size)
        )
        c, s = math.cos(2 * omega), math.sin(2 * omega)
        exact = START * c + SPEED * s / omega, SPEED * c - START * s * omega
        errors.append(max((theta - exact[0]).abs().max().item(), (momentum - exact[1]).abs().max().item()))
    assert errors[0] < 2e-3
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.05)


def test_inverse_mass_scales_velocity():
    inverse_mass = torch.tensor([0.25, 4.0], dtype=torch.float64)
    theta, _ = integrate(oscillator(), START, SPEED, 0.002, 500, inverse_mass)
    omega = inverse_mass.sqrt()
    exact = START * torch.cos(omega) + SPEED * omega * torch.sin(omega)
    torch.testing.assert_close(theta, exact, atol=1e-4, rtol=1e-4)


def quartic():
    return hmc_fast.Density(lambda t: -(t**4).sum() - t[0] * t[1] + t[0], 2, dtype=torch.float64)


def test_trajectories_retrace_their_steps():
    theta, momentum = integrate(quartic(), START, SPEED, 0.05, 40)
    back, reversed_momentum = integrate(quartic(), theta, -momentum, 0.05, 40)
    torch.testing.assert_close(back, START, atol=1e-9, rtol=0)
    torch.testing.assert_close(-reversed_momentum, SPEED, atol=1e-9, rtol=0)


def test_energy_drift_is_bounded():
    density = quartic()
    start = density.potential_and_grad(START)[0] + 0.5 * (SPEED**2).sum(1)
    for num_leapfrog in (100, 1000):
        theta, momentum = integrate(density, START, SPEED, 0.02, num_leapfrog)
        energy = density.potential_and_grad(theta)[0] + 0.5 * (momentum**2).sum(1)
        assert (energy - start).abs().max() < 0.05  # of about 17, at any length


def test_volume_is_preserved():
    flow = lambda z: torch.cat(integrate_row(z))  # noqa: E731

    def integrate_row(z):
        theta, momentum = integrate(quartic(), z[None, :2], z[None, 2:], 0.1, 7)
        return theta[0], momentum[0]

    point = torch.cat((START[0], SPEED[0]))
    step = 1e-6
    columns = [
        (flow(point + step * e) - flow(point - step * e)) / (2 * step) for e in torch.eye(4, dtype=torch.float64)
    ]
    assert torch.linalg.det(torch.stack(columns, dim=1)).item() == pytest.approx(1.0, abs=1e-7)


def test_one_gradient_per_step():
    density, calls = quartic(), []
    real = density.log_likelihood_and_grad
    density.log_likelihood_and_grad = lambda *a, **k: (calls.append(1), real(*a, **k))[1]
    state = hmc_fast.HMC(0.05, num_leapfrog=7).init(density, START)
    assert len(calls) == 1
    for _ in range(3):
        hmc_fast.HMC(0.05, num_leapfrog=7).step(state)
    assert len(calls) == 1 + 3 * 7


@pytest.mark.parametrize("name", INTEGRATORS)
def test_coefficients_are_consistent(name):
    """Kicks add up to the drifts over a cycle, and the last inner kick is two end kicks."""
    integrator = INTEGRATORS[name]
    assert sum(integrator.inner) == pytest.approx(integrator.stages)
    assert integrator.inner[-1] == pytest.approx(2 * integrator.end)


def run_integrator(name, step_size, num_leapfrog, theta=START, momentum=SPEED):
    return integrate(quartic(), theta, momentum, step_size, num_leapfrog, integrator=INTEGRATORS[name])


def test_two_stage_is_reversible_of_second_order_and_errs_less():
    theta, momentum = run_integrator("two_stage", 0.05, 40)
    back, reversed_momentum = run_integrator("two_stage", 0.05, 40, theta, -momentum)
    torch.testing.assert_close(back, START, atol=1e-9, rtol=0)
    torch.testing.assert_close(-reversed_momentum, SPEED, atol=1e-9, rtol=0)

    def largest_energy_error(name, step_size):
        """Over trajectories of all lengths: at one time an error may vanish by chance."""
        start = quartic().potential_and_grad(START)[0] + 0.5 * (SPEED**2).sum(1)
        ends = [run_integrator(name, step_size, num_leapfrog) for num_leapfrog in range(2, 100, 6)]
        energies = [quartic().potential_and_grad(theta)[0] + 0.5 * (m**2).sum(1) for theta, m in ends]
        return (torch.stack(energies) - start).abs().max().item()

    coarse, fine = ({name: largest_energy_error(name, step) for name in INTEGRATORS} for step in (0.02, 0.01))
    for name in INTEGRATORS:
        assert coarse[name] / fine[name] == pytest.approx(4.0, rel=0.15)
    assert fine["two_stage"] < 0.4 * fine["leapfrog"]
