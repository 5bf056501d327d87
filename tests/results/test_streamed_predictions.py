"""Predictions while draws arrive: values draw by draw, repeats that are not predicted again, and resumption."""

import numpy as np
import pytest
import torch
from torch import nn

import hmc_fast
from hmc_fast.results import streamed_predictions
from hmc_fast.results.streamed_predictions import StreamedPredictions

CHAINS, DRAWS, TEST = 2, 7, 6


def target(likelihood="categorical"):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 3, generator=generator)
    y = (x[:, 0] > 0).long() if likelihood == "categorical" else x[:, 0]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
    return hmc_fast.Posterior(model, (x, y), likelihood)


def streamed(likelihood="categorical"):
    posterior = target(likelihood)
    return StreamedPredictions(posterior, (posterior.x[:TEST], posterior.y[:TEST]), CHAINS, DRAWS)


def thetas():
    """Draws of two chains, of which the third repeats the second."""
    theta = torch.randn(DRAWS, CHAINS, 8, generator=torch.Generator().manual_seed(1))
    theta[2] = theta[1]
    return theta


@pytest.mark.parametrize("window", [1, 3, 64])
@pytest.mark.parametrize("likelihood", ["categorical", "heteroscedastic"])
def test_function_values_are_those_of_each_draw_whatever_the_window(likelihood, window, monkeypatch):
    monkeypatch.setattr(streamed_predictions, "_FUNCTION_WINDOW", window)
    predictions = streamed(likelihood)
    for theta in thetas():
        predictions.add(theta, moved=True)
    every = torch.stack([predictions.target.predict(theta, predictions.inputs) for theta in thetas()], dim=1)
    values = every if likelihood == "categorical" else every[..., 0]  # of regression, the means
    assert predictions.function_values().shape == (CHAINS, DRAWS, TEST * (2 if likelihood == "categorical" else 1))
    np.testing.assert_allclose(predictions.function_values(), values.flatten(2).numpy(), rtol=1e-5)


def test_a_repeat_counts_again_and_is_not_predicted_again():
    every, lazy = streamed(), streamed()
    calls = []
    logits = lazy.target.logits
    lazy.target.logits = lambda *arguments: (calls.append(1), logits(*arguments))[1]
    for draw, theta in enumerate(thetas()):
        every.add(theta, moved=True)
        lazy.add(theta, moved=draw != 2)
    assert len(calls) == DRAWS - 1
    np.testing.assert_allclose(lazy.average.result().probs, every.average.result().probs, rtol=1e-6)
    np.testing.assert_array_equal(lazy.function_values(), every.function_values())


@pytest.mark.parametrize("likelihood", ["categorical", "heteroscedastic"])
@pytest.mark.parametrize("stop", [0, 2, 5])
def test_a_checkpoint_continues_even_before_a_repeat(stop, likelihood):
    """After two draws the next one repeats: its predictions come from the checkpoint."""
    whole, broken, resumed = (streamed(likelihood) for _ in range(3))
    for draw, theta in enumerate(thetas()):
        whole.add(theta, moved=draw != 2)
        if draw < stop:
            broken.add(theta, moved=draw != 2)
    broken.flush()
    resumed.values.append(broken.values.read())
    resumed.restore({name: tensor.clone() for name, tensor in broken.tensors().items()}, broken.curve(0))
    for draw in range(stop, DRAWS):
        resumed.add(thetas()[draw], moved=draw != 2)
    assert resumed.score() == whole.score()
    np.testing.assert_array_equal(resumed.average.curve, whole.average.curve)
    found, expected = resumed.average.result(), whole.average.result()
    for name in ("probs",) if likelihood == "categorical" else ("mean", "variance", "log_density"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    np.testing.assert_array_equal(resumed.function_values(), whole.function_values())
