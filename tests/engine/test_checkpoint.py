"""Interrupted runs: resumed to the very same draws, refused with other settings, damage named."""

import json
import os
import signal

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import safe_open, save_file
from torch import nn

import hmc_fast
from cases import RUNS, go
from hmc_fast.engine import checkpoint, runner
from hmc_fast.engine.execution import Choice
from hmc_fast.engine.loop import Interrupted


def interrupt_at(monkeypatch, iteration):
    """Makes Ctrl-C arrive during one iteration."""
    real = hmc_fast.engine.runner.Loop._iterate

    def iterate(self, keep, bar):
        if self.iteration == iteration:
            os.kill(os.getpid(), signal.SIGINT)
        real(self, keep, bar)

    monkeypatch.setattr(hmc_fast.engine.runner.Loop, "_iterate", iterate)


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
    path = tmp_path / "run" / "checkpoint" / checkpoint.STATE_FILE
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(hmc_fast.UserError, match="is not a readable checkpoint"):
        go(out=tmp_path / "run", resume=True)


def sample_images(monkeypatch, choice, *, micro_batch_size=None, **options):
    """A run of a convolutional network, its gradients computed as in `choice`, or not chosen if None."""
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(40, 2, 6, 6, generator=generator), torch.randint(0, 3, (40,), generator=generator)
    with torch.random.fork_rng(), monkeypatch.context() as patch:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Conv2d(4, 8, 3), nn.Flatten(), nn.Linear(32, 3))
        patch.setattr(runner, "choose", choice and (lambda target, *_, **__: Choice(target.prepared(**choice), ())))
        return hmc_fast.run(
            hmc_fast.Posterior(model, data, prior=hmc_fast.Normal(0.1), micro_batch_size=micro_batch_size),
            hmc_fast.HMC(0.02, num_leapfrog=5),
            **{"chains": 2, "burn_in": 0, "draws": 8, "draw_dtype": torch.float32, "progress": False} | options,
        )


USUAL, OTHER = ({"path": "eager", "layout": name} for name in ("channels_last", "contiguous"))


@pytest.mark.parametrize("choice", [OTHER, USUAL | {"micro_batch_size": 16}], ids=["layout", "size"])
def test_a_resumed_run_computes_as_before(choice, tmp_path, monkeypatch):
    whole, usual = (sample_images(monkeypatch, how) for how in (choice, USUAL))
    assert not np.array_equal(whole.draws, usual.draws), "rounding differs, or this test shows nothing"
    np.testing.assert_allclose(whole.draws, usual.draws, atol=1e-3)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        with pytest.raises(Interrupted):
            sample_images(monkeypatch, choice, out=tmp_path / "run")
    resumed = sample_images(monkeypatch, None, out=tmp_path / "run", resume=True)
    assert np.array_equal(resumed.draws, whole.draws)


def test_the_user_may_change_the_micro_batch_size(tmp_path, monkeypatch):
    whole = sample_images(monkeypatch, USUAL)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        with pytest.raises(Interrupted):
            sample_images(monkeypatch, USUAL, out=tmp_path / "run")
    resumed = sample_images(monkeypatch, None, micro_batch_size=16, out=tmp_path / "run", resume=True)
    assert resumed.target.micro_batch_size == 16
    np.testing.assert_allclose(resumed.draws, whole.draws, atol=1e-3)


@pytest.mark.parametrize("name", ["path", "layout", "micro_batch_size"])
def test_a_checkpoint_of_an_earlier_version_is_refused(name, tmp_path):
    go(out=tmp_path / "run")
    path = tmp_path / "run" / "checkpoint" / checkpoint.STATE_FILE
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    fingerprint = json.loads(metadata["fingerprint"])
    del fingerprint[name]
    save_file(tensors, path, metadata=metadata | {"fingerprint": json.dumps(fingerprint)})
    with pytest.raises(hmc_fast.UserError, match=f"does not say with which {name} it was computed"):
        go(out=tmp_path / "run", resume=True)
