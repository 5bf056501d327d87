"""`python -m hmc_fast.train PRESET --epochs 10`: the supervised baseline, and initial weights for chains."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .command_line import Parsed, flags_of, main_guard, parse, setting
from .compute.device import resolve_device
from .compute.random_streams import check_seed
from .datasets import load
from .errors import UserError
from .models import build
from .models.training import evaluate, fit, load_weights, save_weights, score_name

__all__ = ["evaluate", "fit", "load_weights", "save_weights"]

_PROG = "hmc_fast.train"
_TRAINING, _DATA, _COMPUTING, _OUTPUT = "Training", "Data and model", "Computing", "Output"


@dataclass(frozen=True)
class TrainSettings:
    """Settings of `python -m hmc_fast.train`."""

    epochs: int = setting(10, "Passes over the training data.", topic=_TRAINING)
    batch_size: int = setting(128, "Examples per step.", topic=_TRAINING)
    learning_rate: float = setting(
        1e-3, "Adam's initial learning rate, decayed to 0 along a cosine.", topic=_TRAINING
    )
    weight_decay: float = setting(0.0, "Adam's L2 penalty, added to the gradient.", topic=_TRAINING)
    seed: int = setting(0, "Seed of the initial weights and of the order of the data.", topic=_TRAINING)

    data: str = setting("fashion-mnist", "digits, fashion-mnist, uci-NAME, or module:callable.", topic=_DATA)
    data_dir: Path = setting(Path("data"), "Directory of the data files.", topic=_DATA)
    train_size: int = setting(0, "Number of training examples to use; 0 uses all.", topic=_DATA)
    split: int = setting(0, "uci: index of the train/test split.", topic=_DATA)
    model: str = setting("resnet20", "mlp, lenet, resnet20, uci-mlp, or module:callable.", topic=_DATA)
    width: int | None = setting(
        None,
        "resnet20: channels of the first stage; mlp: units of each hidden layer. Default: 8 and 50.",
        topic=_DATA,
    )
    activation: str | None = setting(
        None, "Activation of the network: relu, silu, tanh, ... Default: tanh for mlp, else relu.", topic=_DATA
    )
    norm: str | None = setting(
        None,
        "resnet20: frn, group, batch or none; weights trained with batch cannot be sampled. Default: frn.",
        topic=_DATA,
    )

    device: str = setting("auto", "auto, cpu, cuda or cuda:INDEX.", topic=_COMPUTING)
    out: Path | None = setting(
        None, "File for the weights. Default: runs/PRESET-weights.safetensors.", topic=_OUTPUT
    )


_UCI = TrainSettings(model="uci-mlp", activation="relu", epochs=100, batch_size=32, learning_rate=1e-2)

PRESETS = {
    "fashion-resnet20": TrainSettings(activation="silu"),
    "fashion-lenet": TrainSettings(model="lenet", activation="silu"),
    "digits": TrainSettings(
        model="mlp", data="digits", activation="tanh", epochs=40, batch_size=32, learning_rate=3e-3
    ),
    "uci-concrete": replace(_UCI, data="uci-concrete"),
    "uci-energy": replace(_UCI, data="uci-energy"),
    "uci-yacht": replace(_UCI, data="uci-yacht"),
}


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 on success, 2 for a user mistake, 130 after Ctrl-C."""
    return main_guard(lambda: _train(*_parsed(argv)[:2]), _PROG)


def _parsed(argv: list[str] | None) -> Parsed:
    return parse(
        lambda preset, given: flags_of(PRESETS[preset]),
        PRESETS,
        prog=_PROG,
        description="Train a network by maximum likelihood: a baseline, and initial weights for chains (--init).",
        argv=argv,
    )


def _train(preset: str, given: Mapping[str, Any]) -> None:
    settings = replace(PRESETS[preset], **given)
    path = settings.out or Path("runs") / f"{preset}-weights.safetensors"
    _check_writable(path)
    check_seed(settings.seed)
    device = resolve_device(settings.device)
    dataset = load(settings.data, settings.data_dir, split=settings.split)
    if settings.train_size:
        dataset = dataset.subset(settings.train_size)
    model = build(
        settings.model,
        dataset,
        width=settings.width,
        activation=settings.activation,
        norm=settings.norm,
        seed=settings.seed,
    )
    score, unit = score_name(dataset.task), dataset.y_std if dataset.task == "regression" else 1.0

    def report(epoch: dict[str, float]) -> None:
        print(
            f"epoch {epoch['epoch']}/{settings.epochs}  loss {epoch['loss']:.4f}  "
            f"train {score} {epoch[f'train_{score}'] * unit:.4f}  "
            f"test {score} {epoch[f'test_{score}'] * unit:.4f}  {epoch['seconds']:.1f} s",
            flush=True,
        )

    fit(
        model,
        dataset,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        seed=settings.seed,
        device=device,
        on_epoch=report,
    )
    save_weights(path, model, {"preset": preset, "model": settings.model, "data": settings.data})
    print(path)


def _check_writable(path: Path) -> None:
    """Fails before hours of training, not after."""
    if path.is_dir():
        raise UserError(f"--out {path} is a directory: name a file")
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f"--out {path} cannot be written: {parent} is not a writable directory")


if __name__ == "__main__":
    sys.exit(main())
