"""What docs/durability.md promises: power loss, failing operations, damaged files, two processes, signals."""

import contextlib
import errno
import functools
import itertools
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

import cases
import crash_states
import hmc_fast
from cases import classifier
from failing_disk import failing
from hmc_fast import atomic_files
from hmc_fast.engine.interrupt import InterruptGuard
from hmc_fast.engine.loop import Loop
from hmc_fast.engine.output import OutputFolder
from hmc_fast.errors import Interrupted
from interruption import interrupt_at

# Of `RUNS`, those of whose states adaptation and cycles are part, with short trajectories.
RUNS = {
    "hmc": lambda: hmc_fast.HMC(0.05, num_leapfrog=2, jitter=0.4),
    "hmc_adapting": lambda: hmc_fast.HMC(adapt=True, num_leapfrog=2),
    "sghmc": cases.RUNS["sghmc"],
}
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


def recorded(sampler, folder, monkeypatch):
    """The file operations of a run, with a note where a checkpoint is said to be written."""
    recorder, save = crash_states.RecordingOS(folder.parent), Loop.save
    with monkeypatch.context() as patch:
        patch.setattr(atomic_files, "os", recorder)
        note = recorder.events.append
        patch.setattr(Loop, "save", lambda self, *a: (save(self, *a), note(("note", self.saved_iteration))))
        go(sampler, out=folder, capacity=2)
    return recorder.events


def resume_all(sampler, tmp_path, monkeypatch, every):
    """Reads the checkpoint of each state, and resumes from one in `every`."""
    root = tmp_path / "disk"
    root.mkdir()
    events = recorded(sampler, root / "run", monkeypatch)
    saved = [-1, *itertools.accumulate((e[1] if e[0] == "note" else -1 for e in events), max)]
    states = list(crash_states.crash_states(events))
    for index, (end, tree) in enumerate(states):
        place = tmp_path / str(index)
        place.mkdir()
        crash_states.write(tree, root, place)
        if (place / "run" / "checkpoint").is_dir():
            with OutputFolder(place / "run") as output:
                found = output.read_checkpoint()
            assert (-1 if found is None else found.numbers["iteration"]) >= saved[end], "a checkpoint was lost"
        if index % every == 0:
            assert_same(goes_on(sampler, place / "run"), sampler, place / "run")
    return len(states)


def test_no_state_after_a_power_loss_loses_a_checkpoint_and_some_resume_to_the_same_bytes(tmp_path, monkeypatch):
    assert resume_all("hmc", tmp_path, monkeypatch, every=71) > 200


@pytest.mark.slow
@pytest.mark.parametrize("sampler", RUNS)
def test_every_state_after_a_power_loss_resumes_to_the_same_bytes(sampler, tmp_path, monkeypatch):
    assert resume_all(sampler, tmp_path, monkeypatch, every=1) > 200


# --- operations that fail ---


def fail_each(sampler, tmp_path, monkeypatch, numbers, every=1, begin=None):
    """Runs again and again, each time with another operation that fails; returns how many there are.

    numbers: of the errors, taken in turn. begin: a folder to resume.
    """
    for attempt in itertools.count():
        k, number, folder = attempt * every, numbers[attempt % len(numbers)], tmp_path / str(attempt)
        if begin is not None:
            shutil.copytree(begin, folder)
        with monkeypatch.context() as patch:
            disk, sentence = failing(patch, k, number), None
            try:
                goes_on(sampler, folder, capacity=2)
            except hmc_fast.UserError as error:
                sentence = str(error)
        assert (disk.count > k) == (sentence is not None), "an operation failed, and nobody noticed"
        if sentence is None:
            return disk.count
        assert "\n" not in sentence
        assert os.strerror(number) in sentence
        assert_same(goes_on(sampler, folder), sampler, folder)
    return None


FULL, BROKEN = errno.ENOSPC, errno.EIO


def test_some_operations_that_fail_stop_the_run_with_a_sentence_and_it_resumes(tmp_path, monkeypatch):
    assert fail_each("sghmc", tmp_path, monkeypatch, (FULL, BROKEN), every=19) > 80


@pytest.mark.slow
@pytest.mark.parametrize("errors", [(FULL, BROKEN), (BROKEN, FULL)])
@pytest.mark.parametrize("sampler", RUNS)
def test_each_operation_that_fails_stops_the_run_with_a_sentence_and_it_resumes(
    sampler, errors, tmp_path, monkeypatch
):
    assert fail_each(sampler, tmp_path, monkeypatch, errors) > 80


@pytest.mark.slow
def test_each_operation_that_fails_while_resuming(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_at(patch, 1)
        with pytest.raises(Interrupted):
            go("hmc", out=tmp_path / "begun")
    assert fail_each("hmc", tmp_path, monkeypatch, (FULL, BROKEN), begin=tmp_path / "begun") > 30


# --- damaged files ---


def interrupted_twice(folder, monkeypatch):
    """A run whose newest checkpoint is of iteration 3, the one before of iteration 2."""
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2)
        with pytest.raises(Interrupted):
            go("hmc", out=folder)


def flip(path, position):
    """Changes one bit."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def snapshot(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("damage", ["missing", "cut", "tensor", "header", "empty"])
def test_a_damaged_checkpoint_is_replaced_by_the_one_before(damage, tmp_path, monkeypatch, capsys):
    interrupted_twice(tmp_path / "run", monkeypatch)
    state = tmp_path / "run" / "checkpoint" / "state.safetensors"
    if damage == "missing":
        state.unlink()
    elif damage in ("tensor", "header"):
        flip(state, -1 if damage == "tensor" else 40)
    else:
        state.write_bytes(state.read_bytes()[: 200 if damage == "cut" else 0])
    capsys.readouterr()
    resumed = goes_on("hmc", tmp_path / "run")
    assert "continuing from the checkpoint before, of iteration 2" in capsys.readouterr().err
    assert_same(resumed, "hmc", tmp_path / "run")


def test_a_damaged_checkpoint_does_not_become_the_one_before(tmp_path, monkeypatch):
    interrupted_twice(tmp_path / "run", monkeypatch)
    state = tmp_path / "run" / "checkpoint" / "state.safetensors"
    flip(state, -1)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2)
        with pytest.raises(Interrupted):
            goes_on("hmc", tmp_path / "run", checkpoint_seconds=100.0)
    flip(state, -1)
    assert_same(goes_on("hmc", tmp_path / "run"), "hmc", tmp_path / "run")


@pytest.mark.parametrize("name", ["draws", "trace", "function_values", "curve"])
def test_a_file_of_rows_that_is_damaged_is_never_believed_nor_touched(name, tmp_path, monkeypatch):
    interrupted_twice(tmp_path / "run", monkeypatch)
    path = tmp_path / "run" / "checkpoint" / f"{name}.npy"
    whole = path.read_bytes()
    first_row = len(whole) - np.load(path).nbytes
    for damaged, words in (
        (whole[:first_row] + b"?" + whole[first_row + 1 :], "does not hold the . rows that the checkpoint counts"),
        (whole[:-1], "bytes of rows instead of"),
        (whole + b"more", "bytes of rows instead of"),
        (b"?" + whole[1:], "is not a .npy file"),
        (b"", "is not a .npy file"),
        (None, "cannot be read"),
    ):
        path.unlink(missing_ok=True)
        if damaged is not None:
            path.write_bytes(damaged)
        before = snapshot(tmp_path)
        with pytest.raises(hmc_fast.UserError, match=words):
            goes_on("hmc", tmp_path / "run")
        assert snapshot(tmp_path) == before


def test_rows_damaged_after_the_checkpoint_before_are_written_again(tmp_path, monkeypatch, capsys):
    interrupted_twice(tmp_path / "run", monkeypatch)
    path = tmp_path / "run" / "checkpoint" / "trace.npy"
    flip(path, len(path.read_bytes()) - np.load(path)[2:].nbytes)  # in the last of three rows
    assert_same(goes_on("hmc", tmp_path / "run"), "hmc", tmp_path / "run")
    assert "does not hold the 3 rows" in capsys.readouterr().err


def test_a_checkpoint_of_an_earlier_version_is_refused(tmp_path):
    (tmp_path / "run" / "checkpoint").mkdir(parents=True)
    path = tmp_path / "run" / "checkpoint" / "state.safetensors"
    save_file({"state.theta": torch.zeros(2)}, path, metadata={"numbers": "{}", "fingerprint": "{}"})
    with pytest.raises(hmc_fast.UserError, match="of an earlier version"):
        goes_on("hmc", tmp_path / "run")


# --- two processes ---


@pytest.mark.parametrize("resume", [False, True])
def test_a_second_start_on_the_same_folder_is_refused(resume, tmp_path, monkeypatch):
    step, refusals = RUNS["hmc"]().__class__.step, []

    def rival(self, state, batch=None, **options):
        with monkeypatch.context() as patch:
            patch.setattr(hmc_fast.HMC, "step", step)
            with pytest.raises(hmc_fast.UserError) as refusal:
                go("hmc", out=tmp_path / "run", resume=resume, seed=1)
            refusals.append(str(refusal.value))
        return step(self, state, batch, **options)

    monkeypatch.setattr(hmc_fast.HMC, "step", rival)
    run = go("hmc", out=tmp_path / "run")
    assert len(refusals) == SHORT["burn_in"] + SHORT["draws"]
    assert all(("in use by another process" if resume else "already contains a run") in r for r in refusals)
    monkeypatch.undo()
    assert_same(run, "hmc", tmp_path / "run")


def test_two_starts_at_the_same_moment(tmp_path, monkeypatch):
    """Both find no run; the second is refused when it wants to create one."""
    create = OutputFolder.create

    def create_late(self):
        monkeypatch.undo()
        go("hmc", out=tmp_path / "run")
        create(self)

    monkeypatch.setattr(OutputFolder, "create", create_late)
    with pytest.raises(hmc_fast.UserError, match="already contains a run"):
        go("hmc", out=tmp_path / "run", seed=1)
    assert_same(goes_on("hmc", tmp_path / "run"), "hmc", tmp_path / "run")


# --- signals ---


def unhandled(number, frame):
    raise RuntimeError("nobody handled the signal")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_signal_stops_with_a_checkpoint_and_its_status(number, tmp_path, monkeypatch):
    before = signal.signal(number, unhandled)
    try:
        with monkeypatch.context() as patch:
            interrupt_at(patch, 1, number)
            with pytest.raises(Interrupted) as stop:
                go("hmc", out=tmp_path / "run", checkpoint_seconds=100.0)
        assert signal.getsignal(number) is unhandled
    finally:
        signal.signal(number, before)
    assert stop.value.status == 128 + number
    assert_same(goes_on("hmc", tmp_path / "run"), "hmc", tmp_path / "run")


def test_under_nohup_a_closed_terminal_does_not_stop_a_run(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with monkeypatch.context() as patch:
            interrupt_at(patch, 1, signal.SIGHUP)
            assert np.array_equal(go("hmc").draws, unbroken("hmc").draws)
    except Interrupted:  # which would end pytest
        pytest.fail("the run stopped")
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("pause", [0.0, 2.0])
def test_a_signal_twice_within_a_second_is_one_wish(pause, monkeypatch, capsys):
    clock = itertools.count(100, pause)
    with monkeypatch.context() as patch:
        patch.setattr("hmc_fast.engine.interrupt.time.monotonic", lambda: next(clock))
        with InterruptGuard(tells=True) as guard:
            signal.raise_signal(signal.SIGINT)
            stopped = False
            try:
                signal.raise_signal(signal.SIGINT)
            except Interrupted:
                stopped = True
    assert stopped == (pause > 0)
    assert guard.requested == signal.SIGINT
    assert capsys.readouterr().err == "stopping after this iteration; again to stop at once\n"


@pytest.mark.parametrize("iteration", [0, 2])
@pytest.mark.parametrize("sampler", ["hmc", "sghmc"])
def test_a_long_iteration_is_broken_off_and_repeated(sampler, iteration, tmp_path, monkeypatch):
    """The signal comes at a gradient, in the midst of what changes the state in place."""
    gradient, count = hmc_fast.Posterior.log_likelihood_and_grad, itertools.count()

    def interrupting(self, *arguments):
        gradient(self, *arguments)
        if loops and loops[0].iteration == iteration and next(count) == 1:
            signal.raise_signal(signal.SIGTERM)

    loops, advance = [], Loop._advance
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_advance", lambda self, *a: (loops.append(self), advance(self, *a)))
        patch.setattr("hmc_fast.engine.loop._LONG_ITERATION", 0.0)
        patch.setattr(hmc_fast.Posterior, "log_likelihood_and_grad", interrupting)
        with pytest.raises(Interrupted):
            go(sampler, out=tmp_path / "run", checkpoint_seconds=100.0)
    assert loops[-1].iteration == loops[-1].saved_iteration == iteration
    assert_same(goes_on(sampler, tmp_path / "run"), sampler, tmp_path / "run")


def test_a_log_that_closes_ends_no_run(tmp_path, monkeypatch):
    read, write = os.pipe()
    os.close(read)
    with monkeypatch.context() as patch, contextlib.suppress(BrokenPipeError), open(write, "w") as log:
        patch.setattr("sys.stderr", log)
        run = go("hmc", out=tmp_path / "run", progress=True)
    assert_same(run, "hmc", tmp_path / "run")


def test_a_long_trace_is_written_in_parts(tmp_path, monkeypatch):
    go("hmc", out=tmp_path / "whole")
    monkeypatch.setattr("hmc_fast.engine.output._ITERATIONS", 3)
    go("hmc", out=tmp_path / "parts")
    whole, parts = (pd.read_csv(tmp_path / name / "trace.csv") for name in ("whole", "parts"))
    pd.testing.assert_frame_equal(parts.drop(columns="seconds"), whole.drop(columns="seconds"))


# --- the first second ---


def stop_here(*arguments, **options):
    raise SystemExit


@pytest.mark.parametrize("resume", [False, True])
def test_a_start_that_was_cut_off_begins_again(resume, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("hmc_fast.engine.output.checkpoint.write", stop_here)
        with pytest.raises(SystemExit):
            go("hmc", out=tmp_path / "run")
    assert list((tmp_path / "run" / "checkpoint").glob("*.npy"))
    assert_same(go("hmc", out=tmp_path / "run", resume=resume), "hmc", tmp_path / "run")


# --- real processes ---


@pytest.mark.slow
def test_runs_killed_at_random_moments_resume_to_what_they_would_have_been():
    """In a process of its own, which forks."""
    script = Path(__file__).parent.parent / "kills.py"
    done = subprocess.run([sys.executable, script, "--number", "60"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
