"""`python -m hmc_fast.sample`: the files of a run agree with each other, a run can be repeated and resumed, and
every mistake is one line, status 2 and nothing left behind."""

import dataclasses
import html
import json
import signal
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from hmc_fast import sample, train
from hmc_fast.engine.ensemble.members import Members
from hmc_fast.engine.loop import Loop
from hmc_fast.presets import build
from hmc_fast.presets.resolve import resolve
from hmc_fast.presets.settings import SampleSettings
from hmc_fast.results.predictions import expected_calibration_error

TINY = "--train-size 100 --chains 2 --burn-in 2 --draws 4 --step-size 0.02 --trajectory-length 0.1 --init prior"
TINY_SGHMC = (
    "--sampler sghmc --train-size 100 --chains 2 --burn-in 2 --draws 4 --thin 2 --step-size 0.002 --friction 20 "
    "--batch-size 30 --steps-per-iteration 5"
)

USER_CODE = """
import torch
from torch import nn

def points(classes=3, labels=None, features=None):
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    y = torch.arange(30) % classes
    if labels is not None:
        y[-1] = labels
    if features is not None:
        x[7, 2] = features
    return x, y, x.clone(), torch.arange(30) % classes

def nan():
    return points(features=float("nan"))

def infinite():
    return points(features=float("inf"))

def negative():
    return points(labels=-1)

def curve():
    x, _, z, _ = points()
    return x, x.sum(1) * 3 + 50, z, z.sum(1) * 3 + 50

def pictures():
    x = torch.randn(30, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return x, torch.arange(30) % 3, x, torch.arange(30) % 3

def broken():
    raise RuntimeError("the disk\\nis full")

def net(dataset):
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, dataset.num_classes or 1))

def dropout(dataset):
    return nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.1), nn.Linear(5, 3))

def batchnorm(dataset):
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, dataset.num_classes or 1))

def narrow(dataset):
    return nn.Linear(5, 3)

def frozen(dataset):
    return nn.Linear(4, 3).requires_grad_(False)
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """The working directory, with a module of the user's and nothing else."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(USER_CODE)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    sys.modules.pop("mine", None)


@pytest.fixture
def no_pictures(monkeypatch):
    """Figures take longer than a tiny run."""
    monkeypatch.setattr(sample, "write_report", lambda *arguments, **options: None)
    monkeypatch.setattr(sample, "first_look_figure", lambda *arguments, **options: None)


def command(*arguments):
    """Exit status, whether it is returned or raised; strings are split at blanks."""
    words = [word for argument in arguments for word in str(argument).split()]
    try:
        return sample.main(words)
    except SystemExit as stop:
        return stop.code


def read(directory):
    predictions = dict(np.load(directory / "predictions.npz"))
    config, metrics = (json.loads((directory / f"{name}.json").read_text()) for name in ("config", "metrics"))
    return config, metrics, predictions, pd.read_csv(directory / "trace.csv"), np.load(directory / "draws.npy")


# --- what a run leaves ---


def test_a_run_on_digits_leaves_files_that_agree(here, capsys):
    assert command("digits --out runs/one --seed 3 --no-progress", TINY) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == "runs/one"
    assert err == ""
    directory = here / "runs" / "one"
    names = {"checkpoint", "config.json", "draws.npy", "figures", "metrics.json", "predictions.npz"}
    assert {path.name for path in directory.iterdir()} == names | {"report.html", "trace.csv"}
    assert len(list((directory / "figures").glob("*.png"))) >= 5
    assert "<html" in (directory / "report.html").read_text()
    config, metrics, predictions, trace, draws = read(directory)

    assert {field.name for field in dataclasses.fields(SampleSettings)} <= set(config)
    assert config["preset"] == "digits"
    assert (config["seed"], config["step_size"], config["burn_in"], config["out"]) == (3, 0.02, 2, "runs/one")
    assert all(config[name] is not None for name in ("chains", "prior_variance", "init", "model", "data", "jitter"))
    assert {"python", "torch", "numpy", "hmc_fast"} <= set(config["versions"])
    assert "git_commit" in config
    assert config["device"]

    columns = "chain iteration phase log_likelihood log_prior energy_error accept_prob accepted divergent"
    assert list(trace) == [*columns.split(), "step_size", "leapfrog_steps", "seconds", "kinetic_energy"]
    assert len(trace) == 2 * (2 + 4)
    assert trace.groupby("phase").iteration.nunique().to_dict() == {"burn_in": 2, "sampling": 4}
    assert set(trace.chain) == {0, 1}
    assert (trace.leapfrog_steps == 5).all()

    assert draws.shape == (4, 2, metrics["params"])
    assert draws.dtype == np.float32, "of a burn-in of two iterations no spread is known"

    probs, labels = predictions["probs"].astype(float), predictions["labels"]
    assert probs.shape == (360, 10)
    assert labels.shape == predictions["epistemic"].shape == predictions["aleatoric"].shape == (360,)
    np.testing.assert_allclose(probs.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(predictions["chain_probs"].mean(0), probs, rtol=1e-4, atol=1e-6)
    entropy = -(probs * np.log(np.maximum(probs, 1e-300))).sum(1)
    np.testing.assert_allclose(predictions["epistemic"] + predictions["aleatoric"], entropy, rtol=1e-3, atol=1e-5)
    assert metrics["accuracy"] == pytest.approx((probs.argmax(1) == labels).mean())
    assert metrics["nll"] == pytest.approx(-np.log(probs[np.arange(360), labels]).mean(), rel=1e-4)
    assert metrics["brier"] == pytest.approx(((probs - np.eye(10)[labels]) ** 2).sum(1).mean(), rel=1e-4)
    assert metrics["ece"] == pytest.approx(expected_calibration_error(probs, labels), abs=1e-3)
    assert predictions["curve_accuracy"][-1] == pytest.approx(metrics["accuracy"])
    assert predictions["curve_nll"][-1] == pytest.approx(metrics["nll"], rel=1e-6)
    assert predictions["single_accuracy"].mean() == pytest.approx(metrics["accuracy_single"])
    assert predictions["single_nll"].mean() == pytest.approx(metrics["nll_single"])
    assert predictions["curve_draws"].tolist() == [2, 4, 6, 8]

    sampling = trace[trace.phase == "sampling"]
    assert metrics["acceptance_rate"] == pytest.approx(sampling.accepted.mean())
    assert metrics["divergences"] == trace.divergent.sum()
    documented = (
        "rhat_function_max rhat_function_share_below_1_1 ess_function_min gradients gradients_per_s seconds"
    )
    assert set(documented.split()) <= set(metrics)
    kinetic = 2 * sampling.kinetic_energy.mean() / metrics["params"]
    assert metrics["kinetic_temperature"] == pytest.approx(kinetic)
    assert metrics["e_bfmi_min"] > 0
    page = html.unescape((directory / "report.html").read_text())
    assert metrics["diagnosis"]
    assert all(sentence in page for sentence in metrics["diagnosis"])
    exact = {"chains": 2, "draws": 4, "burn_in": 2, "train_size": 100, "test_size": 360, "sampler": "hmc"}
    exact |= {"preset": "digits", "seed": 3, "draws_bytes": draws.nbytes, "gradients": trace.leapfrog_steps.sum()}
    assert {name: metrics[name] for name in exact} == exact
    assert metrics["peak_memory_bytes"] > 0
    assert metrics["device"]


def test_draws_give_the_predictions_back(here, no_pictures):
    assert command("digits --out run --draw-dtype float32 --no-progress", TINY) == 0
    config, _, predictions, _, draws = read(here / "run")
    settings = resolve("digits", {"train_size": 100}).settings
    dataset = build.make_dataset(settings)
    posterior, _ = build.make_posterior(settings, dataset, torch.device("cpu"))
    probs = np.mean([posterior.predict(torch.tensor(row), dataset.x_test).mean(0).numpy() for row in draws], axis=0)
    np.testing.assert_allclose(probs, predictions["probs"], rtol=1e-3, atol=1e-5)
    assert config["draw_dtype"] == "float32"


def test_a_run_of_sghmc(here, no_pictures):
    assert command("digits --out run --no-progress", TINY_SGHMC) == 0
    config, metrics, predictions, trace, draws = read(here / "run")
    assert config["batch_size"] == 30
    assert metrics["acceptance_rate"] is None
    assert metrics["sampler"] == "sghmc"
    assert len(trace) == 2 * (2 + 4 * 2)
    assert draws.shape[0] == len(predictions["curve_accuracy"]) == 4
    assert metrics["gradients"] == trace.leapfrog_steps.sum() == 2 * 10 * 5


def yacht(folder):
    generator = np.random.default_rng(0)
    x = generator.normal(5, 3, (60, 3))
    np.savetxt(folder / "yacht.txt", np.column_stack([x, 200 + 30 * x[:, 0] + generator.normal(0, 5, 60)]))
    return np.loadtxt(folder / "yacht.txt")


@pytest.mark.slow
def test_a_regression_speaks_in_original_units(here, capsys):
    table = yacht(here)
    flags = "--data-dir . --out run --chains 2 --burn-in 30 --draws 10 --step-size 0.003 --trajectory-length 0.15"
    assert command("uci-yacht --seed 1 --init model --test-in-burn-in True --prior-variance 0.1", flags) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "run"
    config, metrics, predictions, _, _ = read(here / "run")
    mean, variance, y = (predictions[name].astype(float) for name in ("mean", "variance", "labels"))
    assert len(y) == metrics["test_size"] == 6
    assert metrics["train_size"] == 54
    assert all(np.abs(table[:, -1] - value).min() < 1e-3 for value in y)
    assert metrics["rmse"] == pytest.approx(np.sqrt(((mean - y) ** 2).mean()))
    density = -0.5 * ((y - mean) ** 2 / variance + np.log(2 * np.pi * variance))
    assert metrics["log_likelihood"] == pytest.approx(density.mean())
    assert predictions["curve_rmse"][-1] == pytest.approx(metrics["rmse"], rel=1e-4)
    assert predictions["curve_log_likelihood"][-1] == pytest.approx(metrics["log_likelihood"], rel=1e-4)
    assert metrics["rmse"] < table[:, -1].std()
    assert "accuracy" not in metrics
    np.testing.assert_allclose(predictions["epistemic"] + predictions["aleatoric"], variance, rtol=1e-5)
    assert (here / "run" / "report.html").exists()
    assert config["preset"] == "uci-yacht"


def test_the_default_directory_is_named_after_preset_and_time(here, no_pictures, capsys):
    assert command("--no-progress", TINY) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("runs/digits-2")
    assert (here / last / "metrics.json").exists()


def test_progress_says_what_comes_and_what_came(here, no_pictures, capsys):
    assert command("--out run", TINY) == 0
    out, err = capsys.readouterr()
    headline, *diagnosis, last = out.splitlines()
    assert diagnosis == json.loads((here / "run" / "metrics.json").read_text())["diagnosis"]
    assert headline.startswith("BMA accuracy 0.")
    assert last == "run"
    assert "memory on" in err


# --- where it may begin, and with what ---


def test_chains_begin_at_trained_weights(here, no_pictures):
    flags = ["--train-size", "300", "--epochs", "20", "--out", "w.safetensors"]
    assert train.main(["digits", *flags]) == 0
    still = "--step-size 1e-6 --trajectory-length 1e-6 --burn-in 0 --draws 1 --chains 2"
    assert command("--no-progress --out run --init w.safetensors --draw-dtype float32", still) == 0
    _, metrics, _, _, draws = read(here / "run")
    from safetensors.numpy import load_file

    weights = np.concatenate([w.ravel() for w in load_file(here / "w.safetensors").values()])
    assert sorted(weights)[::50] == pytest.approx(sorted(draws[0, 0])[::50], abs=1e-4)
    np.testing.assert_allclose(draws[0, 0], draws[0, 1], atol=1e-4)
    assert metrics["accuracy"] > 0.8


def test_init_model_gives_every_chain_a_network_of_its_own(here, no_pictures):
    still = "--train-size 50 --step-size 1e-6 --trajectory-length 1e-6 --burn-in 0 --draws 1 --chains 3"
    assert command("--no-progress --out run --init model", still) == 0
    draws = np.load(here / "run" / "draws.npy").astype(float)[0]
    assert min(np.abs(draws[i] - draws[j]).max() for i, j in ((0, 1), (0, 2), (1, 2))) > 0.05


MILE = (
    "--sampler mclmc --init train --train-size 200 --train-epochs 6 --train-batch-size 30 --chains 3 "
    "--step-size 1e-4 --burn-in 0 --draws 2 --draw-dtype float32"
)


def test_chains_begin_at_members_trained_together(here, no_pictures, capsys, monkeypatch):
    """MILE in one command: each from the network that --init model gives it."""
    assert command("--out run", MILE) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("trained")]
    assert "trained 3 members in 6 epochs (of at most 6)" in line
    assert "accuracy 0." in line
    config, metrics, *_, draws = read(here / "run")
    assert (config["init"], config["train_epochs"], config["train_optimizer"]) == ("train", 6, "adamw")
    members = np.load(here / "run" / "checkpoint" / "members.npy")
    np.testing.assert_allclose(draws[0], members, atol=0.01)
    assert metrics["accuracy"] > 0.5

    still = "--train-size 200 --step-size 1e-9 --trajectory-length 1e-9 --burn-in 0 --draws 1 --chains 3"
    assert command("--out fresh --no-progress --init model --draw-dtype float32", still) == 0
    moved = np.abs(members - np.load(here / "fresh" / "draws.npy")[0]).max(1)
    assert ((moved > 0.01) & (moved < 0.5)).all()

    monkeypatch.setattr(Members, "epoch", lambda self: pytest.fail("it is trained already"))
    assert command("--resume --out run --no-progress") == 0
    assert np.array_equal(np.load(here / "run" / "draws.npy"), draws)


def test_ctrl_c_during_training_says_how_to_go_on(here, no_pictures, capsys, monkeypatch):
    assert command("--out whole --no-progress", MILE) == 0
    with monkeypatch.context() as patch:
        patch.setattr(Members, "epoch", lambda self: signal.raise_signal(signal.SIGINT))
        assert command("--out run --no-progress", MILE) == 130
    assert capsys.readouterr().err == ("interrupted; to continue: python -m hmc_fast.sample --out run --resume\n")
    assert command("--resume --out run --no-progress") == 0
    assert np.array_equal(np.load(here / "run" / "draws.npy"), np.load(here / "whole" / "draws.npy"))


@pytest.mark.parametrize("data", ["mine:points", "mine:curve"])
def test_a_users_model_and_data(here, no_pictures, data):
    flags = "--no-progress --out run --model mine:net --chains 2 --burn-in 1 --draws 2 --step-size 0.01"
    assert command(flags, "--trajectory-length 0.05 --data", data) == 0
    config, metrics, *_ = read(here / "run")
    assert config["data"] == data
    assert metrics["params"] == (4 * 5 + 5) + (5 + 1) * (3 if data == "mine:points" else 1)
    assert ("accuracy" in metrics) == (data == "mine:points")


def draws_of(name, *arguments):
    assert command("--no-progress --out", name, *arguments) == 0
    return np.load(f"{name}/draws.npy")


TINY_PSGLD = (
    "--sampler psgld --train-size 100 --chains 2 --burn-in 2 --draws 4 --step-size 1e-6 --damping 0.01 "
    "--batch-size 30 --steps-per-iteration 5"
)


@pytest.mark.parametrize("flags", [TINY, TINY_SGHMC, TINY_PSGLD])
def test_same_seed_same_draws_another_seed_others(here, no_pictures, flags):
    first, again, other = (
        draws_of("a", flags),
        draws_of("b", flags, "--capacity 1"),
        draws_of("c", flags, "--seed 1"),
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


# --- mistakes ---

OUT = "--out out"
MISTAKES = {
    "preset": ("digit", "unknown preset 'digit'; did you mean digits?"),
    "flag": ("--step_sise 1", "unknown option --step_sise; did you mean --step-size?"),
    "value": ("--chains two", "two"),
    "sampler": ("--sampler nuts", "nuts"),
    "prior": ("--prior cauchy", "cauchy"),
    "precision": ("--precision fp8", "fp8"),
    "device": ("--device tpu", "device 'tpu' is unknown"),
    "no such device": ("--device cuda:99", "device 'cuda:99' does not exist here"),
    "model": ("--model net", "model 'net' is unknown"),
    "data": ("--data cifar", "data set 'cifar' is unknown"),
    "no module": ("--model nowhere_x:net", "no module 'nowhere_x'"),
    "no callable": ("--data mine:nothing", "has no 'nothing'"),
    "broken data": ("--data mine:broken", "failed: RuntimeError: the disk is full (mine.py, line"),
    "missing data": ("uci-yacht", "uci-yacht needs data/yacht.txt"),
    "split": ("uci-yacht --data-dir folder --split -1", "split -1"),
    "nan": ("--data mine:nan --model mine:net", "training set: NaN or infinity in the features of row 7"),
    "inf": ("--data mine:infinite --model mine:net", "NaN or infinity in the features of row 7"),
    "label": ("--data mine:negative --model mine:net", "label -1 in row 29"),
    "image size": ("--data mine:pictures --model lenet", "square images of at least 16 x 16 pixels, not 8 x 8"),
    "no image": ("--model resnet20", "needs images"),
    "narrow": ("--data mine:points --model mine:narrow", "does not accept examples of shape (4,)"),
    "batchnorm preset": ("--data mine:pictures --model resnet20 --norm batch", "use FRN or GroupNorm"),
    "batchnorm": ("--data mine:points --model mine:batchnorm", "use FRN or GroupNorm"),
    "batchnorm regression": ("--data mine:curve --model mine:batchnorm --init prior", "use FRN or GroupNorm"),
    "dropout": ("--data mine:points --model mine:dropout", "drops activations at random"),
    "nothing to sample": ("--data mine:points --model mine:frozen", "nothing to sample"),
    "option of another model": ("--norm frn", "norm 'frn'"),
    "activation": ("--activation sine", "activation 'sine' is unknown"),
    "batch": ("--sampler sghmc --train-size 100 --batch-size 101", "batch size 101"),
    "negative batch": ("--sampler sghmc --batch-size -1", "batch size -1"),
    "step size": ("--step-size 0", "step size 0.0 must be a positive number"),
    "negative step size": ("--step-size -0.1", "step size -0.1"),
    "nan step size": ("--step-size nan", "step size nan"),
    "sghmc step size": ("--sampler sghmc --step-size 0", "step size 0.0"),
    "friction": ("--sampler sghmc --friction 0", "friction 0.0"),
    "step size times friction": ("--sampler sghmc --step-size 0.1 --friction 10", "it must be under 1"),
    "psgld burn-in": ("--sampler psgld --burn-in 0", "burn_in is 0"),
    "setting of another sampler": ("--sampler sgld --friction 3", "--friction is not a setting of --sampler sgld"),
    "trajectory": ("--trajectory-length -1", "trajectory length -1.0"),
    "jitter": ("--jitter 1", "jitter 1.0 must lie in [0, 1)"),
    "temperature": ("--temperature 0", "temperature 0.0 must be a positive number"),
    "infinite temperature": ("--temperature inf", "temperature inf"),
    "variance": ("--prior-variance 0", "--prior-variance 0.0 must be a positive number"),
    "negative variance": ("--prior-variance -1", "--prior-variance -1.0"),
    "chains": ("--chains 0", "chains 0 must be at least 1"),
    "chains from the model": ("--chains -1 --init model", "chains -1 must be at least 1"),
    "draws": ("--draws 0", "draws 0 must be at least 1"),
    "thin": ("--thin 0", "thin 0"),
    "burn-in": ("--burn-in -1", "burn_in -1"),
    "cycle": ("--sampler sghmc --cycle-length -2", "cycle"),
    "cycle keep": ("--sampler sghmc --cycle-length 3 --cycle-keep 4", "cycle"),
    "micro batch": ("--micro-batch-size 0", "micro batch size 0"),
    "capacity": ("--capacity much", "capacity 'much' is invalid"),
    "small capacity": ("--capacity 1KB", "less than one draw"),
    "seed": ("--seed -1", "seed -1 must lie in [0, 2**63)"),
    "huge seed": (f"--seed {2**64}", "--seed: '18446744073709551616' must lie between -2**63 and 2**63"),
    "train size": ("--train-size 1438", "training size 1438 must be in 1..1437"),
    "negative train size": ("--train-size -1", "--train-size -1"),
    "init": ("--init nothing", "nothing"),
    "training alone": ("--train-epochs 3", "--train-epochs is a setting of --init train: add that, or leave"),
    "training of a model": ("--init model --train-patience 3", "--train-patience is a setting of --init train"),
    "training epochs": ("--init train --train-epochs 0", "epochs 0 must be at least 1"),
    "training batch": ("--init train --train-size 50 --train-batch-size 46", "must be at most 45, the examples"),
    "training optimizer": ("--init train --train-optimizer lion", "lion"),
    "training held out": ("--init train --train-held-out 1", "held_out 1.0 must be a share"),
    "init damaged": ("--init mine.py", "mine.py is not a readable safetensors file"),
    "draws that fit no disk": ("--draws 1000000000", "of them for draws"),
}


def snapshot(folder):
    return {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*"))}


def check_mistake(here, capsys, words, *arguments):
    before = snapshot(here)
    assert command(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("hmc_fast.sample: error: ")
    assert err.count("\n") == 1
    assert words in err
    assert snapshot(here) == before


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_status_2_and_leaves_nothing(here, capsys, name):
    (here / "folder").mkdir()
    yacht(here / "folder")
    arguments, words = MISTAKES[name]
    check_mistake(here, capsys, words, arguments, OUT)


@pytest.mark.parametrize("file", ["a file", "a run", "a finished run", "below a file", "a long name"])
def test_an_out_that_cannot_be(here, capsys, file):
    (here / "file").write_text("mine")
    (here / "run").mkdir()
    (here / "run" / ("draws.npy" if file == "a finished run" else "config.json")).write_text("{}")
    out, words = {
        "a file": ("file", "file is a file: choose another directory"),
        "below a file": ("file/deeper/run", "cannot be written"),
        "a long name": ("x" * 300, "choose a shorter path"),
    }.get(file, ("run", "run already contains a run"))
    check_mistake(here, capsys, words, TINY, "--out", out)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has 0 rows"),
        ("1 2\n3\n", "ragged"),
        ("1 2\n3 x\n", "not numeric"),
        ("1 2\n3 nan\n", "row 1 contains NaN"),
    ],
)
def test_a_bad_file_of_numbers(here, capsys, text, words):
    (here / "yacht.txt").write_text(text)
    check_mistake(here, capsys, words, "uci-yacht --data-dir .", OUT)


def test_fashion_mnist_half_or_missing(here, capsys, monkeypatch):
    def no_network(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr("pooch.HTTPDownloader.__call__", no_network)
    check_mistake(here, capsys, "put fashion-mnist_train.csv", "fashion-lenet", OUT)
    check_mistake(here, capsys, "put fashion-mnist_train.csv", "fashion-lenet --data-dir mine.py", OUT)
    (here / "data").mkdir()
    (here / "data" / "fashion-mnist_train.csv").write_text("label,")
    check_mistake(here, capsys, "not fashion-mnist_test.csv", "fashion-lenet", OUT)
    (here / "data" / "fashion-mnist_test.csv").write_text("")
    check_mistake(here, capsys, "line 1 has 2 columns", "fashion-lenet", OUT)


def test_sghmc_that_blows_up_says_so_and_leaves_nothing(here, capsys):
    flags = "--sampler sghmc --step-size 0.9 --friction 1 --train-size 100 --batch-size 30 --no-progress"
    check_mistake(here, capsys, "diverged to NaN or infinity", flags, OUT)


# --- interruption ---


@pytest.fixture
def ctrl_c(monkeypatch):
    """Sends Ctrl-C in the midst of the iteration with the number given to it."""
    real = Loop._advance

    def at(iteration):
        def iterate(self, bar, number):
            if iteration is not None and self.iteration <= iteration < self.iteration + number:
                signal.raise_signal(signal.SIGINT)
            real(self, bar, number)

        monkeypatch.setattr(Loop, "_advance", iterate)

    yield at
    monkeypatch.setattr(Loop, "_advance", real)


@pytest.mark.parametrize("iteration", [0, 3])
@pytest.mark.parametrize("flags", [TINY, TINY_SGHMC])
def test_ctrl_c_is_130_and_resume_gives_the_very_same_draws(here, no_pictures, ctrl_c, capsys, flags, iteration):
    whole = draws_of("whole", flags, "--seed 5")
    ctrl_c(iteration)
    assert command("--no-progress --seed 5 --out broken", flags) == 130
    out, err = capsys.readouterr()
    assert out == "whole\n"
    assert err == "interrupted; to continue: python -m hmc_fast.sample --out broken --resume\n"
    assert (here / "broken" / "checkpoint" / "state.safetensors").exists()
    assert not {"draws.npy", "metrics.json", "trace.csv"} & {path.name for path in (here / "broken").iterdir()}
    ctrl_c(None)
    assert command("--out broken --resume --no-progress") == 0
    assert capsys.readouterr().out == "broken\n"
    assert np.array_equal(np.load("broken/draws.npy"), whole)
    _, first, *_ = read(here / "whole")
    _, second, *_ = read(here / "broken")
    assert {k: first[k] for k in ("accuracy", "nll", "gradients")} == {
        k: second[k] for k in ("accuracy", "nll", "gradients")
    }


def test_a_finished_run_resumed_stays_as_it_is(here, no_pictures):
    before = draws_of("run", TINY)
    assert command("--out run --resume --no-progress") == 0
    assert np.array_equal(np.load("run/draws.npy"), before)


def test_ctrl_c_while_loading_is_130_and_leaves_nothing(here, capsys, monkeypatch):
    def stop(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "load", stop)
    before = snapshot(here)
    assert command(TINY, OUT) == 130
    assert snapshot(here) == before


@pytest.fixture
def broken_run(here, no_pictures, ctrl_c, capsys):
    ctrl_c(3)
    assert command("--no-progress --seed 5 --out broken", TINY) == 130
    ctrl_c(None)
    capsys.readouterr()
    return here / "broken"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--seed 6", "--seed 6 differs from the run in broken, which has 5"),
        ("--seed 0", "--seed 0 differs from the run in broken, which has 5"),  # the preset's own value
        ("--chains 3", "--chains 3 differs"),
        ("--sampler sghmc", "--sampler sghmc differs"),
        ("--step-size=0.5", "--step-size 0.5 differs"),
        ("--prior-variance 3", "--prior-variance 3.0 differs"),
        ("--data mine:points", "--data mine:points differs"),
        ("--batch-size 30", "--batch-size is not a setting of --sampler hmc"),
    ],
)
def test_resume_with_other_settings_is_refused(broken_run, here, capsys, flags, words):
    check_mistake(here, capsys, words, "--resume --out broken", flags)


def test_resume_with_another_preset_is_refused(broken_run, here, capsys):
    check_mistake(here, capsys, "has preset digits, not uci-yacht", "uci-yacht --resume --out broken")


def test_resume_takes_the_same_settings_and_those_that_change_nothing(broken_run):
    assert command("digits --resume --out broken --seed 5 --no-progress --capacity 2 --device cpu", TINY) == 0


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("config missing", "there is no run to resume"),
        ("config damaged", "config.json is not the config.json of a run"),
        ("config foreign", "config.json is not the config.json of a run"),
        ("checkpoint missing", "there is no checkpoint to resume from"),
        ("checkpoint damaged", "is not a readable checkpoint"),
    ],
)
def test_resume_of_a_damaged_run(broken_run, here, capsys, damage, words):
    config, checkpoint = broken_run / "config.json", broken_run / "checkpoint"
    state, previous = (checkpoint / f"{name}.safetensors" for name in ("state", "previous"))
    if "missing" in damage:
        for path in [config] if "config" in damage else [state, previous]:
            path.unlink()
    elif damage == "config foreign":
        config.write_text("[]")
    elif damage == "config damaged":
        config.write_text(config.read_text()[:50])
    else:
        for path in (state, previous):
            path.write_bytes(path.read_bytes()[:100])
    check_mistake(here, capsys, words, "--resume --out broken")


def test_resume_without_or_with_a_wrong_out(here, capsys):
    check_mistake(here, capsys, "--resume needs --out", "--resume")
    check_mistake(here, capsys, "there is no run to resume", "--resume --out elsewhere")
    check_mistake(here, capsys, "there is no run to resume", "--resume --out mine.py")
