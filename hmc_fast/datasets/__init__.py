"""Data sets by name, validated before any work starts."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..arguments import shown
from ..errors import UserError
from ..user_code import call, import_object
from .base import Dataset
from .digits import load_digits
from .fashion import load_fashion_mnist
from .uci import load_uci

__all__ = ["Dataset", "load"]


def load(name: str, data_dir: Path = Path("data"), *, split: int = 0, download: bool = True) -> Dataset:
    """The data set `name`: digits, fashion-mnist, uci-NAME, or `module:callable` returning a `Dataset` or
    (x_train, y_train, x_test, y_test) with integer labels or real targets.

    download: whether Fashion-MNIST may be, if it is not there.

    Raises:
        UserError: an unknown name, or data that cannot be used.
    """
    if split != 0 and not name.startswith("uci-"):
        raise UserError(f"split {split} needs a uci data set: {name} has one split, 0")
    try:
        if name == "digits":
            return load_digits()
        if name == "fashion-mnist":
            return load_fashion_mnist(data_dir, download=download)
        if name.startswith("uci-"):
            return load_uci(name.removeprefix("uci-"), data_dir, split)
    except OSError as error:
        raise UserError(f"{error.filename or data_dir} cannot be read ({error.strerror or error})") from error
    if ":" in name:
        return _from_callable(name)
    raise UserError(f"data set {shown(name)} is unknown: use digits, fashion-mnist, uci-NAME or module:callable")


def _from_callable(name: str) -> Dataset:
    made = call(import_object(name, "data"), name, "data")
    if isinstance(made, Dataset):
        return made
    if not (isinstance(made, tuple | list) and len(made) == 4):
        raise UserError(
            f"data {name!r} returned a {type(made).__name__}: it must return (x_train, y_train, x_test, y_test)"
        )
    x_train, y_train, x_test, y_test = (_tensor(name, part) for part in made)
    x_train, x_test = x_train.float(), x_test.float()
    if y_train.is_floating_point() or y_test.is_floating_point():
        y_train, y_test = y_train.double(), y_test.double()
        known = y_train[torch.isfinite(y_train)]  # values that are not finite are reported by Dataset
        mean = float(known.mean()) if len(known) else 0.0
        std = (float(known.std(correction=0)) if len(known) else 0.0) or 1.0
        y_train, y_test = (((y - mean) / std).float() for y in (y_train, y_test))
        return Dataset(name, x_train, y_train, x_test, y_test, "regression", y_mean=mean, y_std=std)
    classes = int(y_train.max()) + 1 if len(y_train) else 2
    return Dataset(name, x_train, y_train.long(), x_test, y_test.long(), "classification", classes)


def _tensor(name: str, part: Any) -> torch.Tensor:
    """An array, list or tensor as a tensor on the CPU."""
    if isinstance(part, torch.Tensor):
        return part.detach().cpu()
    try:
        return torch.as_tensor(np.array(part))
    except (TypeError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"data {name!r} must return arrays of numbers: {reason}") from error
