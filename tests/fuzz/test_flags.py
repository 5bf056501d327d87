"""Flags of all commands with any values, up to the point where sampling, training or drawing would begin.

Covered: parsing, presets, data, model, posterior, initial states and the sampler's first state. Not covered: the
choice whether to compile, the iterations themselves, and what is written. Runs of 100,000 iterations and of a
quarter of a gigabyte are refused here as larger ones are elsewhere, so that no input that is right takes long.
"""

import functools

import pytest
import torch
from fuzzing import Planned, command, command_lines, examples
from hypothesis import example, given

import hmc_fast.datasets
import hmc_fast.report.__main__ as report
from finished_run import make_run
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


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers(sampler, tmp_path):
    @examples(10)
    @given(command_lines(names(sample_flags("digits", {"sampler": sampler}))[1:20]))
    def holds(line):
        sampled(tmp_path, *line, ("--sampler", sampler))

    holds()


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
