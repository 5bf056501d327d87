"""Samplers on the command line: their arguments are flags, read back from a sampler and changed one by one."""

import inspect

import pytest

from hmc_fast import MCLMC, TWO_STAGE, CosineCyclical, samplers
from hmc_fast.errors import UserError
from hmc_fast.presets.resolve import resolve
from hmc_fast.presets.sampler_arguments import SAMPLERS, argument_types, arguments_of, make_sampler, with_arguments


def test_every_public_sampler_is_on_the_command_line():
    assert set(SAMPLERS.values()) == set(samplers.SAMPLERS)
    cycle = {"cycle_length", "cycle_keep", "cycle_exploration"}
    for name, kind in SAMPLERS.items():
        arguments = set(inspect.signature(kind).parameters)
        expected = arguments - {"inverse_mass", "schedule", "scheme"} | (
            cycle if "schedule" in arguments else set()
        )
        assert set(argument_types(name)) == expected


def test_mclmc_learns_a_step_size_where_none_is_given():
    learned, given = (
        resolve("digits", {"sampler": "mclmc"}),
        resolve("digits", {"sampler": "mclmc", "step_size": 0.3}),
    )
    assert (learned.sampler.adapt, arguments_of(learned.sampler)["step_size"]) == (True, None)
    assert (given.sampler.adapt, arguments_of(given.sampler)["step_size"]) == (False, 0.3)
    both = with_arguments(MCLMC(), {"step_size": 0.3, "adapt": True})
    assert (both.adapt, arguments_of(both)["step_size"]) == (True, 0.3)


def test_cycles_are_a_schedule():
    run = resolve("digits", {"sampler": "sghmc", "cycle_length": 5, "cycle_exploration": 0.5})
    assert run.sampler.schedule == CosineCyclical(5, keep=1, exploration=0.5)
    assert resolve("fashion-lenet", {"cycle_length": 0}).sampler.schedule is None
    assert resolve("fashion-lenet", {"cycle_keep": 1}).sampler.schedule == CosineCyclical(5, 1, 0.6)


def test_an_integrator_is_given_by_name():
    run = resolve("digits", {"integrator": "two_stage"})
    assert run.sampler.integrator is TWO_STAGE
    assert run.flat()["integrator"] == "two_stage"
    assert vars(make_sampler("hmc", arguments_of(run.sampler))) == vars(run.sampler)


@pytest.mark.parametrize(
    ("sampler", "given", "message"),
    [
        ("sghmc", {"adapt": True}, "--adapt is not a setting of --sampler sghmc: .* hmc, adjusted_mclmc, mclmc$"),
        ("sghmc", {"adapt": False}, "--adapt is not a setting"),  # given, though it changes nothing
        ("hmc", {"batch_size": 64}, "--batch-size is not a setting of --sampler hmc: .* sghmc, sgld, psgld, sgnht"),
        ("sghmc", {"jitter": 0.1}, "--jitter .* sghmc: leave it out, or use one of hmc, adjusted_mclmc$"),
        (
            "sgld",
            {"friction": 1.0},
            "--friction .* use one of ghmc, amagold, sghmc, sgnht, baoab, obabo, ubu, smsubu$",
        ),
        ("sgld", {"refresh_interval": 2}, "--refresh-interval is not"),
        ("sgnht", {"cycle_length": 3}, "--cycle-length is not"),
        ("baoab", {"damping": 0.1}, "--damping is not .* psgld"),
        ("sghmc", {"num_leapfrog": 3}, "--num-leapfrog is not"),
        ("hmc", {"steps_per_iteration": 3}, "--steps-per-iteration is not"),
    ],
)
def test_a_setting_of_another_sampler_is_refused(sampler, given, message):
    with pytest.raises(UserError, match=message):
        resolve("digits", {"sampler": sampler, **given})
