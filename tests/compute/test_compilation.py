"""Compiled functions: the same bits as eager ones, told apart by their constants, and resumable."""

import numpy as np
import pytest
import torch
from torch import nn

import hmc_fast
from cases import SAMPLERS
from hmc_fast.compute.compilation import compile_function
from hmc_fast.kernels import reference
from hmc_fast.kernels.reference import Counter
from targets import linear_regression

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("path", ["compiled", "loop"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_compiled_chains_are_the_eager_ones(name, path):
    posterior, _ = linear_regression()
    theta = posterior.initial("prior", 2, 0)
    states = []
    for way in ("eager", path):
        sampler = SAMPLERS[name]()
        state = sampler.init(posterior.prepared(path=way), theta, seed=1)
        for _ in range(3):
            sampler.step(state)
        states.append(state)
    torch.testing.assert_close(states[0].theta, states[1].theta, rtol=1e-5, atol=1e-6)
    assert not torch.equal(states[0].theta, theta)


def test_compiled_random_bits_are_the_eager_ones():
    """One block of one chain is all scalars, where the C++ compiler once made use of a signed overflow."""
    for chains, elements in ((1, 3), (2, 37)):
        step = torch.tensor([5])

        def bits(chains=chains, elements=elements, step=step):
            return reference.uniforms(Counter(3, 1, step), chains, elements)

        assert torch.equal(compile_function(bits, cpu=True)(), bits())


def test_functions_of_one_source_line_are_compiled_apart():
    def make(factor):
        return compile_function(lambda x: x * factor, cpu=True)

    two, three = make(2.0), make(3.0)
    assert float(two(torch.ones(2))[0]) == 2.0
    assert float(three(torch.ones(2))[0]) == 3.0


def test_compiled_micro_batches_add_up():
    """Full micro-batches are compiled, the remainder is not; the sum is the gradient of the whole."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(50, 3, generator=generator), torch.randint(0, 4, (50,), generator=generator)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4))
    whole = hmc_fast.Posterior(model, (x, y))
    theta = whole.initial("prior", 2, 0)
    expected = whole.potential_and_grad(theta)
    for chain_batching in ("vmap", "loop"):
        parts = hmc_fast.Posterior(model, (x, y), micro_batch_size=16, chain_batching=chain_batching)
        value, grad = parts.prepared(path="compiled").potential_and_grad(theta)
        torch.testing.assert_close(value, expected[0])
        torch.testing.assert_close(grad, expected[1], rtol=1e-4, atol=1e-4)


class Convolutional(nn.Module):
    def __init__(self, flatten):
        super().__init__()
        self.convolutions = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Conv2d(3, 8, 3))
        self.head = nn.Linear(8 * 16, 4)
        self.flatten = flatten

    def forward(self, x):
        return self.head(self.flatten(self.convolutions(x)))


@pytest.mark.parametrize("flatten", [lambda h: h.flatten(1), lambda h: h.view(len(h), -1)], ids=["flatten", "view"])
def test_compiled_convolutions_have_the_eager_gradient(flatten):
    """A `view` of their outputs rules out channels-last, not compilation."""
    images = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 4
    eager = hmc_fast.Posterior(Convolutional(flatten), images)
    compiled = eager.prepared(path="compiled")
    theta = eager.initial("prior", 2, 0)
    expected, found = eager.potential_and_grad(theta), compiled.potential_and_grad(theta)
    torch.testing.assert_close(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1], rtol=1e-4, atol=1e-4)


def test_a_compiled_run_resumes_to_the_same_draws(tmp_path):
    posterior, _ = linear_regression()
    options = {"chains": 2, "burn_in": 1, "draws": 6, "progress": False, "compile": True}
    whole = hmc_fast.run(posterior, SAMPLERS["sghmc"](), **options)
    stored = hmc_fast.run(posterior, SAMPLERS["sghmc"](), out=tmp_path / "run", **options)
    assert np.array_equal(whole.draws, stored.draws)
    # a resumed run computes as it did before, whatever is asked for now
    again = hmc_fast.run(
        posterior, SAMPLERS["sghmc"](), out=tmp_path / "run", resume=True, **options | {"compile": False}
    )
    assert np.array_equal(again.draws, whole.draws)
    assert again.target.compiled
