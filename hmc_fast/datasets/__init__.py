"""Data sets by name, checked before any work starts."""

from pathlib import Path

import numpy as np
import torch

from ..errors import UserError
from ..importing import import_object
from .base import Dataset
from .digits import load_digits
from .fashion import load_fashion_mnist
from .uci import load_uci

__all__ = ["Dataset", "load"]


def load(name: str, data_dir: Path = Path("data"), *, split: int = 0) -> Dataset:
    """The data set `name`: digits, fashion-mnist, uci-NAME, or `module:callable` returning a `Dataset` or
    (x_train, y_train, x_test, y_test) with integer labels or real targets.

    Raises:
        UserError: an unknown name, or data that cannot be used.
    """
    if name == "digits":
        return load_digits()
    if name == "fashion-mnist":
        return load_fashion_mnist(data_dir)
    if name.startswith("uci-"):
        return load_uci(name.removeprefix("uci-"), data_dir, split)
    if ":" in name:
        return _from_callable(name)
    raise UserError(f"data set {name!r} is unknown: use digits, fashion-mnist, uci-NAME or module:callable")


def _from_callable(name: str) -> Dataset:
    made = import_object(name, "data")()
    if isinstance(made, Dataset):
        return made
    if not (isinstance(made, tuple) and len(made) == 4):
        raise UserError(
            f"data {name!r} returned a {type(made).__name__}: it must return (x_train, y_train, x_test, y_test)"
        )
    x_train, y_train, x_test, y_test = (torch.as_tensor(np.asarray(part)) for part in made)
    x_train, x_test = x_train.float(), x_test.float()
    if not y_train.is_floating_point():
        classes = int(y_train.max()) + 1
        return Dataset(name, x_train, y_train.long(), x_test, y_test.long(), "classification", classes)
    mean, std = float(y_train.mean()), float(y_train.std(correction=0)) or 1.0
    y_train, y_test = ((y.float() - mean) / std for y in (y_train, y_test))
    return Dataset(name, x_train, y_train, x_test, y_test, "regression", y_mean=mean, y_std=std)
