"""What the timing suites do with what they measured: comparison of peers, rows of the table, the busy share."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("bench_steps", reason="the benchmarks are not part of the installed package")

import bench_start
import bench_steps
import common
import mission
import tidy
import torch
from peers import Peer

FOLDER = Path(bench_steps.__file__).parent


def peer(factor):
    """blackjax' place taken by a program whose gradient is `factor` times ours."""
    mine = bench_steps.ours(bench_steps.CASES["Gaussian"].make(), torch.device("cpu")).gradient()
    return lambda *_: Peer(lambda: None, lambda: factor * mine)


@pytest.mark.parametrize("factor", [1.0, 1.01])
def test_a_peer_that_does_different_work_is_reported_and_fails(monkeypatch, factor):
    monkeypatch.setitem(bench_steps.PEERS, "blackjax", peer(factor))
    bench_steps.timed.cache_clear()
    aside, recorded = [], []

    def test(provider):
        providers = ("blackjax", "ours eager")
        bench_steps.test_step("Gaussian", provider, providers, 2, 1e9, aside, lambda *entry: recorded.append(entry))

    if factor == 1:
        test("blackjax")
        ((_, samples, rows),) = recorded
        assert len(samples) == 2
        assert [row["metric"] for row in rows] == ["time", "time over ours"]
        assert not aside
    else:
        with pytest.raises(pytest.fail.Exception, match=r"gradient differs by 0\.01"):
            test("blackjax")
        assert [(row["provider"], row["metric"]) for row in aside] == [("blackjax", "gradient differs")]
        assert not recorded
        test("ours eager")
        assert len(recorded) == 1


def test_providers_take_turns():
    order = []
    calls = {name: (lambda name=name: order.append(name)) for name in "abc"}
    samples = common.interleaved(calls, torch.device("cpu"), rounds=3, seconds=0.0)
    assert "".join(order[-9:]) == "abcabcabc"
    assert [len(taken) for taken in samples.values()] == [3, 3, 3]


def test_ratios_are_within_rounds():
    row = common.row("steps", "x", "peer", 1, "time over ours", "ratio", common.ratios([2, 8, 30], [1, 4, 2]))
    assert (row["median"], row["q20"], row["q80"], row["samples"]) == (2, 2, 15, 3)  # of medians: 4


def test_rows_of_the_json_are_appended_to_the_table(tmp_path, monkeypatch):
    rows = [common.row("steps", "x", name, 1, "time", "ms", [1.0, 2.0, 4.0]) for name in ("ours", "floor")]
    report = {
        "benchmarks": [{"extra_info": {"rows": rows[:1]}}],
        "rows": rows[1:],
        "machine_info": {"device": "cpu", "versions": "torch 2", "commit": "abc"},
        "datetime": "2026-11-28T06:00:00.123+00:00",
    }
    (tmp_path / "suite.json").write_text(json.dumps(report))
    monkeypatch.setattr(sys, "argv", ["tidy.py", str(tmp_path / "suite.json"), str(tmp_path)])
    tidy.main()
    tidy.main()
    table = pd.read_csv(tmp_path / "results.csv")
    assert list(table.columns) == tidy.COLUMNS
    assert list(table["provider"]) == ["ours", "floor"] * 2
    assert set(table["median"]) == {2.0}
    assert set(table["time"]) == {"2026-11-28T06:00:00+00:00"}


def test_jax_finds_its_settings_when_first_imported():
    """Else it takes most of a GPU's memory, and multiplies float32 matrices in TF32."""
    code = (
        "import os, sys, bench_ess, bench_steps, start_run; assert 'jax' not in sys.modules; "
        "print(*(os.environ[n] for n in ('XLA_PYTHON_CLIENT_PREALLOCATE', 'JAX_DEFAULT_MATMUL_PRECISION')))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=FOLDER, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["false", "highest"]


def test_means_that_differ_are_named():
    rng = np.random.default_rng(0)

    def starts(shift):
        return [bench_start.Start(1.0, (shift + rng.normal(size=(4, 100))).tolist()) for _ in range(2)]

    assert bench_start.disagreement({"ours": starts(0), "numpyro": starts(0)}) is None
    assert "numpyro" in bench_start.disagreement({"ours": starts(0), "numpyro": starts(1)})


def test_busy_share_counts_parallel_work_once():
    spans = [(0, 10, "kernel"), (5, 10, "gpu_memcpy"), (20, 20, "kernel"), (0, 100, "cpu_op")]
    events = [{"ts": begin, "dur": length, "cat": kind} for begin, length, kind in spans]
    assert mission.busy_share(events) == pytest.approx(35 / 40)
    assert mission.busy_share(events[-1:]) is None
