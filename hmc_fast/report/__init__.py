"""The HTML report of a finished run, and the comparison of several, made from the files in run folders alone."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..results.run_folder_reader import read_run

__all__ = ["read_run", "write_report"]


def write_report(
    directory: Path,
    *,
    images: np.ndarray | None = None,
    class_names: Sequence[str] = (),
    images_missing: str = "",
) -> Path:
    """Writes `figures/*.png` and `report.html`, a self-contained file, into a run's folder.

    Args:
        directory: folder of a finished run.
        images: test images (T, H, W) or (T, 1, H, W), in the order of the predictions, from which to show the most
            uncertain; any range of values.
        class_names: K names, in the order of the labels; class numbers if empty.
        images_missing: a sentence for the page that explains why there are no images.

    Returns:
        The path of `report.html`.
    """
    from .html import write_html  # matplotlib and jinja2 load only when a report is written

    return write_html(read_run(directory), checked_images(directory, images), class_names, images_missing)


def checked_images(directory: Path, images: np.ndarray | None) -> np.ndarray | None:
    """Test images as (T, H, W)."""
    if images is None:
        return None
    images = np.asarray(images)
    if images.ndim == 4 and images.shape[1] == 1:
        images = images[:, 0]
    if images.ndim != 3:
        raise UserError(
            f"test images of shape {images.shape} for the report of {directory} must be (T, H, W) or "
            "(T, 1, H, W): pass images=None for data that are not greyscale images"
        )
    return images
