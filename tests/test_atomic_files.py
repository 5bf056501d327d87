"""Files are written whole or not at all."""

import json

import numpy as np
import pytest

from hmc_fast.atomic_files import write_json, written_atomically


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
