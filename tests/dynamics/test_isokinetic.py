"""The isokinetic kick against its differential equation, at any strength."""

import pytest
import torch

from cases import directions
from hmc_fast.dynamics.isokinetic import isokinetic_kick


@pytest.mark.parametrize("dim", [2, 3, 17])
def test_a_kick_solves_its_differential_equation(dim):
    """du/dt = (1 - u u^T) g / (D - 1), by many small explicit steps of fourth order; dK' = e.u' |g|."""
    u, force = directions(5, dim), 4 * directions(5, dim, seed=1)

    def slope(v):
        return (force - v * (v * force).sum(1, keepdim=True)) / (dim - 1)

    step, count, v, kinetic = 0.7, 2000, u.clone(), torch.zeros(5, dtype=torch.float64)
    h = step / count
    for _ in range(count):
        before = (v * force).sum(1)
        a = slope(v)
        b = slope(v + h / 2 * a)
        c = slope(v + h / 2 * b)
        d = slope(v + h * c)
        v = v + h / 6 * (a + 2 * b + 2 * c + d)
        kinetic += h / 2 * (before + (v * force).sum(1))
    change = isokinetic_kick(u, force, torch.full((5,), step, dtype=torch.float64))
    torch.testing.assert_close(u, v, rtol=0, atol=1e-8)
    torch.testing.assert_close(change, kinetic, rtol=0, atol=1e-6)


def test_kicks_of_any_strength_keep_the_length_and_too_strong_ones_say_so():
    for strength in (0.0, 1e-8, 1.0, 1e3, 1e8):
        u = directions(6, 4)
        force = strength * torch.cat((u[:2], -u[2:4], directions(2, 4, seed=3)))  # along, against, across
        change = isokinetic_kick(u, force, torch.ones(6, dtype=torch.float64))
        torch.testing.assert_close(u.norm(dim=1), torch.ones(6, dtype=torch.float64))
        assert not change.isnan().any()
        assert (torch.isfinite(change) == (strength < 20)).all()
        if strength == 0:
            assert torch.equal(change, torch.zeros(6, dtype=torch.float64))
