"""`python -m benchmarks.uci`: the table it writes, and what it refuses."""

import csv

import numpy as np
import pytest

pytest.importorskip("benchmarks.uci", reason="the benchmarks are not part of the installed package")

from benchmarks.uci import COLUMNS, main


@pytest.mark.slow
def test_the_command_writes_the_table(tmp_path, capsys):
    rows = np.random.default_rng(0).normal(size=(40, 7))
    np.savetxt(tmp_path / "yacht.txt", rows)
    flags = ["--data-dir", str(tmp_path), "--out", str(tmp_path / "out"), "--sets", "yacht", "--splits", "0", "1"]
    flags += ["--chains", "2", "--burn-in", "20", "20", "--draws", "6", "--num-leapfrog", "3", "--workers", "1"]
    flags += ["--no-compile", "--training", "5"]
    assert main(flags) == 0
    with (tmp_path / "out" / "uci.csv").open() as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == COLUMNS
    assert [(row["data set"], row["split"]) for row in table] == [("yacht", "0"), ("yacht", "1")]
    # pure noise of unit variance: nothing predicts it better than its own spread by much
    assert all(0.3 < float(row["rmse"]) < 4 and float(row["log_likelihood"]) < 0 for row in table)
    assert all(int(row["gradients"]) >= 2 * 6 and int(row["burn_in_gradients"]) >= 2 * 40 for row in table)
    assert all(float(row["log_likelihood_mixture"]) < 0 for row in table)
    text = (tmp_path / "out" / "uci.md").read_text()
    assert "| yacht | 2 |" in text
    assert "missed" in text
    assert text in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sets", "boston"], "data set 'boston' is unknown: use concrete, yacht, energy"),
        (["--sets", "yacht"], "uci-yacht needs"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, capsys, flags, message):
    assert main(["--data-dir", str(tmp_path), *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
