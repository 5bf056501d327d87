"""Scores of predictions, by hand and against calibrated labels."""

import numpy as np
import pytest
import torch

from hmc_fast.results.model_average import StreamedAverage
from hmc_fast.results.predictions import Classification, expected_calibration_error


def test_scores():
    probs = np.array([[0.8, 0.2], [0.4, 0.6], [0.9, 0.1]])
    result = Classification(probs, probs[None], np.zeros(3))
    y = np.array([0, 0, 0])
    assert result.accuracy(y) == pytest.approx(2 / 3)
    assert result.nll(y) == pytest.approx(-np.log([0.8, 0.4, 0.9]).mean())
    assert result.brier(y) == pytest.approx(2 * (0.04 + 0.36 + 0.01) / 3)
    # one bin: mean confidence .7667 against accuracy .6667; three bins: .4 of .6, 1 of .8, 1 of .9
    assert result.ece(y, num_bins=1) == pytest.approx(0.1)
    assert result.ece(y, num_bins=3) == pytest.approx((0.6 + 0.2 + 0.1) / 3)


def test_calibrated_probabilities_have_no_calibration_error():
    rng = np.random.default_rng(0)
    p = rng.uniform(0.5, 1, 40_000)
    labels = (rng.uniform(size=40_000) > p).astype(int)
    assert expected_calibration_error(np.stack((p, 1 - p), 1), labels) < 0.01


def test_certainty_that_is_wrong_costs_much_but_not_infinity():
    """A probability may round to 0, and the entropy of the average to less than the average entropy."""
    certain = np.array([[1.0, 0.0]])
    result = Classification(certain, certain[None], np.full(1, 1e-9))
    assert 700 < result.nll(np.array([1])) < 800
    assert result.epistemic.tolist() == [0.0]
    average = StreamedAverage("classification", (1, 1, 2), labels=torch.tensor([1]), num_draws=1)
    average.update(torch.tensor(certain[None]))
    assert 700 < average.curve[0, 1] < 800
