"""Supervised training: fits a network with Adam, evaluates it, and saves and loads its weights."""

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from ..atomic_files import make_folder, written_atomically
from ..datasets import Dataset
from ..errors import UserError
from ..targets.likelihoods import Gaussian, HeteroscedasticGaussian

__all__ = ["evaluate", "fit", "load_weights", "save_weights", "score_name"]


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
    """Trains `model` in place with Adam; the learning rate decays to 0 along a cosine.

    The loss is the mean negative log likelihood per example: cross entropy, or Gaussian with the mean and standard
    deviation from a network with two outputs (with one output: unit standard deviation).

    Returns one record per epoch, also passed to `on_epoch`: `epoch`, `loss` and `train_accuracy` (averaged during
    the epoch), `test_loss` and `test_accuracy` (after it), `seconds`. Regression: `rmse` instead of `accuracy`, in
    standardised units.

    Raises:
        UserError: a number of epochs, batch size or learning rate that is not positive, a negative weight decay, or
            a loss that diverged to NaN or infinity.
    """
    for name, value in (("epochs", epochs), ("batch size", batch_size), ("learning rate", learning_rate)):
        if not (math.isfinite(value) and value > 0):
            raise UserError(f"{name} {value} must be positive")
    if not (math.isfinite(weight_decay) and weight_decay >= 0):
        raise UserError(f"weight decay {weight_decay} must be 0 or positive")
    if len(dataset.x_train) % batch_size == 1 and any(isinstance(m, _BatchNorm) for m in model.modules()):
        raise UserError(
            f"with batch size {batch_size} the last batch of the {len(dataset.x_train)} examples has a single "
            "example, for which BatchNorm has no statistics: choose another batch size"
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
                f"the loss diverged to {train['loss']} in epoch {number}: use a learning rate below {learning_rate}"
            )
        test = evaluate(model, dataset.x_test, dataset.y_test, dataset.task)
        score = score_name(dataset.task)
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
    """`loss`, the mean negative log likelihood per example, and `accuracy` (regression: `rmse`, in the units of y)
    of the model in evaluation mode, on the device of its parameters."""
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
    """Number of correct predictions, or sum of squared errors of the mean."""
    if not y.is_floating_point():
        return (outputs.argmax(1) == y).sum().to(outputs.dtype)
    return ((outputs.reshape(len(y), -1)[:, 0] - y) ** 2).sum()


def score_name(task: str) -> str:
    """The name of a task's score in `fit` and `evaluate`."""
    return "accuracy" if task == "classification" else "rmse"


def _record(sums: Tensor, count: int, task: str) -> dict[str, float]:
    loss, score = (sums / count).tolist()
    return {"loss": loss, score_name(task): score if task == "classification" else math.sqrt(score)}


def save_weights(path: Path, model: nn.Module, metadata: dict[str, str]) -> None:
    """Writes the model's parameters and buffers as safetensors, atomically."""
    from safetensors.torch import save_file

    # Copies, because safetensors rejects tensors that share memory, as tied weights do.
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
    make_folder(path.parent)
    with written_atomically(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def load_weights(path: Path, model: nn.Module) -> None:
    """Loads the weights that `save_weights` wrote into `model`.

    Raises:
        UserError: a missing or damaged file, weights of another model, or weights that are not finite; the model is
            then unchanged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if not path.is_file():
            raise UserError(f"--init {path} is not a file: use prior, model, or weights saved by hmc_fast.train")
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
        if tensors[name].dtype.is_floating_point != wanted[name].dtype.is_floating_point:
            raise UserError(f"{path} does not fit the model: {name!r} is {tensors[name].dtype} there")
        tensors[name] = tensors[name].to(wanted[name].dtype)
        if not bool(torch.isfinite(tensors[name]).all()):
            raise UserError(f"{path} contains NaN or infinity in {name!r}: train again with a lower learning rate")
    model.load_state_dict(tensors)
