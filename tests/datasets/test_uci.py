"""UCI tables: standardised with the training set, fixed splits, and every mistake in a file."""

import numpy as np
import pytest
import torch

from data_files import refused
from hmc_fast.datasets import load


def write_table(path, table):
    path.write_text("\n".join(" ".join(f"{cell:.6g}" for cell in row) for row in table) + "\n\n")


@pytest.fixture
def table():
    generator = np.random.default_rng(0)
    values = generator.normal(3, 2, (20, 4))
    values[:, 1] = 0.1  # a constant column, whose mean is not exactly 0.1
    return np.round(values, 4)


@pytest.mark.parametrize("folder", ["", "uci"])
def test_uci_is_standardised_with_the_training_set(tmp_path, table, folder):
    (tmp_path / folder).mkdir(exist_ok=True)
    write_table(tmp_path / folder / "made.txt", table)
    (tmp_path / folder / "made.splits.txt").write_text("0 3 5\n1 2\n")
    data = load("uci-made", tmp_path, split=0)
    train = np.delete(table, [0, 3, 5], axis=0)
    assert data.x_train.shape == (17, 3)
    assert data.x_test.shape == (3, 3)
    assert data.task == "regression"
    restored = data.y_test.double() * data.y_std + data.y_mean
    np.testing.assert_allclose(restored.numpy(), table[[0, 3, 5], -1], rtol=1e-5)
    np.testing.assert_allclose(data.y_mean, train[:, -1].mean())
    np.testing.assert_allclose(data.x_train.mean(0).numpy(), 0, atol=1e-6)
    np.testing.assert_allclose(data.x_train.std(0, correction=0).numpy(), [1, 0, 1], atol=1e-5)
    assert len(load("uci-made", tmp_path, split=1).x_test) == 2


def test_uci_without_splits_has_fixed_ones(tmp_path, table):
    write_table(tmp_path / "made.txt", table)
    first, again, other = (load("uci-made", tmp_path, split=split) for split in (0, 0, 1))
    assert len(first.x_test) == 2
    assert torch.equal(first.x_test, again.x_test)
    assert not torch.equal(first.x_test, other.x_test)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"made\.txt has 0 rows"),
        ("1 2 3\n", r"made\.txt has 1 row"),
        ("1\n2\n3\n", "at least 2 rows of 2 numbers"),
        ("1 2 3\n4 5\n6 7 8\n", r"made\.txt .*(ragged|line 2)"),
        ("1 2 3\n4 five 6\n", r"made\.txt .*five"),
        ("1 2 3\n4 nan 6\n7 8 9\n", r"made\.txt (row 1|line 2) contains NaN or infinity"),
        ("1 2 3\n4 5 6\n7 8 inf\n", r"made\.txt (row 2|line 3) contains NaN or infinity"),
    ],
)
def test_a_bad_uci_table(tmp_path, text, message):
    (tmp_path / "made.txt").write_text(text)
    refused(message, "uci-made", tmp_path)


@pytest.mark.parametrize(
    ("splits", "split", "message"),
    [
        ("0 1\n", 1, r"split 1 does not exist: .*made\.splits\.txt has 1"),
        ("0 1\n", -1, "split -1 must be 0 or more"),
        ("0 20\n", 0, r"must list test rows in 0\.\.19"),
        ("-1 2\n", 0, r"must list test rows in 0\.\.19"),
        ("3 3\n", 0, "each at most once"),
        (" ".join(map(str, range(20))) + "\n", 0, "not all"),
        ("1 two\n", 0, "must contain only row numbers"),
        ("9" * 30 + "\n", 0, "must contain only row numbers"),
    ],
)
def test_a_bad_split(tmp_path, table, splits, split, message):
    write_table(tmp_path / "made.txt", table)
    (tmp_path / "made.splits.txt").write_text(splits)
    refused(message, "uci-made", tmp_path, split=split)


def test_a_missing_uci_set(tmp_path):
    refused(r"uci-made needs .*made\.txt: one example per line", "uci-made", tmp_path)
