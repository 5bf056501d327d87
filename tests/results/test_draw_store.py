"""The ring of draws: any capacity, continued files, rounding counted."""

import numpy as np
import pytest
import torch

import hmc_fast
from hmc_fast.results.draw_store import DrawStore, parse_capacity
from hmc_fast.results.row_files import RowFile, verified


@pytest.mark.parametrize("capacity", [1, 3, 4, 10, 99, "48B", None])
@pytest.mark.parametrize("on_disk", [False, True])
def test_any_capacity_stores_the_same_draws(capacity, on_disk, tmp_path):
    draws = torch.randn(10, 2, 4)
    path = tmp_path / "draws.npy"
    rows = RowFile(path, (10, 2, 4), np.float16) if on_disk else None
    store = DrawStore(10, 2, 4, capacity=capacity, rows=rows)
    for draw in draws:
        store.push(draw)
        assert store.ring.shape[0] <= 10
    assert np.array_equal(store.draws(), draws.half().numpy())
    if on_disk:
        assert np.array_equal(np.load(path), draws.half().numpy())


@pytest.mark.parametrize("capacity", [1, 3, 4, 10])
@pytest.mark.parametrize("numbers", [(10,), (2, 5, 3), (1, 1, 8), (4, 6)])
def test_several_draws_at_once_are_those_one_by_one(capacity, numbers):
    draws, store = torch.randn(10, 2, 4), DrawStore(10, 2, 4, capacity=capacity)
    draws[6] = 1e9
    for index, part in enumerate(draws.split(numbers)):
        store.push(part)
        if not index:
            store.flush()  # as for a checkpoint: the ring goes on in its middle
    assert np.array_equal(store.draws(), draws.clamp(-65504, 65504).half().numpy())
    assert store.counts[0] == 8


def test_a_file_is_continued(tmp_path):
    draws = torch.randn(6, 1, 3)
    path, shape = tmp_path / "d.npy", (6, 1, 3)
    first = DrawStore(*shape, capacity=4, rows=RowFile(path, shape, np.float16))
    for draw in draws[:3]:
        first.push(draw)
    assert np.array_equal(first.draws(), draws[:3].half().numpy()), "what was pushed, and no more"
    hasher = verified(path, first.rows.sync())
    rows = RowFile(path, shape, np.float16, count=3, hasher=hasher)
    second = DrawStore(*shape, capacity=2, rows=rows)
    for draw in draws[3:]:
        second.push(draw)
    assert np.array_equal(second.draws(), draws.half().numpy())
    verified(path, second.rows.sync())


def test_rounding_is_counted_and_clamped():
    store = DrawStore(2, 1, 5, capacity=1)
    store.push(torch.tensor([[1e5, -7e4, 1e-6, 0.0, 1.0]]))
    store.push(torch.tensor([[1.0, 2.0, -1e-5, 65504.0, 6.2e-5]]))
    assert store.counts.tolist() == [2, 2]
    assert store.draws()[0, 0, :2].tolist() == [65504.0, -65504.0]


@pytest.mark.parametrize(
    ("capacity", "draws"),
    [(None, 7), (3, 3), ("3", 3), ("1KB", 7), (" 250B ", 2), ("0.49 KiB", 5), ("100B", 1), ("1GiB", 7)],
)
def test_capacity_in_draws_or_bytes(capacity, draws):
    assert parse_capacity(capacity, 100, 7) == draws


@pytest.mark.parametrize("capacity", ["", "x", "-1", "0", 0, "1.5", "10B", "5 parsecs"])
def test_bad_capacity(capacity):
    with pytest.raises(hmc_fast.UserError, match="capacity"):
        parse_capacity(capacity, 100, 7)
