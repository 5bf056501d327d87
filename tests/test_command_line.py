"""The command line: presets, flags, help, and one line with status 2 for every mistake."""

import dataclasses
import inspect
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from hmc_fast import SGHMC, sample, train
from hmc_fast.command_line import Parsed, flags_of, main_guard, parse, setting
from hmc_fast.errors import UserError
from hmc_fast.experiments.__main__ import main as experiments_main
from hmc_fast.experiments.settings import PRESETS as QUESTIONS
from hmc_fast.flag_values import fits
from hmc_fast.presets.resolve import sample_flags
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


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "not enough memory: use fewer --chains or --draws"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "not enough memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 TiB"), "not enough memory"),
        (OSError(36, "File name too long", "aaa"), "'aaa' cannot be used (File name too long): check the path"),
    ],
)
def test_what_the_machine_refuses_is_one_line(error, words, capsys):
    def function():
        raise error

    assert main_guard(function, "prog") == 2
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1


def test_torch_and_numpy_say_that_memory_is_short_in_these_words(capsys):
    for function in (lambda: torch.empty(2**50), lambda: torch.empty(2**40, 2**40), lambda: np.empty(2**50)):
        assert main_guard(function, "prog") == 2
        assert "not enough memory" in capsys.readouterr().err


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
    assert re.search(
        r"--cycle-length INT    sghmc, sgld, psgld, baoab, obabo, ubu, smsubu: .* \(default: 5\)\n", own
    )
    assert "--trajectory-length" in others
    assert "default: " not in others
    assert "(default: 0.02)" in text.split("\nPosterior:")[1]
    text = shown_by(capsys, sample.main, "fashion-lenet", "--sampler", "hmc", "--help")
    assert "Settings of hmc:" in text
    assert "(default: 0.0005)" in text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_signal_ends_a_command_with_its_status(number, wrapped):
    def work():
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt as error:
            if wrapped:  # as compiled modules do while they are imported
                raise ImportError from error
            raise

    usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    before = signal.signal(number, usual)
    try:
        assert main_guard(work, "prog") == 128 + number
        assert signal.getsignal(number) == usual
    finally:
        signal.signal(number, before)


def test_a_closed_pipe_changes_no_status():
    """Python's own flush at its end would make it 120."""
    code = """
import sys
from hmc_fast.command_line import main_guard
from hmc_fast.messages import tell
raise SystemExit(main_guard(lambda: tell("a line", file=sys.stdout), ""))
"""
    read, write = os.pipe()
    os.close(read)
    with open(write, "wb") as log:
        command, environment = [sys.executable, "-c", code], {**os.environ, "PYTHONUNBUFFERED": ""}
        done = subprocess.run(command, stdout=log, stderr=log, env=environment, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("value", "kind", "good"),
    [
        (2**63 - 1, int, True),
        (-(2**63) + 1, int | None, True),
        (2**63, int, False),
        (1.0, int, False),
        (True, int, False),
        (None, int, False),
        (None, int | None, True),
        (1, float, True),
        (1, bool, False),
        ("a", str, True),
        ("\0", Path, False),
        ("\ud800", str, False),
    ],
)
def test_values_from_json_have_the_type_of_their_setting(value, kind, good):
    assert fits(value, kind) is good
