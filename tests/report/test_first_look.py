"""The first look."""

from pathlib import Path

import pytest

from finished_run import grey_images, make_run
from hmc_fast.report.first_look import first_look_figure


def figures_of(directory: Path) -> set[str]:
    """Names of the figures; each is a picture of a readable size with something drawn on it."""
    from matplotlib.image import imread

    names = set()
    for path in (directory / "figures").glob("*.png"):
        picture = imread(path)[..., :3]
        assert picture.shape[1] >= 700, path
        assert 0.01 < (picture.min(-1) < 0.9).mean() < 0.7, path
        names.add(path.stem)
    return names


@pytest.mark.parametrize("images", [True, False])
def test_first_look(tmp_path: Path, images: bool) -> None:
    path = first_look_figure(make_run(tmp_path), grey_images() if images else None, ())
    assert path == tmp_path / "figures" / "first_look.png"
    assert figures_of(tmp_path) == {"first_look"}


def test_first_look_of_regression(tmp_path: Path) -> None:
    first_look_figure(make_run(tmp_path, regression=True), None, ())
    assert figures_of(tmp_path) == {"first_look"}
