"""The command line: presets, flags, help, and one line with status 2 for every mistake."""

import dataclasses
import inspect
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from hmc_fast import HMC, MCLMC, SGHMC, TWO_STAGE, CosineCyclical, sample, samplers, train
from hmc_fast.command_line import Parsed, flags_of, main_guard, parse, setting
from hmc_fast.errors import UserError
from hmc_fast.experiments.__main__ import main as experiments_main
from hmc_fast.experiments.settings import PRESETS as QUESTIONS
from hmc_fast.presets.resolve import resolve, sample_flags
from hmc_fast.presets.sampler_arguments import SAMPLERS, argument_types, arguments_of, make_sampler, with_arguments
from hmc_fast.presets.settings import FREE_ON_RESUME, SampleSettings
from hmc_fast.presets.table import PRESETS


@dataclass(frozen=True)
class Options:
    """Do something."""

    step_size: float = setting(0.1, "A number.", topic="Numbers", unit="lengths")
    count: int | None = setting(None, "How many.", topic="Numbers")
    kind: Literal["red", "green"] = setting("red", "Colour.", topic="Others")
    out: Path | None = setting(None, "A path.", topic="Others")
    progress: bool = setting(True, "Show 100 % of it.", topic="Others")


TABLE = {"first": Options(), "second": Options(step_size=0.5, kind="green")}


def flags(preset, given):
    return flags_of(dataclasses.replace(TABLE[preset], **given))


def read(*arguments):
    return parse(flags, TABLE, prog="prog", description="Description.", argv=list(arguments))


def test_the_first_preset_is_the_default_and_only_what_was_given_is_told():
    assert read() == Parsed("first", {}, names_preset=False)
    assert read("--step-size", "3") == Parsed("first", {"step_size": 3.0}, names_preset=False)
    assert read("first", "--step-size", "0.1") == Parsed("first", {"step_size": 0.1}, names_preset=True)


def test_values_have_the_types_of_their_settings():
    words = ["--count", "3", "--no-progress", "--out", "a/b", "--kind=red", "--step_size", "1e-3"]
    given = read("second", *words).given
    assert given == {"count": 3, "progress": False, "out": Path("a/b"), "kind": "red", "step_size": 1e-3}
    assert dataclasses.replace(TABLE["second"], **given) == Options(1e-3, 3, "red", Path("a/b"), False)


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        (["--progress"], True),
        (["--progress", "True"], True),
        (["--progress=false"], False),
        (["--no-progress"], False),
        (["--no_progress"], False),
        (["--no-progress", "--progress"], True),  # the last one counts
    ],
)
def test_a_switch(arguments, value):
    assert read(*arguments).given == {"progress": value}


@pytest.mark.parametrize("value", ["-0.5", "-1e-3", "-inf"])
def test_a_negative_number_is_no_option(value):
    assert read("--step-size", value).given == {"step_size": float(value)}
    assert read(f"--step-size={value}", "--count", "2").given == {"step_size": float(value), "count": 2}


def test_arguments_of_the_process_are_the_default(monkeypatch):
    monkeypatch.setattr("sys.argv", ["prog", "second", "--count", "2"])
    assert parse(flags, TABLE, prog="prog", description="") == ("second", {"count": 2}, True)


MISTAKES = [
    (["thrid"], "unknown preset 'thrid': use one of first, second"),
    (["secnd"], "unknown preset 'secnd'; did you mean second?"),
    (["first", "second"], "unexpected argument 'second': the preset comes first"),
    (["--count", "3", "other"], "unexpected argument 'other'"),
    (["--stepsize", "3"], "unknown option --stepsize; did you mean --step-size?"),
    (["--setp-size=3"], "unknown option --setp-size; did you mean --step-size?"),
    (["--zzz", "3"], "unknown option --zzz (see --help)"),
    (["--no-progres"], "unknown option --no-progres; did you mean --no-progress?"),
    (["-x"], "unknown option -x"),
    (["--kind", "blue"], "--kind: 'blue' is unknown: use one of red, green"),
    (["--kind", "gren"], "--kind: 'gren' is unknown; did you mean green?"),
    (["--step-size", "fast"], "--step-size: 'fast' is not a number"),
    (["--step-size"], "--step-size: expected one argument"),
    (["--step-size", "--count", "3"], "--step-size: expected one argument"),
    (["--count", "2.5"], "--count: '2.5' is not a whole number"),
    (["--count", "many"], "--count: 'many' is not a whole number"),
    (["--progress", "maybe"], "maybe"),
    (["--progress=maybe"], "maybe"),
    (
        ["--step", "3"],
        "unknown option --step",
    ),  # no abbreviations: a new flag must not change what an old one means
    (["--help", "--zzz"], "unknown option --zzz"),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES)
def test_a_mistake_is_one_line_and_status_2(arguments, words, capsys):
    with pytest.raises(SystemExit) as stop:
        read(*arguments)
    out, err = capsys.readouterr()
    assert stop.value.code == 2
    assert out == ""
    assert err.startswith("prog: error: ")
    assert err.count("\n") == 1
    assert words in err
    assert not set(err) & set("│╭╰─\x1b")


def shown_by(capsys, command, *arguments):
    """What it prints before it exits with status 0."""
    with pytest.raises(SystemExit) as stop:
        command(list(arguments))
    assert stop.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_is_grouped_by_topic_with_defaults_and_units(flag, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = shown_by(capsys, lambda words: read(*words), "second", flag, "--count", "77")
    assert text.startswith("usage: python -m prog [PRESET] [--flags]\n")
    assert max(map(len, text.splitlines())) <= 80
    words = " ".join(text.split())
    assert "Presets: first, second. Defaults shown: second." in words
    assert (
        "Numbers: --step-size FLOAT A number. (default: 0.5 lengths) --count INT How many. (default: 77)" in words
    )
    assert "Others: --kind {red,green} Colour. (default: green) --out PATH A path. --progress, --no" in words
    assert "Show 100 % of it. (default: on)" in words


@pytest.mark.parametrize(
    ("raised", "status", "line"),
    [
        (None, 0, ""),
        (UserError("two\nlines of it"), 2, "prog: error: two lines of it\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_exit_statuses(raised, status, line, capsys):
    def function():
        if raised is not None:
            raise raised

    assert main_guard(function, "prog") == status
    assert capsys.readouterr().err == line


def test_a_mistake_of_ours_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        main_guard(lambda: 1 / 0, "prog")


# --- the commands ---


@pytest.mark.parametrize(
    ("main", "presets", "flags"),
    [
        (sample.main, PRESETS, sample_flags("digits", {})),
        (train.main, train.PRESETS, flags_of(train.TrainSettings())),
        (experiments_main, QUESTIONS, flags_of(QUESTIONS["digits"])),
    ],
)
@pytest.mark.parametrize("columns", [80, 120])
def test_help_of_the_commands(main, presets, flags, columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    text = shown_by(capsys, main, "--help")
    assert max(map(len, text.splitlines())) <= columns
    assert all(preset in text for preset in presets)
    for flag in flags:
        assert f"  --{flag.name.replace('_', '-')}" in text
        assert f"\n{flag.topic}:\n" in text


def test_help_of_sample_is_that_of_the_preset_and_the_sampler(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    text = shown_by(capsys, sample.main, "fashion-lenet", "--help")
    assert "Defaults shown: fashion-lenet." in text
    own, others = text.split("Settings of sghmc:")[1].split("\nRun:")[0].split("Settings of other samplers:")
    assert "(default: 0.000913)" in own
    documented = dict(re.findall(r"^    (\w+): (.*)", inspect.getdoc(SGHMC), re.MULTILINE))
    assert f"--friction FLOAT      sghmc: {documented['friction']} (default: 109.5)\n" in own
    assert re.search("ghmc: .*\n *amagold: .*\n *sgnht: ", own), "what the same flag means to other samplers"
    assert re.search(r"--cycle-length INT    sghmc, sgld, psgld, baoab, obabo: .* \(default: 5\)\n", own)
    assert "--trajectory-length" in others
    assert "default: " not in others
    assert "(default: 0.02)" in text.split("\nPosterior:")[1]
    text = shown_by(capsys, sample.main, "fashion-lenet", "--sampler", "hmc", "--help")
    assert "Settings of hmc:" in text
    assert "(default: 0.0005)" in text


def test_every_public_sampler_is_on_the_command_line():
    assert set(SAMPLERS.values()) == set(samplers.SAMPLERS)
    cycle = {"cycle_length", "cycle_keep", "cycle_exploration"}
    for name, kind in SAMPLERS.items():
        arguments = set(inspect.signature(kind).parameters)
        expected = arguments - {"inverse_mass", "schedule", "scheme"} | (
            cycle if "schedule" in arguments else set()
        )
        assert set(argument_types(name)) == expected


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
        ("sgld", {"friction": 1.0}, "--friction .* use one of ghmc, amagold, sghmc, sgnht, baoab, obabo$"),
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


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_prior_variance_that_is_not_positive(value):
    with pytest.raises(UserError, match=r"--prior-variance .* must be a positive number"):
        resolve("digits", {"prior_variance": value})


def test_what_changes_no_draw():
    free = {"out", "resume", "device", "capacity", "progress", "micro_batch_size", "data_dir", "graph", "profile"}
    assert free == FREE_ON_RESUME


def test_both_commands_know_the_same_presets():
    assert set(PRESETS) == set(train.PRESETS)
    for preset, settings in train.PRESETS.items():
        of_sample = resolve(preset).settings
        assert (settings.data, settings.model) == (of_sample.data, of_sample.model)
    assert next(iter(PRESETS)) == "digits"
    assert isinstance(resolve("digits").sampler, HMC)
    assert isinstance(resolve("fashion-lenet").sampler, SGHMC)
