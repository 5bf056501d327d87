"""Step size schedules."""

import math

import pytest
import torch

import hmc_fast


def test_cosine_cycles():
    schedule = hmc_fast.CosineCyclical(4, keep=2)
    steps = torch.arange(24)
    fraction = torch.cat([schedule.fraction(s.view(1), 3) for s in steps])
    assert fraction[:13].tolist() == pytest.approx([k / 12 for k in range(12)] + [0.0])
    learning_rate = torch.cat([schedule.multiplier(s.view(1), 3) for s in steps]) ** 2
    torch.testing.assert_close(learning_rate, 0.5 * (1 + torch.cos(math.pi * fraction)))
    exploring = hmc_fast.CosineCyclical(4, exploration=0.5)
    assert torch.cat([exploring.explores(s.view(1), 3) for s in steps]).tolist() == ([True] * 6 + [False] * 6) * 2
    assert [schedule.keeps(i) for i in range(8)] == [False, False, True, True] * 2
    for options, message in (
        ({"cycle_length": 0}, "cycle length 0"),
        ({"cycle_length": 3, "keep": 4}, "keep 4"),
        ({"cycle_length": 3, "exploration": 1.0}, "exploration 1.0"),
    ):
        with pytest.raises(hmc_fast.UserError, match=message):
            hmc_fast.CosineCyclical(**options)


def test_polynomial_decay():
    schedule = hmc_fast.PolynomialDecay(offset=10.0, power=0.6)
    step = torch.tensor([0, 1, 30])
    learning_rate = schedule.multiplier(step, 7) ** 2  # counted in steps, whatever an iteration holds
    expected = (10.0 + step.double()) ** -0.6 / 10.0**-0.6
    torch.testing.assert_close(learning_rate, expected)
    assert not schedule.explores(step, 7).any()
    assert schedule.keeps(5)
    for options, message in (({"offset": 0.0}, "offset 0.0"), ({"offset": 1.0, "power": 1.5}, "power 1.5")):
        with pytest.raises(hmc_fast.UserError, match=message):
            hmc_fast.PolynomialDecay(**options)
