"""Flags of all commands with any values, up to the point where sampling, training or drawing would begin.

Covered: parsing, presets, data, model, posterior, initial states and the sampler's first state. Not covered: the
choice whether to compile, the iterations themselves, and what is written. Runs of 100,000 iterations and of a
quarter of a gigabyte are refused here as larger ones are elsewhere, so that no input that is right takes long.
"""

import functools

import pytest
import torch
from hypothesis import example, given

import hmc_fast.datasets
import hmc_fast.report.__main__ as report
from finished_run import make_run
from fuzzing import Planned, command, command_lines, examples
from hmc_fast import models, sample, train
from hmc_fast.command_line import flags_of, option
from hmc_fast.engine import runner, storage
from hmc_fast.engine.execution import Choice
from hmc_fast.experiments.__main__ import NAMES
from hmc_fast.experiments.__main__ import main as experiments_main
from hmc_fast.experiments.run_cache import Lab
from hmc_fast.experiments.settings import PRESETS as QUESTIONS
from hmc_fast.presets import build
from hmc_fast.presets.resolve import sample_flags
from hmc_fast.presets.sampler_arguments import SAMPLERS
from hmc_fast.results import trace

LONG = "9" * 400
TINY = ["--train-size", "40", "--chains", "2", "--draws", "3", "--burn-in", "2", "--no-progress", "--device", "cpu"]


def stop(*_, **__):
    raise Planned


@pytest.fixture(autouse=True)
def _planned(monkeypatch):
    """Nothing long begins."""
    load = functools.cache(hmc_fast.datasets.load_digits)
    monkeypatch.setattr(hmc_fast.datasets, "load_digits", load)
    monkeypatch.setattr(runner, "choose", lambda target, *_, **__: Choice(target.prepared(path="eager"), ()))
    monkeypatch.setattr(runner.OutputFolder, "create", stop)
    monkeypatch.setattr(Lab, "obtain", stop)
    monkeypatch.setattr(trace, "MOST_ITERATIONS", 100_000)
    for module in (trace, storage, build, models):
        monkeypatch.setattr(module, "free_memory", lambda device: 2**28)
    monkeypatch.setattr(torch.optim.lr_scheduler, "CosineAnnealingLR", stop)
    monkeypatch.setattr(report, "write_report", stop)
    monkeypatch.setattr(report, "write_comparison", stop)


def names(flags):
    """Without --help, which prints pages."""
    return [option(flag.name) for flag in flags]


def sampled(folder, preset, flags, sampler=()):
    return command("sample", sample.main, [*preset, *TINY, *sampler, *flags], folder)


def test_sample(number, tmp_path):
    @examples(number)
    @given(command_lines(names(sample_flags("digits", {})), ("digits", "uci-yacht", "fashion-lenet")))
    @example(([], ["--step-size", "5e-324"]))
    @example(([], ["--trajectory-length", "1e308"]))
    @example(([], ["--capacity", f"{LONG}GB"]))
    @example(([], ["--capacity", LONG]))
    @example(([], ["--chains", "2147483648"]))
    @example(([], ["--chains", "2147483648", "--init", "model"]))
    @example(([], ["--width", "1000000000"]))
    @example(([], ["--width", "40000"]))
    @example((["fashion-resnet20"], ["--data", "digits", "--width", "100000"]))
    @example(([], ["--micro-batch-size", "9223372036854775808"]))
    @example(([], ["--thin", "1000000000000"]))
    @example(([], ["--thin", "1e12"]))
    @example(([], ["--draws", "9223372036854775807", "--thin", "9223372036854775807"]))
    @example(([], ["--draws", "100000000"]))
    @example(([], ["--burn-in", "100000000", "--adapt"]))
    @example(([], ["--burn-in", "90000", "--adapt"]))
    @example(([], ["--sampler", "sghmc", "--cycle-length", "9223372036854775807", "--cycle-keep", "1"]))
    @example(([], ["--sampler", "sghmc", "--cycle-length", "9223372036854775808"]))
    @example(([], ["--init", "a" * 300]))
    @example(([], ["--out", "a" * 300]))
    @example((["uci-yacht"], ["--data-dir", "a" * 300]))
    @example(([], ["--out", "new/" + "a" * 300]))
    @example(([], ["--out", "/".join(["a" * 200] * 30)]))
    def holds(line):
        sampled(tmp_path, *line)

    holds()


MISTAKES = [
    (["--step-size", "5e-324"], "must lie between 1e-35 and 1e+35"),
    (["--trajectory-length", "1e308"], "1e+3"),
    (["--sampler", "split_hmc", "--trajectory-length", "1e308"], "1e+3"),
    (["--capacity", f"{LONG}GB"], "is invalid: give a number of draws"),
    (["--capacity", LONG], "is invalid: give a number of draws"),
    (["--chains", "2147483648"], "chains 2147483648 of 6,310 parameters take at least"),
    (["--chains", "2147483648", "--init", "model"], "chains 2147483648 of 6,310 parameters take at least"),
    (["--width", "1000000000"], "width 1000000000 makes a layer of 1e+18 weights"),
    (["--micro-batch-size", "9223372036854775808"], "'9223372036854775808' must lie between"),
    (["--thin", "1000000000000"], "iterations, and at most"),
    (["--thin", "1e12"], "'1e12' is not a whole number"),
    (["--sampler", "sghmc", "--cycle-length", "9223372036854775807", "--cycle-keep", "1"], "or cycle length"),
    (["--init", "a" * 300], "File name too long"),
    (["--out", "a" * 300], "has a name longer than 255: choose a shorter path"),
    (["--data-dir", "a" * 300], "has a name longer than 255: choose a shorter path"),
    (["--out", "a\0b"], "holds a character that no name has"),
    (["--data", "uci-../x"], "is no name of a data set"),
    (["--seed", "9" * 5000], "is not a whole number"),
]


@pytest.mark.parametrize(("flags", "words"), MISTAKES)
def test_a_mistake_is_named_before_anything_is_made(flags, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    try:
        status = sample.main([*TINY, *flags])
    except SystemExit as stop:
        status = stop.code
    error = capsys.readouterr().err
    assert (status, error.count("\n")) == (2, 1)
    assert words in error
    assert not list(tmp_path.iterdir())


def test_a_ring_that_does_not_fit_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(storage, "free_memory", lambda device: 100_000)
    assert sample.main([*TINY, "--capacity", "1GB"]) == 2
    assert "capacity '1GB' takes 147.9 KiB on cpu, which has 97.7 KiB free: give less" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers(sampler, tmp_path):
    @examples(10)
    @given(command_lines(names(sample_flags("digits", {"sampler": sampler}))[1:20]))
    @example(([], ["--step-size", "1E40"]))
    @example(([], ["--step-size", "5e-324", "--burn-in", "5"]))
    def holds(line):
        sampled(tmp_path, *line, ("--sampler", sampler))

    holds()


def test_step_sizes_beyond_single_precision_where_the_length_is_learned(tmp_path):
    for value in ("5e-324", "1e40"):
        assert sampled(tmp_path, [], ["--adapt", "--step-size", value]) == 2


def test_integers_of_400_digits(tmp_path):
    for flag in sample_flags("digits", {}):
        if flag.type in (int, int | None):
            for value in (LONG, "-" + LONG, "9" * 5000, "9223372036854775807"):
                status = sampled(tmp_path, [], [option(flag.name), value])
                assert status == 2 or value == "9223372036854775807", flag.name


def test_train(number, tmp_path):
    @examples(number)
    @given(command_lines(names(flags_of(train.TrainSettings())), ("digits", "uci-yacht")))
    @example((["digits"], ["--epochs", LONG]))
    @example((["digits"], ["--width", "1000000000"]))
    @example((["digits"], ["--out", "a" * 300]))
    @example((["digits"], ["--out", "a" * 250]))
    def holds(line):
        preset, flags = line
        argv = [*(preset or ["digits"]), "--train-size", "40", "--device", "cpu", *flags]
        command("train", train.main, argv, tmp_path)

    holds()


def test_experiments(number, tmp_path):
    @examples(number)
    @given(command_lines(names(flags_of(QUESTIONS["digits"])), (*NAMES, "nonsense")))
    @example((["rhat"], ["--cache", "a" * 300]))
    @example((["rhat"], ["--out", "a" * 300]))
    @example((["chains"], ["--seeds", "1000000000000"]))
    @example((["chains"], ["--chains", "2147483648"]))
    def holds(line):
        command("experiments", experiments_main, [*(line[0] or ["rhat"]), *line[1]], tmp_path)

    holds()


def test_report(number, tmp_path):
    make_run(tmp_path / "run", data="digits")
    flags = command_lines(["--out", "--data-dir", "--data", "run"], ("run", "run"))

    @examples(number)
    @given(flags)
    @example((["a" * 300], []))
    @example((["run"], ["run", "--out", "a" * 300]))
    @example((["run"], ["--data-dir", "a" * 300]))
    @example((["run"], ["--data", "no_such_module:make"]))
    def holds(line):
        command("report", report.main, [*line[0], *line[1]], tmp_path)

    holds()
