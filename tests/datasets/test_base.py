"""Data sets: what they promise, names, the user's own data, and the real files where they are."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from data_files import refused
from hmc_fast.datasets import Dataset, base, load
from hmc_fast.errors import UserError


def toy(**changes):
    x, y = torch.arange(24.0).reshape(12, 2), torch.arange(12) % 3
    fields = {"x_train": x, "y_train": y, "x_test": x[:6], "y_test": y[:6]} | changes
    task = "classification" if "task" not in fields else fields.pop("task")
    return Dataset(name="toy", task=task, num_classes=fields.pop("num_classes", 3), **fields)


def test_a_subset_is_fixed_balanced_and_nested():
    data = load("digits")
    small, large = data.subset(50), data.subset(100, 20)
    assert torch.equal(small.x_train, data.subset(50).x_train)
    assert torch.equal(small.x_train, large.x_train[:50])
    assert len(small.x_test) == 360
    assert len(large.x_test) == len(large.y_test) == 20
    assert set(torch.bincount(large.y_train).tolist()) <= {9, 10, 11}
    rows = {tuple(row) for row in data.x_train.tolist()}
    assert all(tuple(row) in rows for row in large.x_train.tolist())
    assert torch.equal(data.subset(1437).y_train.sort().values, data.y_train.sort().values)


def test_a_subset_keeps_the_shares_of_unequal_classes_and_every_label():
    y = torch.tensor([0] * 8 + [1] * 4)
    data = toy(y_train=y, x_test=torch.arange(24.0).reshape(12, 2), y_test=y, num_classes=2)
    part = data.subset(6, 3)
    assert torch.bincount(part.y_train).tolist() == [4, 2]
    assert torch.bincount(part.y_test).tolist() == [2, 1]
    for x, labels in ((part.x_train, part.y_train), (part.x_test, part.y_test)):
        assert (labels == (x[:, 0] >= 16)).all()


def test_the_order_of_subsets_is_the_same_for_everybody():
    """Published comparisons rest on it: a change of these numbers changes what --train-size means."""
    assert base.permutation(8, 0).tolist() == [3, 2, 1, 6, 0, 7, 4, 5]


def test_a_regression_subset_keeps_the_scale():
    data = toy(task="regression", num_classes=0, y_train=torch.arange(12.0), y_test=torch.arange(6.0), y_mean=5.0)
    part = data.subset(5)
    assert part.y_mean == 5.0
    for x, y in zip(part.x_train, part.y_train, strict=True):
        assert x[0] == 2 * y  # rows stay with their targets


@pytest.mark.parametrize(("train", "test"), [(0, None), (-1, None), (13, None), (3, 0), (3, 7)])
def test_a_subset_size_out_of_range(train, test):
    with pytest.raises(UserError, match=r"size -?\d+ must be in 1\.\.(12|6), the (training|test) examples of toy"):
        toy().subset(train, test)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"x_train": torch.full((12, 2), float("nan"))},
            "toy, training set: NaN or infinity in the features of row 0",
        ),
        ({"x_test": torch.tensor([[0.0, 0.0]] * 5 + [[0.0, float("inf")]])}, "toy, test set: .* features of row 5"),
        ({"y_train": torch.tensor([0, 1, 3] * 4)}, r"toy, training set: label 3 in row 2 must be in 0\.\.2"),
        ({"y_test": torch.tensor([0, -1, 2] * 2)}, r"toy, test set: label -1 in row 1 must be in 0\.\.2"),
        ({"y_train": torch.ones(12)}, "labels must be integers"),
        ({"y_train": torch.zeros(11, dtype=torch.int64)}, "12 examples but labels of shape"),
        ({"x_train": torch.zeros(0, 2), "y_train": torch.zeros(0, dtype=torch.int64)}, "training set is empty"),
        ({"x_test": torch.zeros(6, 3)}, r"training examples have shape \(2,\), test examples \(3,\)"),
        ({"x_train": torch.zeros(12, 2, dtype=torch.float64)}, "x must be float32"),
        ({"x_train": np.zeros((12, 2))}, "must be tensors, not ndarray"),
        ({"class_names": ("a", "b")}, "2 class names for 3 classes"),
        ({"num_classes": 1}, "classification needs at least 2"),
        ({"task": "ranking"}, "task 'ranking' is unknown"),
        ({"task": "regression"}, "regression targets must be floats"),
        (
            {"task": "regression", "y_train": torch.full((12,), float("nan")), "y_test": torch.zeros(6)},
            "NaN or infinity in the targets of row 0",
        ),
    ],
)
def test_a_bad_data_set(changes, message):
    with pytest.raises(UserError, match=message):
        toy(**changes)


def test_an_unknown_name(tmp_path):
    refused(
        "data set 'mnist' is unknown: use digits, fashion-mnist, uci-NAME or module:callable", "mnist", tmp_path
    )


def test_a_split_of_a_set_that_has_none():
    refused("split 2 needs a uci data set", "digits", split=2)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Writes a module in the working directory; returns the name of its `make`."""
    monkeypatch.chdir(tmp_path)
    name = f"own_{tmp_path.name}"

    def write(body):
        lines = ["import numpy as np", "import torch", "from hmc_fast.datasets import Dataset"]
        (tmp_path / f"{name}.py").write_text("\n".join([*lines, "def make():", f"    {body}"]) + "\n")
        return f"{name}:make"

    return write


def test_a_tuple_with_whole_numbers_is_classification(own):
    path = list(sys.path)
    data = load(own("return np.eye(4), np.array([0, 2, 1, 2]), [[0, 0, 0, 1.5]], [2]"))
    assert (data.task, data.num_classes) == ("classification", 3)
    assert data.x_test.tolist() == [[0, 0, 0, 1.5]]
    assert data.y_train.tolist() == [0, 2, 1, 2]
    assert sys.path == path


def test_a_tuple_with_real_numbers_is_regression_and_standardised(own):
    data = load(own("return torch.eye(4), torch.tensor([1., 3., 1., 3.]), torch.eye(4), np.array([5., 0, 0, 0])"))
    assert (data.task, data.num_classes, data.y_mean, data.y_std) == ("regression", 0, 2.0, 1.0)
    assert data.y_train.tolist() == [-1, 1, -1, 1]
    assert data.y_test.tolist() == [3, -2, -2, -2]


def test_a_data_set_is_taken_as_it_is(own):
    data = load(own("return Dataset('mine', *[torch.eye(2), torch.tensor([0, 1])] * 2, 'classification', 2)"))
    assert data.name == "mine"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 3", "returned a int"),
        ("return np.eye(2), [0, 1]", "returned a tuple"),
        ("return [[1], [1, 2]], [0, 1], np.eye(2), [0, 1]", "array"),
        ("return np.eye(2), [0, 1], np.eye(2), [0, 2]", r"label 2 in row 1 must be in 0\.\.1"),
        ("return np.eye(2), [0., np.nan], np.eye(2), [0., 1.]", "NaN or infinity in the targets of row 1"),
        ("return np.eye(2), [], np.eye(2), [0, 1]", "2 examples but labels of shape"),
        ("return np.eye(2), ['a', 'b'], np.eye(2), ['a', 'b']", "must return arrays of numbers"),
        ("return np.eye(2) * np.nan, [0, 1], np.eye(2), [0, 1]", "training set: NaN .* features of row 0"),
        ("return np.eye(2), [0, 1], np.array([[0, 1], [1, np.inf]]), [0, 1]", "test set: NaN .* row 1"),
        ("return np.eye(2), [1, -1], np.eye(2), [0, 1]", "label -1 in row 1"),
        ("return np.eye(2), [0, 0], np.eye(2), [0, 0]", "1 classes: classification needs at least 2"),
        ("return np.zeros((0, 2)), np.zeros(0), np.eye(2), [0.5, 1]", "training set is empty"),
        ("return np.zeros((0, 2)), np.zeros(0, int), np.eye(2), [0, 1]", "training set is empty"),
        ("raise SystemExit(3)", "failed: SystemExit: 3"),
        ("raise OSError('no such table')", r"failed: OSError: no such table \(own_.*, line 5\)"),
    ],
)
def test_a_mistake_in_the_users_own_data(own, body, message):
    refused(message, own(body))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing_module_x:make", "no module 'missing_module_x'"),
        (":make", "not of the form module:callable"),
        ("math:", "not of the form module:callable"),
        ("math:nothing", "has no 'nothing'"),
        ("math:pi", "is a float: name a function"),
        ("..:make", r"data '\.\.:make'"),
    ],
)
def test_a_name_that_leads_nowhere(name, message):
    refused(message, name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def make(:\n", "failed: SyntaxError: .*line 1"),
        ("import nope_x\n", r"failed: ModuleNotFoundError: No module named 'nope_x' \(fails_.*\.py, line 1\)"),
        ("import sys\nsys.exit(3)\n", "failed: SystemExit: 3"),
    ],
)
def test_a_module_that_cannot_be_imported(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"fails_{tmp_path.name}.py").write_text(text)
    refused(message, f"fails_{tmp_path.name}:make")


def test_importing_is_light():
    code = (
        "import sys, hmc_fast.datasets, hmc_fast.models, hmc_fast.command_line, hmc_fast.train\n"
        "print(sorted({'pandas', 'sklearn', 'pooch', 'matplotlib', 'safetensors'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.skipif("HMC_FAST_TEST_DATA" not in os.environ, reason="HMC_FAST_TEST_DATA names no data directory")
def test_the_real_files():
    folder = Path(os.environ["HMC_FAST_TEST_DATA"])
    data = load("fashion-mnist", folder)
    assert (len(data.x_train), len(data.x_test)) == (60_000, 10_000)
    assert abs(float(data.x_train.mean())) < 1e-3
    assert abs(float(data.x_train.std()) - 1) < 1e-3
    for name, columns, examples in (("concrete", 8, 1030), ("energy", 8, 768), ("yacht", 6, 308)):
        for split in range(20):
            uci = load(f"uci-{name}", folder, split=split)
            assert uci.x_train.shape[1] == columns
            assert len(uci.x_train) + len(uci.x_test) == examples
