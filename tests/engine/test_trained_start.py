"""Chains that begin at trained members: with every sampler, trained once however often the run is interrupted."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

import hmc_fast
from cases import SAMPLERS, classifier, some_slow
from hmc_fast.engine.ensemble import Training
from hmc_fast.engine.ensemble.members import Members
from hmc_fast.errors import Interrupted, UserError
from interruption import interrupt_at

TRAINING = Training(epochs=3, batch_size=36)
SHORT = {"chains": 2, "burn_in": 1, "draws": 3, "progress": False, "seed": 4}


def hmc():
    return hmc_fast.HMC(0.05, num_leapfrog=2, jitter=0.4)


def go(sampler=None, init=TRAINING, **options):
    return hmc_fast.run(classifier()[0], sampler or hmc(), init=init, **{**SHORT, **options})


@pytest.fixture
def trainings(monkeypatch):
    """A list with an item for every epoch that is trained."""
    epochs, real = [], Members.epoch

    def epoch(self):
        epochs.append(self)
        return real(self)

    monkeypatch.setattr(Members, "epoch", epoch)
    return epochs


def contents(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("name", some_slow(SAMPLERS, fast=("hmc", "mclmc_minibatch", "sgld")))
def test_every_sampler_begins_at_the_members(name):
    sampler = SAMPLERS[name]()
    if name == "hmc_adapting":
        sampler = hmc_fast.HMC(adapt=True, num_leapfrog=4)
    members = TRAINING.members(classifier()[0], 2, 4, progress=False)
    run, given = go(sampler), go(SAMPLERS[name]() if name != "hmc_adapting" else sampler, init=members)
    assert np.array_equal(run.draws, given.draws)


def test_the_word_train_uses_the_defaults():
    chains = [go(init=init, draws=1, burn_in=0).draws for init in ("train", Training())]
    assert np.array_equal(*chains)
    assert not np.array_equal(chains[0], go(draws=1, burn_in=0).draws)


def test_what_a_run_says(capsys):
    go(progress=True)
    lines = capsys.readouterr().err.splitlines()
    (last,) = [line for line in lines if line.startswith("trained")]
    assert last.startswith("trained 2 members in 3 epochs (of at most 3), ")
    assert any(line.startswith("training 3/3  NLL ") for line in lines)
    go()
    assert capsys.readouterr().err == ""


# --- resuming ---


def test_an_interrupted_run_does_not_train_again(tmp_path, monkeypatch, trainings):
    whole = go(out=tmp_path / "whole")
    assert len(trainings) == 3
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2)
        with pytest.raises(Interrupted):
            go(out=tmp_path / "run")
    assert len(trainings) == 6
    members = np.load(tmp_path / "run" / "checkpoint" / "members.npy")
    assert torch.equal(torch.tensor(members), TRAINING.members(classifier()[0], 2, 4, progress=False))
    trainings.clear()
    resumed = go(out=tmp_path / "run", resume=True)
    assert trainings == []
    assert np.array_equal(whole.draws, resumed.draws)
    again = go(out=tmp_path / "run", resume=True)  # of a finished run
    assert trainings == []
    assert np.array_equal(whole.draws, again.draws)


@pytest.mark.parametrize("epoch", [1, 3])
@pytest.mark.parametrize("resume", [True, False])
def test_ctrl_c_during_training_leaves_a_start_that_begins_again(tmp_path, monkeypatch, trainings, epoch, resume):
    whole, folder, config = go(), tmp_path / "run", {"mine": 1}
    trainings.clear()
    real = Members.epoch

    def interrupted(self):
        if len(trainings) == epoch - 1:
            raise KeyboardInterrupt
        return real(self)

    with monkeypatch.context() as patch:
        patch.setattr(Members, "epoch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            go(out=folder, config=config)
    assert contents(folder) == ["checkpoint", "checkpoint/lock", "config.json"]
    trainings.clear()
    run = go(out=folder, resume=resume, config=config)
    assert len(trainings) == 3
    assert np.array_equal(run.draws, whole.draws)
    assert json.loads((folder / "config.json").read_text())["mine"] == 1


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
import test_trained_start as tests
from hmc_fast.engine.ensemble.members import Members

real, count = Members.epoch, [0]

def epoch(self):
    count[0] += 1
    if count[0] == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self)

Members.epoch = epoch
tests.go(out=tests.Path(sys.argv[1]))
"""


def test_a_kill_during_training_leaves_nothing_half_written(tmp_path):
    folder = tmp_path / "run"
    code = KILLED.replace("tests.Path", "__import__('pathlib').Path")
    here = os.path.dirname(__file__)
    environment = os.environ | {"PYTHONPATH": os.path.dirname(here)}
    done = subprocess.run([sys.executable, "-c", code, str(folder), here], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert contents(folder) == ["checkpoint", "checkpoint/lock"]
    assert np.array_equal(go(out=folder, resume=True).draws, go().draws)


@pytest.mark.parametrize("what", ["members", "checkpoint"])
def test_a_disk_that_is_full_stops_a_run_in_one_sentence(tmp_path, monkeypatch, what):
    """When the members are to be written, and when the first checkpoint is."""
    from hmc_fast.engine.output import OutputFolder

    name = {"members": "write_members", "checkpoint": "write_checkpoint"}[what]
    real = getattr(OutputFolder, name)

    def full(self, given):
        from hmc_fast.atomic_files import NotWritten

        raise NotWritten(self.members_path, OSError(28, "No space left on device"))

    with monkeypatch.context() as patch:
        patch.setattr(OutputFolder, name, full)
        with pytest.raises(UserError, match="No space left on device"):
            go(out=tmp_path / "run")
    assert real is getattr(OutputFolder, name)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"init": Training(epochs=4, batch_size=36)}, "without this training"),
        ({"init": "train"}, "without this training"),
        ({"init": "prior"}, "made with some training"),
        ({"seed": 5}, "made with seed 4, not 5"),
        ({"chains": 3}, "made with chains 2, not 3"),
    ],
)
def test_a_run_resumes_with_its_own_training_alone(tmp_path, trainings, changes, words):
    go(out=tmp_path / "run")
    trainings.clear()
    with pytest.raises(UserError) as caught:
        go(out=tmp_path / "run", resume=True, **changes)
    assert words in str(caught.value)
    assert trainings == []


def test_a_run_without_training_is_not_resumed_with_it(tmp_path, trainings):
    go(out=tmp_path / "run", init="prior")
    with pytest.raises(UserError, match="was made without this training: resume with the same init"):
        go(out=tmp_path / "run", resume=True)
    assert trainings == []


@pytest.mark.parametrize("damage", ["lost", "cut", "changed"])
def test_members_that_are_damaged_are_refused(tmp_path, monkeypatch, trainings, damage):
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2)
        with pytest.raises(Interrupted):
            go(out=tmp_path / "run")
    trainings.clear()
    path = tmp_path / "run" / "checkpoint" / "members.npy"
    raw = bytearray(path.read_bytes())
    if damage == "lost":
        path.unlink()
    else:
        raw[-1] ^= 1
        path.write_bytes(raw if damage == "changed" else raw[:-4])
    with pytest.raises(UserError, match=r"members.npy .*: the run cannot be resumed, start a new one"):
        go(out=tmp_path / "run", resume=True)
    assert trainings == []


# --- mistakes, before time is spent ---


@pytest.mark.parametrize(
    ("sampler", "options", "words"),
    [
        (lambda: hmc_fast.MCLMC(), {"burn_in": 0}, "adapt learns during burn-in"),
        (hmc, {"test": torch.zeros(3, 7)}, "test inputs have shape (7,)"),
        (hmc, {"init": Training(batch_size=73)}, "batch_size 73 of training must be at most 72"),
        (hmc, {"compile": "maybe"}, "compile 'maybe' is unknown"),
        (hmc, {"capacity": 0}, "capacity"),
    ],
)
def test_mistakes_are_told_before_training_and_leave_nothing(tmp_path, trainings, sampler, options, words):
    with pytest.raises(UserError) as caught:
        go(sampler(), out=tmp_path / "run", **options)
    assert words in str(caught.value)
    assert trainings == []
    assert not (tmp_path / "run").exists()


def test_a_member_that_diverges_leaves_no_folder(tmp_path, monkeypatch):
    def lost(self):
        self.theta[1] = torch.inf
        return torch.zeros(2, dtype=torch.float64)

    monkeypatch.setattr(Members, "epoch", lost)
    with pytest.raises(UserError, match=r"member 1 diverged .* use a learning rate below 0.001"):
        go(out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_two_runs_do_not_train_for_one_folder(tmp_path, monkeypatch):
    """The folder is taken before training."""
    real = Members.epoch

    def meanwhile(self):
        monkeypatch.setattr(Members, "epoch", real)
        with pytest.raises(UserError, match="in use by another process"):
            go(out=tmp_path / "run")
        return real(self)

    monkeypatch.setattr(Members, "epoch", meanwhile)
    assert len(go(out=tmp_path / "run").draws) == 3
