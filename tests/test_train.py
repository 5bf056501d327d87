"""The training command."""

import re
import sys

import pytest
import torch

from hmc_fast import train
from hmc_fast.datasets import Dataset, load
from hmc_fast.models import build
from hmc_fast.train import load_weights


def command(*arguments):
    """Exit status, whether it is returned or raised."""
    try:
        return train.main([*map(str, arguments)])
    except SystemExit as stop:
        return stop.code


def line_set(outputs_noise=0.1):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(80, 2, generator=generator)
    y = x[:, 0] - 0.5 * x[:, 1] + outputs_noise * torch.randn(80, generator=generator)
    return Dataset("line", x[:60], y[:60], x[60:], y[60:], "regression", y_mean=10.0, y_std=5.0)


def test_command_prints_epochs_and_last_the_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command("digits", "--epochs", 2, "--train-size", 200) == 0
    out, err = capsys.readouterr()
    first, second, last = out.splitlines()
    pattern = r"epoch {}/2  loss \d\.\d{{4}}  train accuracy 0\.\d{{4}}  test accuracy 0\.\d{{4}}  \d+\.\d s"
    assert re.fullmatch(pattern.format(1), first)
    assert re.fullmatch(pattern.format(2), second)
    assert last == "runs/digits-weights.safetensors"
    assert err == ""
    load_weights(tmp_path / last, build("mlp", load("digits"), activation="tanh"))


def test_command_for_regression_speaks_in_original_units(tmp_path, capsys):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(60, generator=generator)
    rows = [f"{a:.4f} {1000 + 300 * a:.3f}" for a in x.tolist()]
    (tmp_path / "yacht.txt").write_text("\n".join(rows))
    out = tmp_path / "deep" / "w"
    assert command("uci-yacht", "--data-dir", tmp_path, "--epochs", 1, "--learning-rate", 1e-9, "--out", out) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert last == str(out)
    assert 40 < float(re.search(r"train rmse (\S+)", first)[1]) < 200  # the deviation of y is about 87


@pytest.fixture
def file(tmp_path):
    (tmp_path / "file").write_text("")
    return tmp_path / "file"


MISTAKES = {
    "preset": (["digit"], "did you mean digits"),
    "option": (["digits", "--epoch", 3], "unknown option --epoch; did you mean --epochs?"),
    "number": (["digits", "--epochs", "two"], "two"),
    "epochs": (["digits", "--epochs", 0], "epochs 0 must be positive"),
    "batch": (["digits", "--batch-size", -1], "batch size -1 must be positive"),
    "rate": (["digits", "--learning-rate", 0], "learning rate 0.0 must be positive"),
    "divergence": (["digits", "--learning-rate", 1e37, "--train-size", 64], "use a learning rate below"),
    "size": (["digits", "--train-size", 10**6], "training size 1000000 must be in 1..1437"),
    "negative size": (["digits", "--train-size", -5], "training size -5 must be in 1..1437"),
    "model": (["digits", "--model", "net"], "model 'net' is unknown"),
    "image": (["digits", "--model", "lenet"], "needs images"),
    "data": (["digits", "--data", "nothing"], "data set 'nothing' is unknown"),
    "file": (["uci-yacht", "--data-dir", "here"], "uci-yacht needs here/yacht.txt"),
    "device": (["digits", "--device", "tpu"], "device 'tpu' is unknown"),
    "no such device": (["digits", "--device", "cuda:99"], "device 'cuda:99' does not exist here"),
    "other device": (["digits", "--device", "meta"], "device 'meta' is not supported"),
    "seed": (["digits", "--seed", 10**30], "seed"),
    "out is a directory": (["digits", "--out", "{here}"], "is a directory: name a file"),
    "out below a file": (["digits", "--out", "{here}/file/w"], "cannot be written"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_command_mistakes(name, file, monkeypatch, capsys):
    monkeypatch.chdir(file.parent)
    arguments, words = MISTAKES[name]
    assert command(*(str(a).format(here=file.parent) for a in arguments)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("hmc_fast.train: error: ")
    assert err.count("\n") == 1
    assert words in err
    assert [p.name for p in file.parent.iterdir()] == ["file"]


def test_ctrl_c_is_130_without_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def stop(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "fit", stop)
    assert command("digits") == 130
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err == ""


def test_a_users_model_and_data(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "def data():\n    x = torch.randn(20, 3)\n    y = (x[:, 0] > 0).long()\n    return x, y, x, y\n"
        "def model(dataset):\n    return torch.nn.Linear(3, dataset.num_classes)\n"
    )
    try:
        assert command("digits", "--data", "mine:data", "--model", "mine:model", "--epochs", 1, "--out", "w") == 0
    finally:
        sys.modules.pop("mine", None)
    assert (tmp_path / "w").exists()
