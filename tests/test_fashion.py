"""`python -m benchmarks.fashion`: every method makes a row, none twice, and test images are left alone to tune."""

import csv

import pytest

pytest.importorskip("benchmarks.fashion", reason="the benchmarks are not part of the installed package")

from benchmarks.fashion import COLUMNS, METHODS, Task, main, validation
from data_files import IDX, pictures, write_idx
from hmc_fast.datasets import load


@pytest.fixture
def folder(tmp_path):
    for seed, number in enumerate((300, 20)):
        for name, array in zip(IDX[2 * seed : 2 * seed + 2], pictures(number, seed), strict=True):
            write_idx(tmp_path / name, array)
    return tmp_path


def read(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_every_method_makes_a_row_and_none_twice(folder, capsys):
    flags = ["--data-dir", str(folder), "--out", str(folder / "out"), "--examples", "9000", "--validate"]
    assert main([*flags, "--seeds", "0", "--methods", "sgd"]) == 0
    first = read(folder / "out" / "fashion.csv")
    assert main([*flags, "--seeds", "0"]) == 0
    rows = read(folder / "out" / "fashion.csv")
    assert list(rows[0]) == COLUMNS
    assert [row["method"] for row in rows] == list(METHODS)
    assert rows[0] == first[0]
    assert {row["images"] for row in rows} == {"validation"}
    assert all(0 <= float(row["accuracy"]) <= 1 and 0 < float(row["nll"]) < 10 for row in rows)
    text = (folder / "out" / "fashion.md").read_text()
    assert "| smsubu | validation | 1 |" in text
    assert text in capsys.readouterr().out


def test_validation_images_are_training_images(folder):
    dataset = load("fashion-mnist", folder)
    held_out = validation(dataset)
    assert (len(held_out.x_train), len(held_out.x_test)) == (270, 30)
    for image in held_out.x_test[:3]:
        assert (dataset.x_train == image).flatten(1).all(1).any()
        assert not (held_out.x_train == image).flatten(1).all(1).any()


def test_members_share_the_passes(folder):
    task = Task(load("fashion-mnist", folder), 0, 6000)
    assert task.passes == 20
    assert (task.epochs(1), task.epochs(4), task.epochs(50)) == (20, 5, 1)


def test_a_mistake_is_one_line(folder, capsys):
    assert main(["--data-dir", str(folder), "--methods", "nuts"]) == 2
    error = capsys.readouterr().err
    assert "method 'nuts' is unknown: use sgd, ensemble" in error
    assert error.count("\n") == 1
