"""Corruptions of images."""

import numpy as np
import pytest

from hmc_fast.experiments.corruptions import CORRUPTIONS, INTENSITIES, corrupt


@pytest.mark.parametrize("side", [8, 28])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corruptions_grow_with_intensity_and_keep_the_range(name: str, side: int) -> None:
    images = np.random.default_rng(2).random((60, side, side)).astype(np.float32) * 0.2 - 1
    images[:, side // 2 - 1 : side // 2 + 1, 1:-1] += 2  # a bar across the middle
    changed = [corrupt(images, name, intensity) for intensity in INTENSITIES]
    assert all(c.shape == images.shape and c.dtype == images.dtype for c in changed)
    assert all(c.min() >= images.min() - 1e-6 and c.max() <= images.max() + 1e-6 for c in changed)
    moved = [np.abs(c - images).mean() for c in changed]
    assert moved[0] > 0.002
    assert moved == sorted(set(moved)), "each stronger than the last"
    assert np.array_equal(changed[2], corrupt(images, name, 3)), "the same every time"
