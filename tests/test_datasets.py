"""Data sets: what they promise, the file formats, and one test for every mistake in a file."""

import gzip
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hmc_fast.datasets import Dataset, base, fashion, load
from hmc_fast.errors import UserError

CSV = ("fashion-mnist_train.csv", "fashion-mnist_test.csv")
IDX = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


def pictures(count, seed=0):
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (count, 28, 28)), np.arange(count) % 10


def write_csv(path, images, labels):
    header = ["label", *(f"pixel{i}" for i in range(1, 785))]
    rows = [[label, *image.ravel()] for image, label in zip(images, labels, strict=True)]
    path.write_text("\n".join(",".join(map(str, row)) for row in [header, *rows]) + "\n")


def write_idx(path, array):
    head = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes()))


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


def refused(message, *arguments, **options):
    """`load` raises a UserError of one line that matches."""
    with pytest.raises(UserError, match=message) as caught:
        load(*arguments, **options)
    assert "\n" not in str(caught.value)


# --- digits ---


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


# --- Dataset ---


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
            "toy, training set: NaN or an infinity in the features of row 0",
        ),
        ({"x_test": torch.tensor([[0.0, 0.0]] * 5 + [[0.0, float("inf")]])}, "toy, test set: .* features of row 5"),
        ({"y_train": torch.tensor([0, 1, 3] * 4)}, r"toy, training set: label 3 in row 2 must be in 0\.\.2"),
        ({"y_test": torch.tensor([0, -1, 2] * 2)}, r"toy, test set: label -1 in row 1 must be in 0\.\.2"),
        ({"y_train": torch.ones(12)}, "labels must be whole numbers"),
        ({"y_train": torch.zeros(11, dtype=torch.int64)}, "12 examples but labels of shape"),
        ({"x_train": torch.zeros(0, 2), "y_train": torch.zeros(0, dtype=torch.int64)}, "it is empty"),
        ({"x_test": torch.zeros(6, 3)}, r"training examples have shape \(2,\), test examples \(3,\)"),
        ({"x_train": torch.zeros(12, 2, dtype=torch.float64)}, "x must be float32"),
        ({"x_train": np.zeros((12, 2))}, "must be tensors, not ndarray"),
        ({"class_names": ("a", "b")}, "2 class names for 3 classes"),
        ({"num_classes": 1}, "classification needs at least 2"),
        ({"task": "ranking"}, "task 'ranking' is unknown"),
        ({"task": "regression"}, "regression targets must be floats"),
        (
            {"task": "regression", "y_train": torch.full((12,), float("nan")), "y_test": torch.zeros(6)},
            "NaN or an infinity in the targets of row 0",
        ),
    ],
)
def test_a_bad_data_set(changes, message):
    with pytest.raises(UserError, match=message):
        toy(**changes)


# --- Fashion-MNIST: CSV ---


def test_csv(csv_dir):
    data = load("fashion-mnist", csv_dir)
    images, labels = pictures(12, 0)
    expected = ((images / 255 - 0.2860) / 0.3530).astype(np.float32)
    assert data.x_train.shape == (12, 1, 28, 28)
    np.testing.assert_allclose(data.x_train[:, 0].numpy(), expected, rtol=1e-5, atol=1e-6)
    assert data.y_train.tolist() == labels.tolist()
    assert data.y_train.dtype == torch.int64
    assert data.class_names[9] == "Ankle boot"
    assert not torch.equal(data.x_train, data.x_test)


def test_csv_is_cached_until_it_changes(csv_dir, monkeypatch):
    first = load("fashion-mnist", csv_dir)
    with monkeypatch.context() as patch:
        patch.setattr("pandas.read_csv", lambda *_, **__: pytest.fail("parsed again"))
        assert torch.equal(load("fashion-mnist", csv_dir).x_train, first.x_train)
    write_csv(csv_dir / CSV[0], *pictures(15, 7))
    assert len(load("fashion-mnist", csv_dir).x_train) == 15
    assert not list(csv_dir.glob("*.tmp"))


def test_a_damaged_cache_is_made_anew(csv_dir):
    first = load("fashion-mnist", csv_dir)
    caches = list(csv_dir.glob("*.npz"))
    assert len(caches) == 2
    for cache, content in zip(caches, (b"", b"PK\x03\x04 not a zip file"), strict=True):
        cache.write_bytes(content)
    assert torch.equal(load("fashion-mnist", csv_dir).x_train, first.x_train)


@pytest.mark.parametrize("damage", ["cut", "flipped", "of another kind"])
def test_a_cache_damaged_within_is_made_anew(csv_dir, damage):
    first = load("fashion-mnist", csv_dir)
    cache = csv_dir / f"{CSV[0]}.cache.npz"
    raw = bytearray(cache.read_bytes())
    if damage == "flipped":
        raw[len(raw) // 2] ^= 0xFF
    cache.write_bytes(raw[: len(raw) // 2] if damage == "cut" else raw)
    if damage == "of another kind":
        np.savez(cache, other=np.zeros(3))
    assert torch.equal(load("fashion-mnist", csv_dir).x_train, first.x_train)
    assert len(cache.read_bytes()) == len(raw)


def test_a_full_disk_leaves_no_half_a_cache(csv_dir, monkeypatch):
    def full(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    assert len(load("fashion-mnist", csv_dir).x_train) == 12
    assert sorted(path.name for path in csv_dir.iterdir()) == sorted(CSV)


def test_a_directory_that_cannot_be_written_is_no_obstacle(csv_dir, monkeypatch):
    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(np, "savez", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    assert len(load("fashion-mnist", csv_dir).x_train) == 12


def edit(path, line, column, value):
    """Replaces one cell; the header is line 1, the label is column 0."""
    lines = path.read_text().splitlines()
    cells = lines[line - 1].split(",")
    cells[column] = value
    lines[line - 1] = ",".join(cells)
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("line", "column", "value", "message"),
    [
        (3, 0, "boot", "line 3 has label 'boot': it must be a whole number"),
        (4, 7, "", "line 4 has pixel7 '': it must be a whole number"),
        (4, 7, "nan", "line 4 has pixel7 'nan'"),
        (4, 7, "inf", "line 4 has pixel7 'inf'"),
        (4, 7, "1.5", "line 4 has pixel7 '1.5'"),
        (4, 7, "9" * 30, r"fashion-mnist_train\.csv"),
        (4, 0, "1.5", "line 4 has label '1.5'"),
        (5, 2, "256", r"line 5 has pixel2 = 256: pixels must lie in 0\.\.255"),
        (5, 2, "-1", r"line 5 has pixel2 = -1: pixels must lie in 0\.\.255"),
        (6, 0, "10", r"label 10 in row 4 must be in 0\.\.9"),
        (6, 0, "-3", r"label -3 in row 4 must be in 0\.\.9"),
        (7, 3, "1,2", "line 7 has 786 columns instead of 785"),
        (1, 0, "class", "header must be label,pixel1"),
        (1, 3, "a,b", "line 1 has 786 columns"),
    ],
)
def test_a_bad_cell_of_a_csv(csv_dir, line, column, value, message):
    edit(csv_dir / CSV[0], line, column, value)
    refused(message, "fashion-mnist", csv_dir)


@pytest.mark.parametrize(("value", "message"), [("999", "line 6 has pixel2 = 999"), ("x", "line 6 has pixel2 'x'")])
def test_blank_lines_count_but_do_no_harm(csv_dir, value, message):
    path = csv_dir / CSV[0]
    path.write_text(path.read_text().replace("\n", "\r\n\r\n", 1) + "\n\n")
    assert len(load("fashion-mnist", csv_dir).x_train) == 12
    edit(path, 6, 2, value)
    refused(message, "fashion-mnist", csv_dir)


def test_something_else_than_text(csv_dir):
    (csv_dir / CSV[0]).write_bytes(bytes(range(256)) * 2000)
    with pytest.raises(UserError, match="header must be") as caught:
        load("fashion-mnist", csv_dir)
    assert len(str(caught.value)) < 1000


def test_every_line_of_a_csv_is_too_long(csv_dir):
    """pandas would take the first column for row names, or drop the last."""
    header, *lines = (csv_dir / CSV[0]).read_text().splitlines()
    (csv_dir / CSV[0]).write_text("\n".join([header, *(f"{line},0" for line in lines)]) + "\n")
    refused("line 2 has 786 columns instead of 785", "fashion-mnist", csv_dir)


def test_a_truncated_csv(csv_dir):
    text = (csv_dir / CSV[1]).read_text()
    (csv_dir / CSV[1]).write_text(text[:-200])
    refused(r"fashion-mnist_test\.csv line 13 has \d+ columns instead of 785", "fashion-mnist", csv_dir)


def test_an_empty_csv(csv_dir):
    (csv_dir / CSV[0]).write_text("")
    refused(r"fashion-mnist_train\.csv is empty", "fashion-mnist", csv_dir)


def test_a_csv_with_only_a_header(csv_dir):
    (csv_dir / CSV[0]).write_text((csv_dir / CSV[0]).read_text().splitlines()[0] + "\n")
    refused("a header and no images", "fashion-mnist", csv_dir)


@pytest.mark.parametrize("missing", CSV)
def test_half_a_csv_pair(csv_dir, missing):
    (csv_dir / missing).unlink()
    refused(f"but not {missing}: put it there too", "fashion-mnist", csv_dir)


# --- Fashion-MNIST: IDX ---


def test_idx_is_the_same_as_csv(csv_dir):
    from_csv = load("fashion-mnist", csv_dir)
    (csv_dir / "fashion-mnist").mkdir()
    for seed in range(2):
        for name, array in zip(IDX[2 * seed : 2 * seed + 2], pictures(12, seed), strict=True):
            write_idx(csv_dir / "fashion-mnist" / name, array)
        (csv_dir / CSV[seed]).unlink()
    from_idx = load("fashion-mnist", csv_dir)
    for field in ("x_train", "y_train", "x_test", "y_test"):
        assert torch.equal(getattr(from_idx, field), getattr(from_csv, field))


def test_not_a_gzip_file(idx_dir):
    (idx_dir / IDX[0]).write_bytes(b"\0\0\x08\x03")
    refused(f"{IDX[0]} is not a complete gzip file", "fashion-mnist", idx_dir)


def test_a_truncated_archive(idx_dir):
    path = idx_dir / IDX[0]
    path.write_bytes(path.read_bytes()[:-100])
    refused(f"{IDX[0]} is not a complete gzip file", "fashion-mnist", idx_dir)


def test_an_empty_file(idx_dir):
    (idx_dir / IDX[3]).write_bytes(b"")
    refused(IDX[3], "fashion-mnist", idx_dir)


def test_wrong_magic_number(idx_dir):
    (idx_dir / IDX[1]).write_bytes((idx_dir / IDX[0]).read_bytes())
    refused(f"{IDX[1]} begins with 00000803, .* with 00000801", "fashion-mnist", idx_dir)


@pytest.mark.parametrize("change", [b"", b"too long"])
def test_truncated_contents(idx_dir, change):
    path = idx_dir / IDX[0]
    raw = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(raw + change if change else raw[:-5]))
    refused(f"{IDX[0]} announces", "fashion-mnist", idx_dir)


def test_a_header_cut_short(idx_dir):
    path = idx_dir / IDX[0]
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:10]))
    refused(f"{IDX[0]} ends after 10 bytes, within its header", "fashion-mnist", idx_dir)


def test_no_images_at_all(idx_dir):
    write_idx(idx_dir / IDX[0], np.zeros((0, 28, 28)))
    write_idx(idx_dir / IDX[1], np.zeros(0))
    refused("training set: it is empty", "fashion-mnist", idx_dir)


def test_fewer_labels_than_images(idx_dir):
    write_idx(idx_dir / IDX[1], np.zeros(11))
    refused("12 train images and 11 train labels", "fashion-mnist", idx_dir)


def test_images_of_another_size(idx_dir):
    write_idx(idx_dir / IDX[2], np.zeros((12, 8, 8)))
    refused(r"t10k images of .*8.*8.* pixels, not", "fashion-mnist", idx_dir)


def test_a_label_out_of_range(idx_dir):
    write_idx(idx_dir / IDX[3], np.arange(12))
    refused(r"test set: label 10 in row 10 must be in 0\.\.9", "fashion-mnist", idx_dir)


def test_three_of_four_files(idx_dir):
    (idx_dir / IDX[1]).unlink()
    refused(f"but not {IDX[1]}: put it there too", "fashion-mnist", idx_dir)


# --- Fashion-MNIST: download ---


@pytest.fixture
def server(idx_dir, monkeypatch):
    """A stand-in for the network: the files in a folder; returns that folder, whose files may be changed."""
    import hashlib

    folder = idx_dir / "server"
    folder.mkdir()
    for name in IDX:
        (idx_dir / name).rename(folder / name)
    digests = {n: hashlib.md5(gzip.decompress((folder / n).read_bytes())).hexdigest() for n in IDX}
    monkeypatch.setattr(fashion, "_IDX", digests)

    def fetch(self, url, output_file, pooch, check_only=False):
        source = folder / url.rsplit("/", 1)[1]
        if not source.exists():
            raise OSError("no route to host")
        Path(output_file).write_bytes(source.read_bytes())

    monkeypatch.setattr("pooch.HTTPDownloader.__call__", fetch)
    return folder


def test_a_download_stays(server, tmp_path, capsys):
    data_dir = tmp_path / "new" / "data"
    data = load("fashion-mnist", data_dir)
    assert data.x_train.shape == (12, 1, 28, 28)
    assert sorted(path.name for path in data_dir.iterdir()) == sorted(IDX)
    assert str(data_dir) in capsys.readouterr().err
    for path in server.iterdir():
        path.unlink()
    load("fashion-mnist", data_dir)  # without the network


@pytest.mark.parametrize("damage", ["gone", "other contents", "not gzip", "cut off"])
@pytest.mark.parametrize("name", [IDX[0], IDX[3]])
def test_a_failed_download_says_what_to_put_where_and_leaves_nothing(server, tmp_path, damage, name):
    path = server / name
    if damage == "gone":
        path.unlink()
    elif damage == "other contents":
        write_idx(path, np.ones(12))
    elif damage == "not gzip":
        path.write_text("<html>log in to the hotel's network</html>")
    else:
        path.write_bytes(path.read_bytes()[:-10])
    for data_dir in (tmp_path / "new" / "data", tmp_path / "old"):
        if data_dir.name == "old":
            data_dir.mkdir()
        refused(r"put fashion-mnist_train\.csv and fashion-mnist_test\.csv there", "fashion-mnist", data_dir)
    assert not (tmp_path / "new").exists()
    assert not list((tmp_path / "old").iterdir())


def test_without_a_network_nothing_is_announced(server, tmp_path, capsys):
    for path in server.iterdir():
        path.unlink()
    refused("no route to host", "fashion-mnist", tmp_path / "new")
    (tmp_path / "file").write_text("")
    refused("cannot be downloaded", "fashion-mnist", tmp_path / "file" / "data")
    assert capsys.readouterr().err == ""


# --- UCI ---


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
        ("", r"made\.txt holds 0 rows"),
        ("1 2 3\n", r"made\.txt holds 1 row"),
        ("1\n2\n3\n", "at least 2 rows of 2 numbers"),
        ("1 2 3\n4 5\n6 7 8\n", r"made\.txt .*(ragged|line 2)"),
        ("1 2 3\n4 five 6\n", r"made\.txt .*five"),
        ("1 2 3\n4 nan 6\n7 8 9\n", r"made\.txt (row 1|line 2) holds NaN or an infinity"),
        ("1 2 3\n4 5 6\n7 8 inf\n", r"made\.txt (row 2|line 3) holds NaN or an infinity"),
    ],
)
def test_a_bad_uci_table(tmp_path, text, message):
    (tmp_path / "made.txt").write_text(text)
    refused(message, "uci-made", tmp_path)


@pytest.mark.parametrize(
    ("splits", "split", "message"),
    [
        ("0 1\n", 1, r"split 1 does not exist: .*made\.splits\.txt holds 1"),
        ("0 1\n", -1, "split -1 must be 0 or more"),
        ("0 20\n", 0, r"must name test rows in 0\.\.19"),
        ("-1 2\n", 0, r"must name test rows in 0\.\.19"),
        ("3 3\n", 0, "each once"),
        (" ".join(map(str, range(20))) + "\n", 0, "not all"),
        ("1 two\n", 0, "something other than row numbers"),
        ("9" * 30 + "\n", 0, "something other than row numbers"),
    ],
)
def test_a_bad_split(tmp_path, table, splits, split, message):
    write_table(tmp_path / "made.txt", table)
    (tmp_path / "made.splits.txt").write_text(splits)
    refused(message, "uci-made", tmp_path, split=split)


def test_a_missing_uci_set(tmp_path):
    refused(r"uci-made needs .*made\.txt: one example per line", "uci-made", tmp_path)


# --- names and the user's own data ---


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
        ("return np.eye(2), [0., np.nan], np.eye(2), [0., 1.]", "NaN or an infinity in the targets of row 1"),
        ("return np.eye(2), [], np.eye(2), [0, 1]", "2 examples but labels of shape"),
        ("return np.eye(2), ['a', 'b'], np.eye(2), ['a', 'b']", "not an array of numbers"),
        ("return np.eye(2) * np.nan, [0, 1], np.eye(2), [0, 1]", "training set: NaN .* features of row 0"),
        ("return np.eye(2), [0, 1], np.array([[0, 1], [1, np.inf]]), [0, 1]", "test set: NaN .* row 1"),
        ("return np.eye(2), [1, -1], np.eye(2), [0, 1]", "label -1 in row 1"),
        ("return np.eye(2), [0, 0], np.eye(2), [0, 0]", "1 classes: classification needs at least 2"),
        ("return np.zeros((0, 2)), np.zeros(0), np.eye(2), [0.5, 1]", "training set: it is empty"),
        ("return np.zeros((0, 2)), np.zeros(0, int), np.eye(2), [0, 1]", "training set: it is empty"),
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


# --- imports and real files ---


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
