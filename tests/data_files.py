"""Files of Fashion-MNIST in both formats, and the refusal of a bad one."""

import gzip

import numpy as np
import pytest

from hmc_fast.datasets import load
from hmc_fast.errors import UserError

CSV = ("fashion-mnist_train.csv", "fashion-mnist_test.csv")


IDX = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


def pictures(count, seed=0):
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (count, 28, 28)), np.arange(count) % 10


def write_csv(path, images, labels):
    header = ["label", *(f"pixel{i}" for i in range(1, 785))]
    rows = [[label, *image.ravel()] for image, label in zip(images, labels, strict=True)]
    path.write_text("\n".join(",".join(map(str, row)) for row in [header, *rows]) + "\n")


def write_idx(path, array):
    head = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes()))


def refused(message, *arguments, **options):
    """`load` raises a UserError of one line that matches."""
    with pytest.raises(UserError, match=message) as caught:
        load(*arguments, **options)
    assert "\n" not in str(caught.value)
