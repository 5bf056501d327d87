"""Files are written whole or not at all."""

import json
import os

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from hmc_fast.atomic_files import (
    NotWritten,
    make_folder,
    open_file,
    remove_leftovers,
    write_at,
    write_json,
    written_atomically,
)


def write_half(path, error):
    with written_atomically(path) as temporary:
        temporary.write_text("half")
        raise error


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("before", [None, "old"])
def test_an_exception_in_the_middle_leaves_what_was_there(tmp_path, before, error):
    path = tmp_path / "file.txt"
    if before is not None:
        path.write_text(before)
    with pytest.raises(error):
        write_half(path, error)
    assert [p.read_text() for p in tmp_path.iterdir()] == ([] if before is None else ["old"])


def test_the_file_appears_when_it_is_complete_under_its_own_name(tmp_path):
    path = tmp_path / "values.npy"
    path.write_text("old")
    with written_atomically(path) as temporary:
        np.save(temporary, np.arange(3))
        assert path.read_text() == "old"
    assert np.load(path).tolist() == [0, 1, 2]
    assert list(tmp_path.iterdir()) == [path]


def test_json_has_no_nan_and_a_content_that_cannot_be_written_changes_nothing(tmp_path):
    path = tmp_path / "metrics.json"
    write_json(path, {"a": float("nan"), "b": (1, float("inf")), "c": {"d": tmp_path}})
    assert json.loads(path.read_text()) == {"a": None, "b": [1, None], "c": {"d": str(tmp_path)}}
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text())["b"] == [1, None]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_are_those_of_the_umask_even_if_a_library_makes_its_own_file(mask, mode, tmp_path):
    before = os.umask(mask)
    try:
        write_json(tmp_path / "a.json", {})
        with written_atomically(tmp_path / "b.safetensors") as temporary:
            save_file({"x": torch.zeros(3)}, temporary)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {mode}


def test_a_symbolic_link_is_replaced_and_none_is_followed(tmp_path):
    victim, path = tmp_path / "victim", tmp_path / "file.json"
    victim.write_text("mine")
    path.symlink_to(victim)
    write_json(path, {})
    assert victim.read_text() == "mine"
    assert not path.is_symlink()
    (tmp_path / "rows.npy").symlink_to(victim)
    with pytest.raises(NotWritten, match=r"rows.npy cannot be written \(Too many levels of symbolic links\)"):
        open_file(tmp_path / "rows.npy")


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "file.txt"
    with written_atomically(path) as first, written_atomically(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first", "which ended last"
    assert list(tmp_path.iterdir()) == [path]


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    for name in ("file.1-0123abcd.tmp.txt", "file.txt", "file.notes.txt", "other.1-0123abcd.tmp.txt"):
        (tmp_path / name).write_text("")
    remove_leftovers(path)
    assert {p.name for p in tmp_path.iterdir()} == {"file.txt", "file.notes.txt", "other.1-0123abcd.tmp.txt"}


def test_folders_are_made_and_a_file_in_their_place_is_named(tmp_path):
    make_folder(tmp_path / "a" / "b" / "c")
    make_folder(tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(NotWritten, match="Not a directory"):
        make_folder(tmp_path / "file" / "below")


def test_a_write_that_takes_part_of_the_data_goes_on(tmp_path, monkeypatch):
    path = tmp_path / "rows"
    descriptor = open_file(path)
    with monkeypatch.context() as patch:
        real = os.pwrite
        patch.setattr(os, "pwrite", lambda file, data, offset: real(file, data[:3], offset))
        write_at(path, descriptor, memoryview(b"0123456789"), 2)
    os.close(descriptor)
    assert path.read_bytes() == b"\0\x000123456789"
