"""Fashion-MNIST as CSV: its cache, and one test for every mistake in a file."""

from pathlib import Path

import numpy as np
import pytest
import torch

from data_files import CSV, pictures, refused, write_csv
from hmc_fast.datasets import load
from hmc_fast.errors import UserError


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
    assert not list(csv_dir.glob("*.tmp*"))


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
        file.write_bytes(b"half")
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
        (3, 0, "boot", "line 3 has label 'boot': it must be an integer"),
        (4, 7, "", "line 4 has pixel7 '': it must be an integer"),
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
    refused(f"but not {missing}: add the missing file", "fashion-mnist", csv_dir)
