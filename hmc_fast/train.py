"""`python -m hmc_fast.train PRESET --epochs 10`: the supervised baseline, whose weights `--init` takes."""

import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .cli import main_guard, parse
from .datasets import Dataset, load
from .device import resolve_device
from .errors import UserError
from .likelihoods import HeteroscedasticGaussian
from .models import build

__all__ = ["Epoch", "evaluate", "fit", "load_weights", "save_weights"]

_PROG = "hmc_fast.train"


@dataclass(frozen=True)
class Epoch:
    """One line of the training log. score: accuracy, or for regression the mean log likelihood."""

    number: int
    loss: float
    test_score: float
    seconds: float


def fit(
    model: nn.Module,
    dataset: Dataset,
    *,
    epochs: int,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    seed: int = 0,
    device: torch.device | str = "cpu",
    on_epoch: Callable[[Epoch], None] | None = None,
) -> list[Epoch]:
    """Trains `model` in place with Adam, the learning rate falling to 0 along a cosine.

    The loss is the mean negative log likelihood per example: cross entropy, or a Gaussian with the mean and
    spread that a network of two outputs gives (of one output: unit spread).

    Raises:
        UserError: a number of epochs, batch size or learning rate that is not positive.
    """
    for name, value in (("epochs", epochs), ("batch size", batch_size), ("learning rate", learning_rate)):
        if not (math.isfinite(value) and value > 0):
            raise UserError(f"{name} {value} must be positive")
    model.to(device).train()
    x, y = dataset.x_train.to(device), dataset.y_train.to(device)
    steps = math.ceil(len(x) / batch_size)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps)
    generator = torch.Generator().manual_seed(seed)
    log = []
    for number in range(1, epochs + 1):
        begin, total = time.perf_counter(), torch.zeros((), device=device)
        for index in torch.randperm(len(x), generator=generator).to(device).split(batch_size):
            loss = _loss(model(x[index]), y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach() * len(index)
        score = evaluate(model, dataset.x_test, dataset.y_test)
        log.append(Epoch(number, float(total) / len(x), score, time.perf_counter() - begin))
        if on_epoch is not None:
            on_epoch(log[-1])
    return log


def evaluate(model: nn.Module, x: Tensor, y: Tensor, *, batch_size: int = 1024) -> float:
    """Accuracy of `model` on `(x, y)`; for regression the mean log likelihood. In evaluation mode."""
    device = next(model.parameters()).device
    mode = model.training
    model.eval()
    total = 0.0
    with torch.no_grad():
        for inputs, targets in zip(x.split(batch_size), y.split(batch_size), strict=True):
            outputs, targets = model(inputs.to(device)), targets.to(device)
            if targets.is_floating_point():
                total -= float(_loss(outputs, targets)) * len(targets)
            else:
                total += float((outputs.argmax(1) == targets).sum())
    model.train(mode)
    return total / len(x)


def _loss(outputs: Tensor, y: Tensor) -> Tensor:
    if not y.is_floating_point():
        return F.cross_entropy(outputs, y)
    if outputs.shape[-1] == 2:
        return -HeteroscedasticGaussian().log_prob(outputs, y).mean()
    return 0.5 * ((outputs.reshape(y.shape) - y) ** 2).mean() + 0.5 * math.log(2 * math.pi)


def save_weights(path: Path, model: nn.Module, metadata: dict[str, str]) -> None:
    """The model's parameters and buffers as safetensors, written whole or not at all."""
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    temporary = path.with_name(path.name + ".tmp")
    save_file(tensors, temporary, metadata=metadata)
    os.replace(temporary, path)


def load_weights(path: Path, model: nn.Module) -> None:
    """Loads what `save_weights` wrote into `model`.

    Raises:
        UserError: a missing or damaged file, or weights of another model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise UserError(f"--init {path} is no file: give prior, model, or weights saved by hmc_fast.train")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a readable safetensors file ({error})") from error
    wanted = model.state_dict()
    for name in [*wanted, *tensors]:
        if name not in tensors or name not in wanted:
            owner = "the model has" if name in wanted else f"{path} has"
            raise UserError(f"{path} does not fit the model: only {owner} {name!r}")
        if tensors[name].shape != wanted[name].shape:
            raise UserError(
                f"{path} does not fit the model: {name!r} is {tuple(tensors[name].shape)} there and "
                f"{tuple(wanted[name].shape)} in the model"
            )
    model.load_state_dict(tensors)


# --- the command ---


@dataclass(frozen=True)
class Settings:
    """Train a network by maximum likelihood, as a baseline and as a start for chains."""

    epochs: int = 10
    """Passes over the training data."""
    batch_size: int = 128
    """Examples per step."""
    learning_rate: float = 1e-3
    """Adam's learning rate at the start; it falls to 0 along a cosine."""
    data: str = "fashion-mnist"
    """digits, fashion-mnist, uci-NAME, or module:callable."""
    data_dir: Path = Path("data")
    """Directory that holds data files."""
    train_size: int = 0
    """Training examples to use; 0 is all."""
    split: int = 0
    """uci: number of the train/test split."""
    model: str = "resnet20"
    """mlp, lenet, resnet20, uci-mlp, or module:callable."""
    width: int | None = None
    """resnet20: channels of the first stage. Default: 8."""
    activation: str | None = None
    """Activation of the network: relu, silu, tanh, ... Default: that of the preset of hmc_fast.sample."""
    norm: str | None = None
    """resnet20: frn, group, batch or none; weights trained with batch cannot be sampled. Default: frn."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:INDEX."""
    seed: int = 0
    """Of the initial weights and the order of the data."""
    out: Path | None = None
    """File for the weights. Default: runs/PRESET-weights.safetensors."""


PRESETS = {
    "fashion-resnet20": Settings(activation="silu"),
    "fashion-lenet": Settings(model="lenet", activation="silu"),
    "digits": Settings(model="mlp", data="digits", activation="tanh"),
    "uci-concrete": Settings(model="uci-mlp", data="uci-concrete", activation="relu"),
    "uci-energy": Settings(model="uci-mlp", data="uci-energy", activation="relu"),
    "uci-yacht": Settings(model="uci-mlp", data="uci-yacht", activation="relu"),
}


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0, or 2 for a mistake of the user, 130 after Ctrl-C."""
    preset, settings = parse(
        Settings,
        PRESETS,
        prog=_PROG,
        description="Train a network by maximum likelihood: the baseline, and a start for chains (--init).",
        argv=argv,
    )
    return main_guard(lambda: _train(preset, settings), _PROG)


def _train(preset: str, settings: Settings) -> None:
    path = settings.out or Path("runs") / f"{preset}-weights.safetensors"
    if path.is_dir():
        raise UserError(f"--out {path} is a directory: name a file")
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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {path} cannot be written ({error.strerror})") from error
    score = "test accuracy" if dataset.task == "classification" else "test log likelihood"

    def report(epoch: Epoch) -> None:
        print(
            f"epoch {epoch.number}/{settings.epochs}  loss {epoch.loss:.4f}  {score} {epoch.test_score:.4f}  "
            f"{epoch.seconds:.1f} s",
            flush=True,
        )

    fit(
        model,
        dataset,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        seed=settings.seed,
        device=device,
        on_epoch=report,
    )
    save_weights(path, model, {"preset": preset, "model": settings.model, "data": settings.data})
    print(path)


if __name__ == "__main__":
    sys.exit(main())
