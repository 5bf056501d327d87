"""The command line: presets, flags, help, and one line with status 2 for every mistake."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from hmc_fast import sample, train
from hmc_fast.command_line import main_guard, parse
from hmc_fast.errors import UserError
from hmc_fast.presets.settings import PRESETS, Settings, resolve


@dataclass(frozen=True)
class Options:
    """Do something."""

    step_size: float = 0.1
    """A number."""
    count: int | None = None
    """How many."""
    kind: Literal["red", "green"] = "red"
    """Colour."""
    out: Path | None = None
    """A path."""
    progress: bool = True
    """Show it."""


TABLE = {"first": Options(), "second": Options(step_size=0.5, kind="green")}


def read(*arguments, **options):
    return parse(Options, TABLE, prog="prog", description="Description.", argv=list(arguments), **options)


def test_the_first_preset_is_the_default():
    assert read() == ("first", TABLE["first"])
    assert read("--step-size", "3") == ("first", Options(step_size=3.0))


def test_a_preset_and_flags_on_top_of_it():
    assert read("second") == ("second", TABLE["second"])
    flags = ("--count", "3", "--no-progress", "--out", "a/b", "--kind=red", "--step_size", "1e-3")
    assert read("second", *flags) == ("second", Options(1e-3, 3, "red", Path("a/b"), False))


def test_arguments_of_the_process_are_the_default(monkeypatch):
    monkeypatch.setattr("sys.argv", ["prog", "second", "--count", "2"])
    preset, options = parse(Options, TABLE, prog="prog", description="", argv=None)
    assert (preset, options.count) == ("second", 2)


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
    (["--kind", "blue"], "blue"),
    (["--step-size", "fast"], "fast"),
    (["--step-size"], "--step-size"),
    (["--count", "2.5"], "2.5"),
    (["--count", "many"], "many"),
    (["--progress", "maybe"], "maybe"),
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


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_lists_flags_presets_and_resolved_defaults(flag, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stop:
        read("second", flag, shown=lambda preset, options: dataclasses.replace(options, count=77))
    text = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 0
    for words in ("Description.", "Presets: first, second. Defaults shown: second.", "0.5", "77", "A number."):
        assert words in text
    for name in ("--step-size", "--count", "--kind", "--out", "--no-progress", "python -m prog [PRESET]"):
        assert name in text


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


# --- the two commands ---


@pytest.mark.parametrize("command", [sample, train])
def test_help_of_the_commands(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stop:
        command.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 0
    assert all(preset in text for preset in command.PRESETS)
    for field in dataclasses.fields(command.Settings):
        assert f"-{field.name.replace('_', '-')}" in text


def test_help_of_sample_shows_what_a_preset_leaves_open(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        sample.main(["fashion-lenet", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "Defaults shown: fashion-lenet." in text
    for value in ("109.5", "0.000913", "0.02"):
        assert f"default: {value})" in text


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("sampler", ["hmc", "sghmc", "sgld", "psgld", "sgnht", "baoab"])
def test_every_preset_is_complete_for_every_sampler(preset, sampler):
    settings = resolve(preset, dataclasses.replace(PRESETS[preset], sampler=sampler))
    for name in ("chains", "burn_in", "draws", "step_size", "init", "model", "data", "prior_variance"):
        assert getattr(settings, name) is not None
    assert sample.make_sampler(settings).name == sampler
    assert settings.chains * settings.draws > 1
    if sampler == "hmc":
        assert settings.trajectory_length >= settings.step_size


def test_a_flag_wins_over_the_table():
    settings = resolve("digits", dataclasses.replace(PRESETS["digits"], chains=7, step_size=0.5))
    assert (settings.chains, settings.step_size) == (7, 0.5)
    assert settings.burn_in == resolve("digits", PRESETS["digits"]).burn_in


def test_adapting_leaves_open_what_is_learned():
    settings = resolve("digits", dataclasses.replace(PRESETS["digits"], adapt=True))
    assert (settings.step_size, settings.trajectory_length, settings.jitter) == (None, None, None)
    assert settings.burn_in == 200
    assert sample.make_sampler(settings).adapt
    given = resolve("digits", dataclasses.replace(PRESETS["digits"], adapt=True, burn_in=30, trajectory_length=0.5))
    assert (given.burn_in, sample.make_sampler(given).trajectory_length) == (30, 0.5)


@pytest.mark.parametrize(
    ("sampler", "setting", "message"),
    [
        ("sghmc", {"adapt": True}, "--adapt is not a setting of --sampler sghmc"),
        ("hmc", {"batch_size": 64}, "--batch-size is not a setting of --sampler hmc: .* sghmc, sgld, psgld, sgnht"),
        ("sghmc", {"jitter": 0.1}, "--jitter is not a setting of --sampler sghmc: leave it out, or use one of hmc"),
        ("sgld", {"friction": 1.0}, "--friction .* sgld: leave it out, or use one of sghmc, sgnht, baoab"),
        ("sgld", {"refresh_interval": 2}, "--refresh-interval is not"),
        ("sgnht", {"cycle_length": 3}, "--cycle-length is not"),
        ("baoab", {"damping": 0.1}, "--damping is not .* psgld"),
    ],
)
def test_a_setting_of_another_sampler_is_refused(sampler, setting, message):
    with pytest.raises(UserError, match=message):
        resolve("digits", dataclasses.replace(PRESETS["digits"], sampler=sampler, **setting))


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_prior_variance_that_is_not_positive(value):
    with pytest.raises(UserError, match=r"--prior-variance .* must be a positive number"):
        resolve("digits", Settings(prior_variance=value))


def test_both_commands_know_the_same_presets():
    assert set(sample.PRESETS) == set(train.PRESETS)
    for preset, settings in train.PRESETS.items():
        assert (settings.data, settings.model) == (PRESETS[preset].data, PRESETS[preset].model)
    assert next(iter(sample.PRESETS)) == "digits"
