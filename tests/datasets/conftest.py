"""Folders of data files; and no data set may touch a global generator."""

import numpy as np
import pytest
import torch

from data_files import CSV, IDX, pictures, write_csv, write_idx


@pytest.fixture(autouse=True)
def global_generators_are_left_alone():
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    yield
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


@pytest.fixture
def csv_dir(tmp_path):
    for seed, name in enumerate(CSV):
        write_csv(tmp_path / name, *pictures(12, seed))
    return tmp_path


@pytest.fixture
def idx_dir(tmp_path):
    for seed in range(2):
        for name, array in zip(IDX[2 * seed : 2 * seed + 2], pictures(12, seed), strict=True):
            write_idx(tmp_path / name, array)
    return tmp_path
