"""What docs/durability.md promises: power loss, failing operations, damaged files, two processes, signals."""

import functools

import numpy as np
import pytest

import crash_states
import hmc_fast
from cases import RUNS, classifier
from hmc_fast import atomic_files

SHORT = {"chains": 2, "burn_in": 1, "draws": 3, "progress": False, "checkpoint_seconds": 1e-9}


@functools.cache
def problem():
    return classifier()


def go(sampler, **options):
    """A run of few iterations, with a checkpoint after each."""
    posterior, x, y = problem()
    return hmc_fast.run(posterior, RUNS[sampler](), test=(x, y), **{**SHORT, **options})


@functools.cache
def unbroken(sampler):
    return go(sampler)


def assert_same(run, sampler, folder):
    whole = unbroken(sampler)
    assert np.array_equal(np.load(folder / "draws.npy"), whole.draws)
    assert np.array_equal(run.draws, whole.draws)
    assert np.array_equal(run.function_draws, whole.function_draws)
    assert np.array_equal(run.test.probs, whole.test.probs)
    assert np.array_equal(run.curve, whole.curve)
    assert run.trace.drop(columns="seconds").equals(whole.trace.drop(columns="seconds"))
    assert not list(folder.rglob("*.tmp*"))


def goes_on(sampler, folder, **options):
    """The run of the same command, with `resume` from the moment its folder exists."""
    return go(sampler, out=folder, resume=(folder / "checkpoint").is_dir(), **options)


# --- power loss ---


def recorded(sampler, folder, monkeypatch, **options):
    """The file operations of a run."""
    recorder = crash_states.RecordingOS(folder.parent)
    with monkeypatch.context() as patch:
        patch.setattr(atomic_files, "os", recorder)
        go(sampler, out=folder, capacity=2, **options)
    return recorder.events


def resume_all(sampler, tmp_path, monkeypatch, every):
    root = tmp_path / "disk"
    root.mkdir()
    events = recorded(sampler, root / "run", monkeypatch)
    states = list(crash_states.crash_states(events))
    for index, (_, tree) in enumerate(states):
        if index % every:
            continue
        place = tmp_path / str(index)
        place.mkdir()
        crash_states.write(tree, root, place)
        assert_same(goes_on(sampler, place / "run"), sampler, place / "run")
    return len(states)


def test_some_states_after_a_power_loss_resume_to_the_same_bytes(tmp_path, monkeypatch):
    assert resume_all("hmc", tmp_path, monkeypatch, every=41) > 200


@pytest.mark.slow
@pytest.mark.parametrize("sampler", RUNS)
def test_every_state_after_a_power_loss_resumes_to_the_same_bytes(sampler, tmp_path, monkeypatch):
    assert resume_all(sampler, tmp_path, monkeypatch, every=1) > 200
