"""Digits."""

import torch

from hmc_fast.datasets import load


def test_digits():
    data = load("digits")
    assert data.x_train.shape == (1437, 64)
    assert data.x_test.shape == (360, 64)
    assert (data.task, data.num_classes, data.class_names) == ("classification", 10, tuple("0123456789"))
    assert data.x_train.dtype == torch.float32
    assert abs(float(data.x_train.mean())) < 1e-5
    assert abs(float(data.x_train.std()) - 1) < 1e-3
    shares = torch.bincount(data.y_train) / 1437 - torch.bincount(data.y_test) / 360
    assert shares.abs().max() < 0.005  # stratified
    assert torch.equal(data.x_train, load("digits").x_train)
