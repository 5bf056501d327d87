"""The cache of runs: each done once, whatever asks for it, and taken up again where it broke off."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest

from hmc_fast.engine.loop import Loop
from hmc_fast.errors import UserError
from hmc_fast.experiments.run_cache import Lab
from hmc_fast.experiments.settings import EPOCHS, ExperimentSettings
from hmc_fast.presets.resolve import resolve


def settings(cache: Path, **changes: object) -> ExperimentSettings:
    tiny = {"chains": 2, "burn_in": 2, "draws": 5, "step_size": 0.05, "trajectory_length": 0.1, "train_size": 100}
    tiny |= {"test_size": 50, "device": "cpu", "compile": "off", "progress": False}
    return ExperimentSettings(cache=cache, **(tiny | changes))


def test_a_run_that_two_experiments_need_is_done_once(tmp_path: Path) -> None:
    lab = Lab("digits", settings(tmp_path))
    (first,) = lab.obtain([lab.hmc()])
    made = (first.directory / "metrics.json").stat().st_mtime_ns
    jobs = [lab.hmc("another name"), lab.hmc(seed=1), lab.hmc()]
    again, other, last = Lab("digits", settings(tmp_path)).obtain(jobs)
    assert again.directory == last.directory == first.directory != other.directory
    assert (first.directory / "metrics.json").stat().st_mtime_ns == made
    assert len(list(tmp_path.glob("*/metrics.json"))) == 2
    assert lab.hmc(micro_batch_size=50, out=tmp_path).folder == lab.hmc().folder, "what changes no draw"
    assert lab.hmc(temperature=2.0).folder != lab.hmc().folder


def test_passes_count_every_gradient_of_every_chain(tmp_path: Path) -> None:
    lab = Lab("digits", settings(tmp_path))
    hmc, sgld = lab.obtain([lab.hmc(), lab.sampler("SGLD", sampler="sgld", burn_in=3, draws=2, batch_size=25)])
    # 2 chains, 2 leapfrog steps an iteration, 2 of burn-in; and the gradient that begins each chain is not a step
    assert hmc.passes.tolist() == [2 * 2 * iterations for iterations in (3, 4, 5, 6, 7)]
    assert sgld.passes.tolist() == [2 * 4, 2 * 5], "an epoch of each chain an iteration"


def test_a_run_serves_every_test_size(tmp_path: Path) -> None:
    (some,) = (small := Lab("digits", settings(tmp_path, test_size=50))).obtain([small.hmc()])
    (all_of_it,) = (large := Lab("digits", settings(tmp_path, test_size=0))).obtain([large.hmc()])
    assert some.directory == all_of_it.directory
    assert some.probs.shape[2] == len(small.labels) == 50
    kept = np.load(some.directory / "predictions.npz")["labels"]
    assert len(kept) == 360, "one broken off goes on at any size"
    assert all_of_it.probs.shape[2] == len(large.labels) == 360


def test_on_a_part_of_the_data_steps_and_epochs_follow(tmp_path: Path) -> None:
    whole = Lab("digits", settings(tmp_path, train_size=0))
    usual = resolve("digits", {"sampler": "sghmc"}).sampler
    assert (whole.epochs, whole.sampler_epochs) == EPOCHS["digits"]
    job = whole.minibatch("SG-HMC", "sghmc").identity
    assert (job["step_size"], job["friction"]) == (usual.step_size, usual.friction)
    part = Lab("digits", settings(tmp_path, train_size=1437 // 4, step_size=0.03, epochs=7))
    assert part.epochs == 7, "what was asked for is kept"
    assert part.sampler_epochs == pytest.approx(4 * whole.sampler_epochs, rel=0.01), "as many steps"
    job = part.minibatch("SG-HMC", "sghmc").identity
    assert job["step_size"] == pytest.approx(0.015)
    assert job["friction"] == pytest.approx(usual.friction / 2, rel=0.01)
    assert part.minibatch("SGLD", "sgld").identity["step_size"] == pytest.approx(2 * 0.03**2)


def test_a_sampler_has_the_values_of_its_preset_where_none_are_given(tmp_path: Path) -> None:
    lab = Lab("digits", settings(tmp_path, chains=2, prior_variance=0.5))
    job = lab.sampler("as the preset", sampler="sghmc", chains=None, friction=3.0).identity
    usual = resolve("digits", {"sampler": "sghmc"})
    assert job["chains"] == usual.settings.chains != 2
    assert (job["friction"], job["step_size"], job["prior_variance"]) == (3.0, usual.sampler.step_size, 0.5)


def test_an_interrupted_run_goes_on_to_the_same_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab("digits", settings(tmp_path / "whole"))
    (whole,) = lab.obtain([lab.hmc()])
    lab = Lab("digits", settings(tmp_path / "broken"))
    iterate, count = Loop._advance, []

    def stop(self: Loop, *arguments: object) -> None:
        count.append(1)
        if len(count) == 3:
            signal.raise_signal(signal.SIGINT)  # the loop ends after this iteration
        iterate(self, *arguments)

    monkeypatch.setattr(Loop, "_advance", stop)
    with pytest.raises(KeyboardInterrupt):
        lab.obtain([lab.hmc()])
    assert not list(tmp_path.glob("broken/*/metrics.json"))
    monkeypatch.setattr(Loop, "_advance", lambda self, *a: (count.append(1), iterate(self, *a))[1])
    count.clear()
    (again,) = lab.obtain([lab.hmc()])
    assert len(count) == 7 - 3, "three of seven iterations had been done"
    assert np.array_equal(again.draws, whole.draws)
    assert np.array_equal(again.passes, whole.passes)
    assert np.array_equal(again.bma, whole.bma)


def test_a_damaged_run_is_named_and_damaged_predictions_are_made_anew(tmp_path: Path) -> None:
    (sample,) = Lab("digits", settings(tmp_path)).obtain([Lab("digits", settings(tmp_path)).hmc()])
    probs = sample.probs.copy()
    (file,) = sample.directory.glob("test_probs-*.npy")
    np.save(file, probs[:2])
    (again,) = Lab("digits", settings(tmp_path)).obtain([sample.lab.hmc()])
    assert np.array_equal(again.probs, probs)
    metrics = json.loads((sample.directory / "metrics.json").read_text())
    (sample.directory / "metrics.json").write_text(json.dumps(metrics | {"seconds": "long"}))
    with pytest.raises(UserError, match=r"'long' as 'seconds'.*: remove this directory, and the run is made again"):
        Lab("digits", settings(tmp_path)).obtain([sample.lab.hmc()])
