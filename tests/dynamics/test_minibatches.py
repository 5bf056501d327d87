"""Minibatches: whole epochs, unbiased gradients, a function of the step alone, uniform positions."""

import contextlib

import numpy as np
import pytest
import torch

import hmc_fast
from cases import data, network
from hmc_fast.dynamics.minibatches import Minibatches, SymmetricMinibatches, minibatches, permutation
from targets import linear_regression


def rows(batches, step):
    """The rows of a minibatch, `(C, B)`, read as a sampler reads them."""
    batches.advance(step)
    out = torch.empty(batches.num_chains, batches.batch_size, dtype=torch.int64)
    batches.read(torch.tensor([step]), out)
    return out


def test_batches_of_an_epoch_average_to_the_full_gradient():
    posterior, _ = linear_regression()
    theta = posterior.initial("prior", 3, 0)
    batches = Minibatches(posterior.num_data, 16, 3, 7, theta.device)
    for epoch in range(2):
        indices = [rows(batches, 4 * epoch + k) for k in range(4)]
        assert (torch.cat(indices, 1).sort(1).values == torch.arange(64, device=theta.device)).all()
        gradients = [posterior.potential_and_grad(theta, batch)[1] for batch in indices]
        torch.testing.assert_close(torch.stack(gradients).mean(0), posterior.potential_and_grad(theta)[1])
        assert not torch.allclose(gradients[0], gradients[1])


CPU = torch.device("cpu")


@pytest.mark.parametrize("batch_size", [5, 6])
def test_minibatch_gradients_are_unbiased(batch_size):
    """The mean over whole epochs of batches is the full gradient, to rounding."""
    posterior = hmc_fast.Posterior(network(), data(), prior=hmc_fast.Normal(0.2))
    theta = posterior.initial("prior", 2, 0)
    batches = Minibatches(20, batch_size, 2, 3, CPU)
    steps = {5: 4, 6: 10}[batch_size]  # 1 epoch, 3 epochs
    grads = [posterior.potential_and_grad(theta, rows(batches, step))[1] for step in range(steps)]
    torch.testing.assert_close(torch.stack(grads).mean(0), posterior.potential_and_grad(theta)[1])


@pytest.mark.parametrize(("num_data", "batch_size"), [(12, 4), (10, 3), (7, 7), (5, 1)])
def test_every_datum_appears_once_per_epoch(num_data, batch_size):
    batches = Minibatches(num_data, batch_size, 3, 0, CPU)
    steps = num_data * 3  # a whole number of epochs, however B divides N
    drawn = torch.cat([rows(batches, step) for step in range(steps)], dim=1)
    for epoch in drawn.split(num_data, dim=1):
        assert torch.equal(epoch.sort(1).values, torch.arange(num_data).expand(3, -1))
    assert not torch.equal(drawn[0], drawn[1])


@pytest.mark.parametrize(("num_data", "batch_size"), [(12, 4), (10, 3), (7, 7), (5, 1), (7, 6)])
def test_a_symmetric_sweep_is_a_palindrome_of_an_epoch(num_data, batch_size):
    batches = SymmetricMinibatches(num_data, batch_size, 3, 0, CPU)
    half = -(-num_data // batch_size)
    orders = []
    for sweep in range(3):
        assert batches.advance(2 * half * sweep) == 2 * half
        assert batches.advance(2 * half * sweep + 1) == 2 * half - 1
        drawn = torch.stack([rows(batches, 2 * half * sweep + step) for step in range(2 * half)])
        assert torch.equal(drawn, drawn.flip(0))
        forwards = drawn[:half].transpose(0, 1).flatten(1)[:, :num_data]
        assert torch.equal(forwards.sort(1).values, torch.arange(num_data).expand(3, -1))
        orders.append(forwards)
    assert len({tuple(order) for orders_ in orders for order in orders_.tolist()}) == 9, "chains and sweeps differ"
    other = SymmetricMinibatches(num_data, batch_size, 3, 0, CPU)
    assert torch.equal(rows(other, 4 * half), drawn[0]), "a function of the step alone"


@pytest.mark.parametrize("symmetric", [False, True])
def test_streamed_batches_are_those_of_the_step(symmetric):
    """In any sequence of steps, twice the same included: the examples themselves are in the buffers."""
    x, y = data(20)
    target = hmc_fast.Posterior(network(), (x, y), stream=True)
    streamed = minibatches(target, 6, 2, 3, symmetric=symmetric)
    known = (SymmetricMinibatches if symmetric else Minibatches)(20, 6, 2, 3, CPU)
    for step in (0, 1, 2, 2, 9, 10, 4, 5, 6):
        with target.stream.open() if step > 4 else contextlib.nullcontext():  # which ends what is read ahead
            assert streamed.advance(step) == 1
            chosen = rows(known, step)
            assert torch.equal(streamed.target.x, x[chosen])
            assert torch.equal(streamed.target.y, y[chosen])


def test_batches_are_a_function_of_the_step_alone():
    one, other = (Minibatches(10, 3, 2, 5, CPU) for _ in range(2))
    forward = [rows(one, step) for step in range(12)]
    for step in (11, 2, 7, 8, 0):
        assert torch.equal(rows(other, step), forward[step])
    different = Minibatches(10, 3, 2, 6, CPU)
    assert not torch.equal(torch.cat(forward), torch.cat([rows(different, s) for s in range(12)]))


def test_positions_are_uniform():
    drawn = torch.cat([permutation(0, epoch, 8, 6, CPU) for epoch in range(400)])  # (3200, 6)
    counts = np.stack([np.bincount(drawn[:, position], minlength=6) for position in range(6)])
    chi_square = ((counts - 3200 / 6) ** 2 / (3200 / 6)).sum()
    assert chi_square < 55  # 25 degrees of freedom: 0.9995 quantile


@pytest.mark.parametrize("batch_size", [0, 11])
def test_batch_size_must_fit(batch_size):
    with pytest.raises(hmc_fast.UserError, match=f"batch size {batch_size} must lie between 1 and the 10"):
        Minibatches(10, batch_size, 1, 0, CPU)


@pytest.mark.parametrize(("num_data", "batch_size"), [(64, 16), (10, 3), (7, 7), (10, 9), (5, 1)])
def test_the_window_serves_as_many_steps_as_it_says(num_data, batch_size):
    """Read without another advance, they are the rows that advancing each time gives."""
    stays, moves = (Minibatches(num_data, batch_size, 2, 3, torch.device("cpu")) for _ in range(2))
    step = 0
    while step < 25:
        number = stays.advance(step)
        assert number >= 1
        for _ in range(number):
            out = torch.empty(2, batch_size, dtype=torch.int64)
            stays.read(torch.tensor([step]), out)
            assert torch.equal(out, rows(moves, step))
            step += 1
        assert step * batch_size // num_data > (step - 1) * batch_size // num_data, "it could have stayed"
