"""`python -m hmc_fast.train PRESET --epochs 10`: the supervised baseline, whose weights `--init` takes."""

import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from .atomic_files import written_atomically
from .command_line import main_guard, parse
from .compute.device import resolve_device
from .compute.random_streams import check_seed
from .datasets import Dataset, load
from .errors import UserError
from .models import build
from .targets.likelihoods import Gaussian, HeteroscedasticGaussian

__all__ = ["evaluate", "fit", "load_weights", "save_weights"]

_PROG = "hmc_fast.train"


def fit(
    model: nn.Module,
    dataset: Dataset,
    *,
    epochs: int,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
    seed: int = 0,
    device: torch.device | str = "cpu",
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> list[dict[str, float]]:
    """Trains `model` in place with Adam, the learning rate falling to 0 along a cosine.

    The loss is the mean negative log likelihood per example: cross entropy, or a Gaussian with the mean and
    spread that a network of two outputs gives (of one output: unit spread).

    Returns one record per epoch, handed to `on_epoch` too: `epoch`, `loss` and `train_accuracy` (while it was
    training), `test_loss` and `test_accuracy` (after), `seconds`. Regression: `rmse` in place of `accuracy`,
    in standardised units.

    Raises:
        UserError: a number of epochs, batch size or learning rate that is not positive, a negative weight
            decay, or a loss that became NaN or infinite.
    """
    for name, value in (("epochs", epochs), ("batch size", batch_size), ("learning rate", learning_rate)):
        if not (math.isfinite(value) and value > 0):
            raise UserError(f"{name} {value} must be positive")
    if not (math.isfinite(weight_decay) and weight_decay >= 0):
        raise UserError(f"weight decay {weight_decay} must be 0 or positive")
    if len(dataset.x_train) % batch_size == 1 and any(isinstance(m, _BatchNorm) for m in model.modules()):
        raise UserError(
            f"the last batch of {len(dataset.x_train)} examples by {batch_size} would hold one example, of which "
            "BatchNorm can make no statistics: choose another batch size"
        )
    model.to(device)
    x, y = dataset.x_train.to(device), dataset.y_train.to(device)
    steps = math.ceil(len(x) / batch_size)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps)
    generator = torch.Generator().manual_seed(seed)
    log: list[dict[str, float]] = []
    for number in range(1, epochs + 1):
        begin, sums = time.perf_counter(), torch.zeros(2, device=device)
        model.train()
        for index in torch.randperm(len(x), generator=generator).to(device).split(batch_size):
            outputs = model(x[index])
            loss = _loss(outputs, y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            sums += torch.stack((loss.detach() * len(index), _score_sum(outputs.detach(), y[index])))
        train = _record(sums, len(x), dataset.task)
        if not math.isfinite(train["loss"]):
            raise UserError(
                f"the loss became {train['loss']} in epoch {number}: lower the learning rate {learning_rate}"
            )
        test = evaluate(model, dataset.x_test, dataset.y_test, dataset.task)
        score = _score_name(dataset.task)
        log.append(
            {
                "epoch": number,
                "loss": train["loss"],
                f"train_{score}": train[score],
                "test_loss": test["loss"],
                f"test_{score}": test[score],
                "seconds": time.perf_counter() - begin,
            }
        )
        if on_epoch is not None:
            on_epoch(log[-1])
    return log


def evaluate(model: nn.Module, x: Tensor, y: Tensor, task: str, batch_size: int = 1000) -> dict[str, float]:
    """`loss`, the mean negative log likelihood per example, and `accuracy` (regression: `rmse`, in the units
    of y), of the model in evaluation mode, on the device of its parameters."""
    device = next(model.parameters()).device
    modes = {module: module.training for module in model.modules()}
    model.eval()
    sums = torch.zeros(2, device=device)
    with torch.no_grad():
        for inputs, targets in zip(x.split(batch_size), y.split(batch_size), strict=True):
            outputs, targets = model(inputs.to(device)), targets.to(device)
            sums += torch.stack((_loss(outputs, targets) * len(targets), _score_sum(outputs, targets)))
    for module, mode in modes.items():
        module.training = mode
    return _record(sums, len(x), task)


def _loss(outputs: Tensor, y: Tensor) -> Tensor:
    if not y.is_floating_point():
        return F.cross_entropy(outputs, y)
    if outputs.shape[-1] == 2:
        return -HeteroscedasticGaussian().log_prob(outputs, y).mean()
    return -Gaussian().log_prob(outputs, y).mean()


def _score_sum(outputs: Tensor, y: Tensor) -> Tensor:
    """Number of correct labels, or sum of squared errors of the mean."""
    if not y.is_floating_point():
        return (outputs.argmax(1) == y).sum().to(outputs.dtype)
    return ((outputs.reshape(len(y), -1)[:, 0] - y) ** 2).sum()


def _score_name(task: str) -> str:
    return "accuracy" if task == "classification" else "rmse"


def _record(sums: Tensor, count: int, task: str) -> dict[str, float]:
    loss, score = (sums / count).tolist()
    return {"loss": loss, _score_name(task): score if task == "classification" else math.sqrt(score)}


def save_weights(path: Path, model: nn.Module, metadata: dict[str, str]) -> None:
    """The model's parameters and buffers as safetensors, written whole or not at all."""
    from safetensors.torch import save_file

    # Copies, since safetensors refuses tensors that share memory, as tied weights do.
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_atomically(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def load_weights(path: Path, model: nn.Module) -> None:
    """Loads what `save_weights` wrote into `model`.

    Raises:
        UserError: a missing or damaged file, weights of another model, or weights that are not finite; the
            model is then as it was.
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
        if not bool(torch.isfinite(tensors[name]).all()):
            raise UserError(f"{path} holds NaN or an infinity in {name!r}: train again with a lower learning rate")
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
    weight_decay: float = 0.0
    """Adam's L2 penalty, added to the gradient."""
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


_UCI = Settings(model="uci-mlp", activation="relu", epochs=100, batch_size=32, learning_rate=1e-2)

PRESETS = {
    "fashion-resnet20": Settings(activation="silu"),
    "fashion-lenet": Settings(model="lenet", activation="silu"),
    "digits": Settings(model="mlp", data="digits", activation="tanh", epochs=40, batch_size=32, learning_rate=3e-3),
    "uci-concrete": replace(_UCI, data="uci-concrete"),
    "uci-energy": replace(_UCI, data="uci-energy"),
    "uci-yacht": replace(_UCI, data="uci-yacht"),
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
    score, unit = _score_name(dataset.task), dataset.y_std if dataset.task == "regression" else 1.0

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
    """Before hours of training, not after."""
    if path.is_dir():
        raise UserError(f"--out {path} is a directory: name a file")
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f"--out {path} cannot be written: {parent} is no directory that you may write to")


if __name__ == "__main__":
    sys.exit(main())
