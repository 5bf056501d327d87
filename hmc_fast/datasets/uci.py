"""UCI regression sets as text files: numbers separated by white space, the target in the last column."""

import re
import warnings
from pathlib import Path

import numpy as np
import torch

from ..arguments import shown
from ..errors import UserError
from .base import Dataset, permutation, scales

__all__ = ["load_uci"]


def load_uci(name: str, data_dir: Path, split: int = 0) -> Dataset:
    """`NAME.txt` in `data_dir` or `data_dir/uci`; x and y standardised with the training set's statistics.

    split: line of `NAME.splits.txt`, which lists the row numbers of a test set; without that file, the number of a
        fixed random 90/10 split.

    Raises:
        UserError: a missing, empty, ragged or non-numeric file, or a split that does not exist.
    """
    if not re.fullmatch(r"[\w-]{1,100}", name):
        raise UserError(f"data set {shown('uci-' + name)} is no name of a data set: use letters, digits, - and _")
    folders = (data_dir, data_dir / "uci")
    path = next((f / f"{name}.txt" for f in folders if (f / f"{name}.txt").is_file()), None)
    if path is None:
        raise UserError(
            f"uci-{name} needs {data_dir / (name + '.txt')}: one example per line, numbers separated by spaces, "
            "the target last"
        )
    table = _read(path)
    test = _test_rows(path.with_name(f"{name}.splits.txt"), len(table), split)
    train = np.setdiff1d(np.arange(len(table)), test)
    mean, std = scales(table[train])
    scaled = ((table - mean) / std).astype(np.float32)
    x, y = torch.from_numpy(scaled[:, :-1].copy()), torch.from_numpy(scaled[:, -1].copy())
    return Dataset(
        name=f"uci-{name}",
        x_train=x[train],
        y_train=y[train],
        x_test=x[test],
        y_test=y[test],
        task="regression",
        y_mean=float(mean[-1]),
        y_std=float(std[-1]),
    )


def _read(path: Path) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # an empty file is reported below
            table = np.loadtxt(path, ndmin=2)
    except ValueError as error:
        raise UserError(f"{path} is ragged or not numeric: {str(error).split(';')[0]}") from error
    if table.size == 0 or len(table) < 2 or table.shape[1] < 2:
        raise UserError(f"{path} has {table.shape[0]} rows: at least 2 rows of 2 numbers are needed")
    bad = ~np.isfinite(table).all(1)
    if bad.any():
        raise UserError(f"{path} row {int(bad.argmax())} contains NaN or infinity: remove or impute it")
    return table


def _test_rows(path: Path, count: int, split: int) -> np.ndarray:
    if split < 0:
        raise UserError(f"split {split} must be 0 or more")
    if not path.exists():
        return np.sort(permutation(count, split)[: max(1, round(count / 10))])
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text file: it must list row numbers, one test set per line") from error
    if split >= len(lines):
        raise UserError(f"split {split} does not exist: {path} has {len(lines)} splits, counted from 0")
    try:
        rows = np.array([int(number) for number in lines[split].split()], dtype=np.int64)
    except (ValueError, OverflowError) as error:
        raise UserError(f"{path} split {split} must contain only row numbers") from error
    if rows.min() < 0 or rows.max() >= count or len(np.unique(rows)) != len(rows) or len(rows) == count:
        raise UserError(
            f"{path} split {split} must list test rows in 0..{count - 1}, each at most once and not all of them"
        )
    return rows
