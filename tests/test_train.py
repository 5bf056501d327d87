"""Supervised training: that it learns, repeats itself, and keeps and refuses weights."""

import os
import re
import sys

import pytest
import torch
from torch import nn

from hmc_fast import train
from hmc_fast.datasets import Dataset, load
from hmc_fast.errors import UserError
from hmc_fast.models import build, mlp, resnet20
from hmc_fast.train import evaluate, fit, load_weights, save_weights


def command(*arguments):
    """Exit status, whether it is returned or raised."""
    try:
        return train.main([*map(str, arguments)])
    except SystemExit as stop:
        return stop.code


def stripes(count=64, seed=0):
    """Images of 8 x 8 with horizontal or vertical stripes, and noise."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 2
    rows = (torch.arange(8) % 2).float().expand(8, 8)
    clean = torch.where(y.view(-1, 1, 1, 1).bool(), rows, rows.T)
    return clean + 0.3 * torch.randn(count, 1, 8, 8, generator=generator), y


def image_set():
    return Dataset("stripes", *stripes(), *stripes(32, seed=1), "classification", num_classes=2)


def line_set(outputs_noise=0.1):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(80, 2, generator=generator)
    y = x[:, 0] - 0.5 * x[:, 1] + outputs_noise * torch.randn(80, generator=generator)
    return Dataset("line", x[:60], y[:60], x[60:], y[60:], "regression", y_mean=10.0, y_std=5.0)


# --- fit ---


def test_digits_are_learnt_in_few_epochs():
    dataset = load("digits").subset(600)
    seen = []
    log = fit(build("mlp", dataset), dataset, epochs=6, batch_size=32, learning_rate=5e-3, on_epoch=seen.append)
    assert log == seen
    assert [record["epoch"] for record in log] == [1, 2, 3, 4, 5, 6]
    assert set(log[0]) == {"epoch", "loss", "train_accuracy", "test_loss", "test_accuracy", "seconds"}
    assert log[-1]["test_accuracy"] > 0.9
    assert log[-1]["train_accuracy"] > 0.9
    assert log[-1]["loss"] < 0.5 * log[0]["loss"]
    assert log[0]["test_accuracy"] < log[-1]["test_accuracy"]


@pytest.mark.parametrize("norm", ["batch", "frn"])
def test_resnet_learns_stripes(norm):
    dataset = image_set()
    model = build("resnet20", dataset, norm=norm, width=4)
    log = fit(model, dataset, epochs=5, batch_size=16, learning_rate=1e-2)
    assert log[-1]["test_accuracy"] > 0.9
    if norm == "batch":
        assert int(model.stem[1].num_batches_tracked) == 5 * 4  # of training alone, not of evaluation


def test_regression_of_two_outputs_and_of_one():
    for outputs in (2, 1):
        dataset = line_set()
        torch.manual_seed(0)
        log = fit(mlp(2, (16,), outputs), dataset, epochs=30, batch_size=20, learning_rate=2e-2)
        assert set(log[0]) == {"epoch", "loss", "train_rmse", "test_loss", "test_rmse", "seconds"}
        assert log[-1]["test_rmse"] < 0.3
        assert log[-1]["test_rmse"] < log[0]["test_rmse"]


def test_same_seed_same_weights_another_seed_others():
    dataset = load("digits").subset(100)

    def weights(seed):
        model = build("mlp", dataset, seed=0)
        state = torch.get_rng_state()
        fit(model, dataset, epochs=1, batch_size=32, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"epochs": 0}, "epochs 0 must be positive"),
        ({"batch_size": 0}, "batch size 0 must be positive"),
        ({"learning_rate": -1e-3}, "learning rate -0.001 must be positive"),
        ({"learning_rate": float("nan")}, "learning rate nan"),
        ({"weight_decay": -1.0}, "weight decay -1.0"),
        ({"epochs": 3, "learning_rate": 1e37}, "the loss became .* lower the learning rate"),
    ],
)
def test_fit_mistakes(options, match):
    dataset = load("digits").subset(64)
    with pytest.raises(UserError, match=match):
        fit(build("mlp", dataset), dataset, **{"epochs": 1, "batch_size": 32, **options})


def test_a_batch_of_one_that_batchnorm_cannot_take_is_a_users_mistake():
    dataset = load("digits").subset(65)
    model = nn.Sequential(nn.Linear(64, 10), nn.BatchNorm1d(10))
    with pytest.raises(UserError, match=r"last batch .* one example.*batch size"):
        fit(model, dataset, epochs=1, batch_size=32)


def test_evaluate_against_by_hand_and_leaves_modes_alone():
    x, y = stripes()
    model = resnet20(2, width=2, norm="batch")
    model.stem[1].eval()  # a user froze this one
    modes = [m.training for m in model.modules()]
    found = evaluate(model, x, y, "classification", batch_size=7)
    assert [m.training for m in model.modules()] == modes
    outputs = model.eval()(x).detach()
    assert found["accuracy"] == pytest.approx(float((outputs.argmax(1) == y).float().mean()))
    assert found["loss"] == pytest.approx(float(nn.functional.cross_entropy(outputs, y)), rel=1e-5)
    dataset = line_set()
    flat = nn.Linear(2, 1)
    found = evaluate(flat, dataset.x_train, dataset.y_train, "regression", batch_size=7)
    residuals = flat(dataset.x_train)[:, 0].detach() - dataset.y_train
    assert found["rmse"] == pytest.approx(float(residuals.square().mean().sqrt()), rel=1e-5)


# --- weights ---


def test_weights_come_back_as_they_were(tmp_path):
    dataset = image_set()
    first, second = (build("resnet20", dataset, norm="batch", width=2, seed=s) for s in (0, 1))
    fit(first, dataset, epochs=1, batch_size=16)
    save_weights(tmp_path / "a" / "w.safetensors", first, {"preset": "x"})
    load_weights(tmp_path / "a" / "w.safetensors", second)
    assert all(torch.equal(a, second.state_dict()[n]) for n, a in first.state_dict().items())
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["w.safetensors"]


def test_tied_weights_can_be_saved(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    save_weights(tmp_path / "w", model, {})
    load_weights(tmp_path / "w", model)


def test_a_failed_save_leaves_the_older_file(tmp_path, monkeypatch):
    path = tmp_path / "w"
    save_weights(path, nn.Linear(2, 2), {})
    before = path.read_bytes()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        save_weights(path, nn.Linear(2, 2), {})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["w"]


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        ("missing", "w is no file|no file of weights"),
        ("directory", "w is no file|no file of weights"),
        ("empty", "is not a readable safetensors file"),
        ("truncated", "is not a readable safetensors file"),
        ("text", "is not a readable safetensors file"),
        ("smaller", r"does not fit the model: 'weight' is \(2, 3\) there and \(2, 4\) in the model"),
        ("other names", "does not fit the model: only the model has 'weight'"),
        ("more names", "does not fit the model: only .*w has 'extra'"),
        ("nan", "holds NaN or an infinity in 'weight'"),
    ],
)
def test_load_mistakes_change_nothing(tmp_path, damage, match):
    path, model = tmp_path / "w", nn.Linear(4, 2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    saved = {"smaller": nn.Linear(3, 2), "other names": nn.Sequential(nn.Linear(4, 2))}.get(damage, nn.Linear(4, 2))
    if damage == "more names":
        saved.register_buffer("extra", torch.zeros(1))
    if damage == "nan":
        saved.weight.data[0, 0] = torch.nan
    save_weights(path, saved, {})
    raw = path.read_bytes()
    if damage in ("missing", "directory"):
        path.unlink()
    if damage == "directory":
        path.mkdir()
    if damage in ("empty", "truncated", "text"):
        path.write_bytes({"empty": b"", "truncated": raw[: len(raw) // 2], "text": b"weights, honestly"}[damage])
    with pytest.raises(UserError, match=match):
        load_weights(path, model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


# --- the command ---


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
    "divergence": (["digits", "--learning-rate", 1e37, "--train-size", 64], "lower the learning rate"),
    "size": (["digits", "--train-size", 10**6], "training size 1000000 must be in 1..1437"),
    "negative size": (["digits", "--train-size", -5], "training size -5 must be in 1..1437"),
    "model": (["digits", "--model", "net"], "model 'net' is unknown"),
    "image": (["digits", "--model", "lenet"], "takes images"),
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
