"""Random numbers on the host are those of the device."""

import pytest
import torch

from hmc_fast.compute.random_streams import JITTER, host_uniform, host_uniforms
from hmc_fast.kernels.ops import Counter, uniforms


@pytest.mark.parametrize("seed", [0, 5, 2**40 + 7, 2**63 - 1])
@pytest.mark.parametrize("step", [0, 3, 10**6, 2**32 + 1])
def test_a_uniform_on_the_host_is_the_one_on_the_device(seed, step):
    assert host_uniform(seed, JITTER, step) == float(uniforms(Counter(seed, JITTER, torch.tensor([step])), 1, 1))


def test_uniforms_of_many_steps_are_those_of_each():
    for first in (0, 2**32 - 2):
        steps = range(first, first + 5)
        assert host_uniforms(7, JITTER, steps).tolist() == [host_uniform(7, JITTER, step) for step in steps]
