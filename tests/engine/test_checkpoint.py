"""Interrupted runs: resumed to the very same draws, refused with other settings, damage named."""

import signal

import numpy as np
import pandas as pd
import pytest

import hmc_fast
from cases import RUNS, go
from hmc_fast.engine import checkpoint
from hmc_fast.errors import Interrupted
from interruption import interrupt_at


@pytest.mark.parametrize("sampler", RUNS)
@pytest.mark.parametrize("iteration", [0, 2, 9])
def test_resume_continues_to_the_very_same_draws(sampler, iteration, tmp_path, monkeypatch):
    whole = go(sampler)
    handler = signal.getsignal(signal.SIGINT)  # of a shell's background job: "ignore"
    with monkeypatch.context() as patch:
        interrupt_at(patch, iteration)
        with pytest.raises(Interrupted):
            go(sampler, out=tmp_path / "run", capacity=4)
    assert not (tmp_path / "run" / "draws.npy").exists(), "half a run must not look like a whole one"
    resumed = go(sampler, out=tmp_path / "run", capacity=3, resume=True)
    assert np.array_equal(resumed.draws, whole.draws)
    assert np.array_equal(resumed.test.probs, whole.test.probs)
    assert np.array_equal(resumed.curve, whole.curve)
    assert np.array_equal(resumed.function_draws, whole.function_draws)
    columns = [c for c in whole.trace.columns if c != "seconds"]
    pd.testing.assert_frame_equal(resumed.trace[columns], whole.trace[columns])
    assert signal.getsignal(signal.SIGINT) is handler


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    first = go(out=tmp_path / "run")
    again = go(out=tmp_path / "run", resume=True)
    assert np.array_equal(first.draws, again.draws)
    assert np.array_equal(first.test.probs, again.test.probs)


def test_resume_refuses_other_settings(tmp_path):
    go(out=tmp_path / "run")
    with pytest.raises(hmc_fast.UserError, match="made with seed 0, not 1"):
        go(out=tmp_path / "run", resume=True, seed=1)
    with pytest.raises(hmc_fast.UserError, match="no checkpoint to resume from"):
        go(out=tmp_path / "nowhere", resume=True)


def test_a_damaged_checkpoint_is_named(tmp_path):
    go(out=tmp_path / "run")
    for name in (checkpoint.STATE_FILE, checkpoint.PREVIOUS_FILE):
        path = tmp_path / "run" / "checkpoint" / name
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(hmc_fast.UserError, match="is not a readable checkpoint"):
        go(out=tmp_path / "run", resume=True)
