"""Training: fit, evaluate, and weights saved and loaded."""

import os

import pytest
import torch
from torch import nn

from hmc_fast.datasets import Dataset, load
from hmc_fast.errors import UserError
from hmc_fast.models import build, mlp, resnet20
from hmc_fast.train import evaluate, fit, load_weights, save_weights


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
        ({"epochs": 3, "learning_rate": 1e37}, "the loss diverged to .* use a learning rate below"),
    ],
)
def test_fit_mistakes(options, match):
    dataset = load("digits").subset(64)
    with pytest.raises(UserError, match=match):
        fit(build("mlp", dataset), dataset, **{"epochs": 1, "batch_size": 32, **options})


def test_a_batch_of_one_that_batchnorm_cannot_take_is_a_users_mistake():
    dataset = load("digits").subset(65)
    model = nn.Sequential(nn.Linear(64, 10), nn.BatchNorm1d(10))
    with pytest.raises(UserError, match=r"batch size 32 .*last batch .* single example.*another batch size"):
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
        ("missing", "w is not a file|no file of weights"),
        ("directory", "w is not a file|no file of weights"),
        ("empty", "is not a readable safetensors file"),
        ("truncated", "is not a readable safetensors file"),
        ("text", "is not a readable safetensors file"),
        ("smaller", r"does not fit the model: 'weight' is \(2, 3\) there and \(2, 4\) in the model"),
        ("other names", "does not fit the model: only the model has 'weight'"),
        ("more names", "does not fit the model: only .*w has 'extra'"),
        ("nan", "contains NaN or infinity in 'weight'"),
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
