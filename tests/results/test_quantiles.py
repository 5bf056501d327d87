"""Quantiles of predictions over draws."""

import numpy as np
import pytest
import torch
from torch import nn

import hmc_fast
from cases import go
from hmc_fast.results import predicted

X = torch.linspace(-1, 1, 40)[:, None] * torch.tensor([1.0, 0.5])
LEVELS = (0.05, 0.5, 0.95)


def drawn(likelihood, outputs=1):
    posterior = hmc_fast.Posterior(nn.Linear(2, outputs), (X, X[:, 0]), likelihood)
    sampler = hmc_fast.HMC(0.1, num_leapfrog=4)
    return hmc_fast.run(posterior, sampler, chains=3, burn_in=3, draws=21, progress=False, draw_dtype=torch.float32)


def outputs(run):
    """(S, C, T, ...), by hand."""
    flat = run.target.flat
    return np.stack([np.stack([flat(torch.tensor(row), X).numpy() for row in draw]) for draw in run.draws])


def laplace(found, y):
    return -(found - y[:, None]).abs().sum(-1)


@pytest.mark.parametrize("size", [None, 1, 7])
def test_raw_outputs_of_any_shape(size, monkeypatch):
    """Exact over draws, in chunks of any number of inputs; the average is the same as without."""
    run = drawn(laplace, outputs=2)
    if size is not None:
        monkeypatch.setattr(predicted, "_QUANTILE_BYTES", size * 21 * 3 * 2 * 4 + 3)
    found, plain = run.predict(X, quantiles=LEVELS), run.predict(X)
    assert found.quantiles.shape == (3, 40, 2)
    np.testing.assert_allclose(found.quantiles, np.quantile(outputs(run), LEVELS, axis=(0, 1)), atol=1e-6)
    for name in ("mean", "sd", "chain_mean"):
        np.testing.assert_allclose(getattr(found, name), getattr(plain, name), atol=1e-6)
    assert plain.quantiles is None


def test_memory_is_bounded(monkeypatch):
    run, sizes = drawn(laplace, outputs=2), []
    monkeypatch.setattr(predicted, "_QUANTILE_BYTES", 5000)
    quantile = np.quantile
    monkeypatch.setattr(
        np, "quantile", lambda values, *a, **k: (sizes.append(values.nbytes), quantile(values, *a, **k))[1]
    )
    run.predict(X, quantiles=LEVELS)
    assert len(sizes) > 1
    assert max(sizes) <= 5000


def test_a_regressions_are_those_of_its_mean():
    run = drawn("gaussian")
    found = run.predict(X, quantiles=0.9)
    np.testing.assert_allclose(found.quantiles[0], np.quantile(outputs(run)[..., 0], 0.9, axis=(0, 1)), atol=1e-6)
    scaled = found.rescaled(2.0, 3.0)
    np.testing.assert_allclose(scaled.quantiles, 2 + 3 * found.quantiles)


def test_class_probabilities():
    run = go(draws=5)
    found = run.predict(run.target.x, quantiles=(0.0, 1.0))
    assert found.quantiles.shape == (2, *found.probs.shape)
    assert (found.quantiles[0] <= found.probs + 1e-6).all()
    assert (found.probs <= found.quantiles[1] + 1e-6).all()


@pytest.mark.parametrize("levels", [(), (0.1, 1.1), "0.5 of", float("nan"), [[0.1]], (None,)])
def test_levels_that_are_none(levels):
    with pytest.raises(hmc_fast.UserError, match="must be numbers between 0 and 1"):
        predicted.checked_levels(levels)
