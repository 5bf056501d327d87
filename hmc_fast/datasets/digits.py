"""The handwritten digits bundled with scikit-learn: 1,797 greyscale images of 8 x 8 pixels, no download."""

import numpy as np
import torch

from .base import Dataset

__all__ = ["load_digits"]

_TEST_SIZE = 360


def load_digits() -> Dataset:
    """1,437 training and 360 test images as rows of 64 pixels: a stratified split with a fixed seed.

    Source: Alpaydin and Kaynak 1998, UCI "Optical Recognition of Handwritten Digits", its test set.
    """
    from sklearn.datasets import load_digits as load_embedded
    from sklearn.model_selection import train_test_split

    x, y = load_embedded(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=_TEST_SIZE, stratify=y, random_state=0)
    # One mean and one scale for all pixels. A scale per pixel would amplify the border, which is nearly constant.
    # Uncentred pixels in [0, 1] would create one stiff direction, which limits the step size.
    mean, std = x_train.mean(), x_train.std()

    def tensor(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(((values - mean) / std).astype(np.float32))

    return Dataset(
        name="digits",
        x_train=tensor(x_train),
        y_train=torch.from_numpy(y_train.astype(np.int64)),
        x_test=tensor(x_test),
        y_test=torch.from_numpy(y_test.astype(np.int64)),
        task="classification",
        num_classes=10,
        class_names=tuple("0123456789"),
    )
