"""Files of data and weights, damaged in any way: loaded, or refused in one line."""

import gzip
import struct
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from data_files import IDX, pictures, write_idx
from fuzzing import accepts, cells, edited, edits, examples, places, with_cells
from hmc_fast.datasets import load
from hmc_fast.datasets.csv import read_csv
from hmc_fast.datasets.idx import MOST_BYTES, read_idx
from hmc_fast.datasets.uci import load_uci
from hmc_fast.errors import UserError
from hmc_fast.models.training import load_weights, save_weights

ROWS = np.random.default_rng(0).normal(size=(12, 3)).round(3)
UCI = "\n".join(" ".join(map(str, row)) for row in ROWS) + "\n"
CSV = "label,pixel1,pixel2,pixel3,pixel4\n" + "".join(f"{i % 3},{i},{2 * i},0,255\n" for i in range(9))
SIZES = st.integers(0, 5) | st.sampled_from([28, 2**16, 2**31, 2**32 - 1])


def idx(sizes, raw):
    return bytes((0, 0, 8, len(sizes))) + struct.pack(f">{len(sizes)}I", *sizes) + raw


def test_idx(number, tmp_path):
    path = tmp_path / "images.gz"

    @examples(10 * number)
    @given(st.lists(SIZES, min_size=3, max_size=3), st.binary(max_size=64), edits, edits)
    @example([2**32 - 1] * 3, b"", [], [])
    @example([2, 2, 2], b"", [], [])
    @example([0, 2**32 - 1, 2**32 - 1], b"", [], [])
    def holds(sizes, raw, inner, outer):
        path.write_bytes(edited(gzip.compress(edited(idx(sizes, raw), inner), 1), outer))
        found = accepts("idx", read_idx, path, 3)
        assert found is None or found.nbytes <= MOST_BYTES

    holds()


def test_a_bomb_is_not_unpacked(tmp_path):
    """256 MiB of zeros behind a header that declares eight bytes, and behind one that declares them all."""
    for sizes in ([2, 2, 2], [2**8, 2**10, 2**10]):
        path = tmp_path / "bomb.gz"
        with gzip.open(path, "wb", 1) as file:
            file.write(idx(sizes, b""))
            for _ in range(16):
                file.write(bytes(2**24))
        tracemalloc.start()
        assert accepts("idx", read_idx, path, 3) is None
        assert tracemalloc.get_traced_memory()[1] < 2**24
        tracemalloc.stop()


@pytest.fixture
def fashion(tmp_path):
    for seed in range(2):
        for name, array in zip(IDX[2 * seed : 2 * seed + 2], pictures(12, seed), strict=True):
            write_idx(tmp_path / name, array)
    return tmp_path


def test_fashion(number, fashion):
    contents = {name: gzip.decompress((fashion / name).read_bytes()) for name in IDX}

    @examples(number)
    @given(st.sampled_from(IDX), edits, edits, st.booleans())
    def holds(name, inner, outer, gone):
        path = fashion / name
        path.write_bytes(edited(gzip.compress(edited(contents[name], inner), 1), outer))
        if gone:
            path.unlink()
        accepts("fashion folder", load, "fashion-mnist", fashion, download=False)
        path.write_bytes(gzip.compress(contents[name]))

    holds()


def test_csv(number, tmp_path):
    path = tmp_path / "images.csv"
    cache = tmp_path / "images.csv.cache.npz"

    @examples(5 * number)
    @given(cells, edits, edits)
    @example([(0.9, 0.0, "9" * 400)], [], [])
    def holds(changed, damage, damaged_cache):
        path.write_bytes(edited(with_cells(CSV, changed).encode(), damage))
        first = accepts("csv", read_csv, path, 2)
        if first is None:
            return
        cache.write_bytes(edited(cache.read_bytes(), damaged_cache))
        images, labels = accepts("csv", read_csv, path, 2)
        np.testing.assert_array_equal(images, first[0])
        np.testing.assert_array_equal(labels, first[1])

    holds()


def test_uci(number, tmp_path):
    @examples(10 * number)
    @given(cells, edits, st.binary(max_size=20) | st.just(b"0 1\n2 3\n"), edits, st.integers(-1, 3) | st.integers())
    @example([], [], b"\xff\xfe", [], 0)
    @example([], [], b"9" * 400, [], 0)
    @example([(0.1, 0.1, "1e308"), (0.3, 0.1, "-1e308")], [], b"0", [], 0)
    def holds(changed, damage, splits, damaged_splits, split):
        (tmp_path / "toy.txt").write_bytes(edited(with_cells(UCI, changed, " ").encode(), damage))
        (tmp_path / "toy.splits.txt").write_bytes(edited(splits, damaged_splits))
        accepts("uci", load_uci, "toy", tmp_path, split)

    holds()


def test_weights(number, tmp_path):
    path, model = tmp_path / "weights.safetensors", nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    save_weights(path, model, {"preset": "mine"})
    raw, dtypes = path.read_bytes(), [b"I32", b"U32", b"F64", b"C64"]

    @examples(10 * number)
    @given(edits, st.sampled_from(dtypes), st.booleans(), places)
    def holds(damage, dtype, retyped, place):
        changed = raw
        if retyped:  # same length, another type
            at = raw.find(b'"F32"', int(place * 200))
            changed = raw[:at] + b'"' + dtype + b'"' + raw[at + 5 :] if at > 0 else raw
        path.write_bytes(edited(changed, damage))
        accepts("weights", load_weights, path, model)
        assert all(torch.isfinite(weight).all() for weight in model.parameters())

    holds()


def test_weights_that_are_whole_numbers_are_refused(tmp_path):
    model = nn.Linear(2, 3)
    save_file({name: weight.int() for name, weight in model.state_dict().items()}, tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match=r"does not fit the model: 'weight' is torch\.int32 there"):
        load_weights(tmp_path / "weights.safetensors", model)
