"""How many kernels a step launches besides the model's: in a graph each takes 1.5 to 2.5 us, whatever it computes.

Counted on the CPU, where torch dispatches the same operations; fused kernels where they would be launched.
"""

import pytest
import torch
from torch.overrides import TorchFunctionMode

import hmc_fast
from cases import SAMPLERS, classifier
from gpu_assurance import launches


class Pretend(TorchFunctionMode):
    """Tensors say that they are on a GPU."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return True if func == torch.Tensor.is_cuda.__get__ else func(*args, **(kwargs or {}))


def launched(function):
    """The names of what it launches."""
    counted = launches.Counted()
    with counted, Pretend(), launches.kernels(lambda kernel, name, *_: counted.names.append(name)):
        function()
    return counted.names


def gradient(posterior, theta, indices=None):
    """A function that evaluates it into new buffers."""
    count = posterior.num_data if indices is None else indices.shape[1]
    grad, log_lik = torch.empty_like(theta), theta.new_empty(len(theta), count)
    return lambda: posterior.log_likelihood_and_grad(theta, grad, log_lik, indices)


def alone(posterior, rows):
    """A function that evaluates the model and its gradient on all data, up to autograd's last operation."""
    function = posterior._log_prob
    if rows.dim() == 2:
        function = torch.func.vmap(function, in_dims=(0, None, None))
    rows = rows.clone().requires_grad_()
    seed = torch.ones_like(function(rows, posterior.x, posterior.y))
    return lambda: torch.autograd.grad(function(rows, posterior.x, posterior.y), rows, seed)


@pytest.mark.parametrize(("way", "passes"), [("vmap", 1), ("loop", 3)])
def test_the_tail_of_a_gradient(way, passes):
    """Autograd's concatenation, the two results written."""
    posterior = classifier()[0].prepared(path="eager", chain_batching=way)
    theta = posterior.initial("prior", 3, 0)
    row = theta if passes == 1 else theta[0]
    launched(gradient(posterior, theta))  # which also makes the weights of the examples
    whole, model = launched(gradient(posterior, theta)), launched(alone(posterior, row))
    assert model[-1] == "cat"
    assert len(whole) / passes - (len(model) - 1) <= 3, whole


def test_the_ends_of_an_iteration():
    posterior = classifier()[0]
    sampler = SAMPLERS["hmc"]()
    state = sampler.init(posterior, posterior.initial("prior", 3, 0), seed=1)
    ends = launched(lambda: sampler.begin(state)), launched(lambda: sampler.test(state))
    assert sum(map(len, ends)) <= 24, ends


SCHEDULE = hmc_fast.CosineCyclical(3, keep=2, exploration=0.2)


@pytest.mark.parametrize(("schedule", "allowed"), [(None, 5), (SCHEDULE, 6)], ids=["constant", "cyclical"])
def test_a_minibatch_step(schedule, allowed):
    """Beside its gradient: the schedule, the indices, the rows of x and y, the update, and the step's end."""
    posterior = classifier()[0]
    theta, counts = posterior.initial("prior", 3, 0), []
    for steps in (1, 2):
        sampler = hmc_fast.SGHMC(0.02, friction=5.0, batch_size=16, steps_per_iteration=steps, schedule=schedule)
        state = sampler.init(posterior, theta, seed=1)
        sampler.step(state)
        counts.append(launched(lambda sampler=sampler, state=state: sampler.step(state)))
    once, twice = map(len, counts)
    indices = torch.zeros(3, 16, dtype=torch.int64)
    rows_of_x_and_y = 2
    assert twice - once - len(launched(gradient(posterior, theta, indices))) + rows_of_x_and_y <= allowed, counts[1]
