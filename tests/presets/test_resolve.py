"""Presets, and what a preset and the flags given come to."""

import dataclasses

import pytest

from hmc_fast import HMC, SGHMC, train
from hmc_fast.errors import UserError
from hmc_fast.presets.resolve import resolve
from hmc_fast.presets.sampler_arguments import SAMPLERS, argument_types, arguments_of, make_sampler
from hmc_fast.presets.settings import FREE_ON_RESUME, SampleSettings
from hmc_fast.presets.table import PRESETS


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_preset_has_every_sampler_and_reads_it_back(preset, name):
    """From its own settings a sampler is made again with every attribute alike, as `--resume` needs."""
    run = resolve(preset, {"sampler": name})
    assert run.sampler.name == name
    assert run.settings.preset == preset
    assert run.settings.chains * run.settings.draws > 1
    again = make_sampler(name, arguments_of(run.sampler))
    assert vars(again) == vars(run.sampler)
    assert set(run.flat()) == {f.name for f in dataclasses.fields(SampleSettings)} | {
        "sampler",
        *argument_types(name),
    }


def test_what_was_given_wins_over_the_preset():
    usual, run = resolve("digits"), resolve("digits", {"chains": 7, "step_size": 0.5})
    assert (run.settings.chains, run.sampler.step_size) == (7, 0.5)
    assert run.settings == dataclasses.replace(usual.settings, chains=7)
    assert run.sampler.trajectory_length == usual.sampler.trajectory_length


def test_lengths_follow_what_was_given():
    usual = resolve("digits")
    wide = resolve("digits", {"prior_variance": 0.8})
    assert wide.sampler.trajectory_length == pytest.approx(2 * usual.sampler.trajectory_length)
    own = resolve("digits", {"prior_variance": 0.8, "trajectory_length": 0.3})
    assert own.sampler.trajectory_length == 0.3
    steps = resolve("digits", {"num_leapfrog": 5})
    assert (steps.sampler.trajectory_length, steps.sampler.num_leapfrog) == (None, 5)
    lenet = resolve("fashion-lenet", {"sampler": "hmc", "prior_variance": 1.0})
    assert lenet.sampler.trajectory_length == 0.01  # a length of the preset's own


def test_adapting_leaves_open_what_is_learned():
    run = resolve("digits", {"adapt": True})
    assert run.sampler.adapt
    assert (run.sampler.step_size, run.sampler.trajectory_length, run.sampler.jitter) == (None, None, 0.5)
    assert run.sampler.test_in_burn_in
    assert run.settings.burn_in == 200
    given = resolve("digits", {"adapt": True, "burn_in": 30, "trajectory_length": 0.5})
    assert (given.settings.burn_in, given.sampler.trajectory_length) == (30, 0.5)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_prior_variance_that_is_not_positive(value):
    with pytest.raises(UserError, match=r"--prior-variance .* must be a positive number"):
        resolve("digits", {"prior_variance": value})


def test_what_changes_no_draw():
    free = {"out", "resume", "device", "capacity", "progress", "micro_batch_size", "data_dir", "graph", "profile"}
    free |= {"checkpoint_seconds", "certify"}
    assert free == FREE_ON_RESUME


def test_both_commands_know_the_same_presets():
    assert set(PRESETS) == set(train.PRESETS)
    for preset, settings in train.PRESETS.items():
        of_sample = resolve(preset).settings
        assert (settings.data, settings.model) == (of_sample.data, of_sample.model)
    assert next(iter(PRESETS)) == "digits"
    assert isinstance(resolve("digits").sampler, HMC)
    assert isinstance(resolve("fashion-lenet").sampler, SGHMC)
