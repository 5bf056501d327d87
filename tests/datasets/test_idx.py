"""Fashion-MNIST as IDX archives: the same as CSV, downloads, and every mistake in a file."""

import gzip

import numpy as np
import pooch
import pytest
import torch

from data_files import CSV, IDX, pictures, refused, write_idx
from hmc_fast.datasets import fashion, load


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
    refused(f"{IDX[1]} is not an IDX file .* starts with 00000803 instead of 00000801", "fashion-mnist", idx_dir)


@pytest.mark.parametrize("change", [b"", b"too long"])
def test_truncated_contents(idx_dir, change):
    path = idx_dir / IDX[0]
    raw = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(raw + change if change else raw[:-5]))
    refused(f"{IDX[0]} should contain", "fashion-mnist", idx_dir)


def test_a_header_cut_short(idx_dir):
    path = idx_dir / IDX[0]
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:10]))
    refused(f"{IDX[0]} ends after 10 bytes, within its header", "fashion-mnist", idx_dir)


def test_no_images_at_all(idx_dir):
    write_idx(idx_dir / IDX[0], np.zeros((0, 28, 28)))
    write_idx(idx_dir / IDX[1], np.zeros(0))
    refused("training set is empty", "fashion-mnist", idx_dir)


def test_fewer_labels_than_images(idx_dir):
    write_idx(idx_dir / IDX[1], np.zeros(11))
    refused("12 train images but 11 train labels", "fashion-mnist", idx_dir)


def test_images_of_another_size(idx_dir):
    write_idx(idx_dir / IDX[2], np.zeros((12, 8, 8)))
    refused(r"t10k images of .*8.*8.* pixels, not", "fashion-mnist", idx_dir)


def test_a_label_out_of_range(idx_dir):
    write_idx(idx_dir / IDX[3], np.arange(12))
    refused(r"test set: label 10 in row 10 must be in 0\.\.9", "fashion-mnist", idx_dir)


def test_three_of_four_files(idx_dir):
    (idx_dir / IDX[1]).unlink()
    refused(f"but not {IDX[1]}: add the missing file", "fashion-mnist", idx_dir)


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
        output_file.write(source.read_bytes())

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


@pytest.mark.parametrize("damage", ["gone", "other contents", "not gzip", "too long", "a bomb"])
def test_the_second_place_is_asked_where_the_first_fails(server, tmp_path, damage, monkeypatch):
    """https first; more than a file can have is neither stored nor unpacked."""
    monkeypatch.setattr(fashion, "MOST_BYTES", 20_000)
    real, asked = pooch.HTTPDownloader.__call__, []

    def fetch(self, url, output_file, pooch, check_only=False):
        asked.append(url)
        if not url.startswith("https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/"):
            return real(self, url, output_file, pooch)
        if damage == "gone":
            raise OSError("no route to host")
        bomb = gzip.compress(bytes(2**24)) if damage == "a bomb" else None
        other = {"too long": bytes(20_001), "not gzip": b"<html>", "other contents": gzip.compress(b"1")}
        return output_file.write(bomb or other[damage])

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", fetch)
    assert len(load("fashion-mnist", tmp_path / "new").y_train) == 12
    assert [url.split(":")[0] for url in asked] == ["https", "http"] * 4


def test_a_download_that_is_too_long_is_refused_by_all(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fashion, "MOST_BYTES", 100)
    refused("is longer than 100 bytes", "fashion-mnist", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_header_of_enormous_sizes(idx_dir):
    header = bytes((0, 0, 8, 3)) + b"\xff" * 12
    (idx_dir / IDX[0]).write_bytes(gzip.compress(header))
    refused("declares 4294967295 x 4294967295 x 4294967295 bytes", "fashion-mnist", idx_dir)
