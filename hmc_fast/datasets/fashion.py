"""Fashion-MNIST (Xiao, Rasul & Vollgraf 2017, arXiv:1708.07747), from a CSV pair, IDX files or a download."""

import contextlib
import gzip
import hashlib
import io
import os
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import UserError
from .base import Dataset
from .csv import read_csv
from .idx import MOST_BYTES, read_idx

__all__ = ["load_fashion_mnist"]

CLASS_NAMES = (
    "T-shirt",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

_CSV = ("fashion-mnist_train.csv", "fashion-mnist_test.csv")
# The authors' repository, then their server, which has no https.
_URLS = (
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
)

# md5 of the *uncompressed* bytes: archives may be recompressed, but their contents do not change.
_IDX = {
    "train-images-idx3-ubyte.gz": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte.gz": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte.gz": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte.gz": "15d484375f8d13e6eb1aabb0c3f46965",
}

# Mean and standard deviation of the training pixels, scaled to [0, 1].
_MEAN, _STD = 0.2860, 0.3530


def load_fashion_mnist(data_dir: Path, *, download: bool = True) -> Dataset:
    """60,000 + 10,000 standardised images `(1, 28, 28)`.

    Searches `data_dir` and `data_dir/fashion-mnist` for the CSV pair, then for the four IDX archives; otherwise
    downloads the archives into `data_dir`, if `download`.

    Raises:
        UserError: an incomplete set, damaged files, or no files and no network.
    """
    for folder in (data_dir, data_dir / "fashion-mnist"):
        for names in (_CSV, tuple(_IDX)):
            present = [name for name in names if (folder / name).is_file()]
            if len(present) == len(names):
                return _from_csv(folder) if names == _CSV else _from_idx(folder)
            if present:
                missing = next(name for name in names if name not in present)
                raise UserError(f"{folder} contains {present[0]} but not {missing}: add the missing file")
    if not download:
        raise UserError(f"{data_dir} does not contain Fashion-MNIST: set --data-dir to the directory that does")
    _download(data_dir)
    return _from_idx(data_dir)


def _from_csv(folder: Path) -> Dataset:
    (x_train, y_train), (x_test, y_test) = (read_csv(folder / name) for name in _CSV)
    return _dataset(x_train, y_train, x_test, y_test)


def _from_idx(folder: Path) -> Dataset:
    parts = [read_idx(folder / name, 3 if "images" in name else 1) for name in _IDX]
    for images, labels, name in ((parts[0], parts[1], "train"), (parts[2], parts[3], "t10k")):
        if len(images) != len(labels):
            raise UserError(
                f"{folder} contains {len(images)} {name} images but {len(labels)} {name} labels: download the "
                "files again"
            )
        if images.shape[1:] != (28, 28):
            raise UserError(
                f"{folder} contains {name} images of {' x '.join(map(str, images.shape[1:]))} pixels, not 28 x 28: "
                "download the files again"
            )
    return _dataset(*parts)


def _dataset(x_train: np.ndarray, y_train: np.ndarray, x_test: np.ndarray, y_test: np.ndarray) -> Dataset:
    images = [torch.from_numpy(x.astype(np.float32)).div_(255).sub_(_MEAN).div_(_STD) for x in (x_train, x_test)]
    labels = [torch.from_numpy(y.astype(np.int64)) for y in (y_train, y_test)]
    return Dataset(
        name="fashion-mnist",
        x_train=images[0].unsqueeze(1),
        y_train=labels[0],
        x_test=images[1].unsqueeze(1),
        y_test=labels[1],
        task="classification",
        num_classes=10,
        class_names=CLASS_NAMES,
    )


def _download(data_dir: Path) -> None:
    """Downloads the four archives; none appears in `data_dir` before all are verified."""
    created = _missing_directories(data_dir)
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=data_dir) as scratch:
            for number, (name, digest) in enumerate(reversed(_IDX.items())):  # smallest file first
                _fetch(name, digest, Path(scratch) / name)
                if number == 0:  # the network works, and the other files take a while
                    print(f"downloading Fashion-MNIST into {data_dir}", file=sys.stderr)
            for name in _IDX:
                os.replace(Path(scratch) / name, data_dir / name)
    except OSError as error:
        raise UserError(
            f"Fashion-MNIST is not in {data_dir} and cannot be downloaded ({error}): put {_CSV[0]} and "
            f"{_CSV[1]} there, or the four files {', '.join(_IDX)}"
        ) from error
    finally:
        for directory in created:
            with contextlib.suppress(OSError):  # keeps a directory that is not empty
                directory.rmdir()


class _Bounded(io.FileIO):
    """A file that takes no more than MOST_BYTES: gzip makes nothing larger that fits unpacked."""

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > MOST_BYTES:
            raise OSError(f"the file is longer than {MOST_BYTES:,} bytes")
        return super().write(data)


def _fetch(name: str, digest: str, path: Path) -> None:
    """Downloads one archive to `path` from the first place that has the right one; otherwise OSError."""
    import pooch

    reasons = []
    for url in _URLS:
        try:
            with _Bounded(path, "w") as file:
                pooch.HTTPDownloader()(url + name, file, None)
            if (found := _md5(path)) != digest:
                raise OSError(f"{name} unpacks to md5 {found} instead of {digest}")
            return
        except (OSError, EOFError, zlib.error) as error:
            reasons.append(f"{url.split('/')[2]}: {_reason(error)}")
    raise OSError("; ".join(reasons))


def _md5(path: Path) -> str:
    """Of the unpacked bytes, of which no more than MOST_BYTES are looked at."""
    hasher, left = hashlib.md5(usedforsecurity=False), MOST_BYTES
    with gzip.open(path) as file:
        while left > 0 and (block := file.read(min(left, 2**20))):
            hasher.update(block)
            left -= len(block)
    return hasher.hexdigest()


def _missing_directories(path: Path) -> list[Path]:
    """`path` and its parents that do not exist, innermost first."""
    return [folder for folder in (path, *path.parents) if not folder.exists()]


def _reason(error: Exception) -> str:
    """The start of a network error; the rest repeats the address."""
    return f"{type(error).__name__}: {error}".split("\n")[0][:120]
