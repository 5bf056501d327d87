"""The style of all figures: one palette, and sizes that are readable on a phone.

Chains and groups differ by line style or marker as well as by colour, so every figure can be printed in greyscale.
The colours are Okabe and Ito's, which colour-blind readers can distinguish.
"""

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic_files import make_folder, written_atomically

__all__ = ["image_look", "label_log_axis", "new_figure", "note", "plain", "png", "save", "style"]

BLUE, RED, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
INK, GREY, PALE, SHADE = "#1f2933", "#616e7c", "#eef1f4", "#e3e8ed"
CHAIN_STYLES = [(BLUE, "-"), (RED, (0, (4, 1.2))), (GREEN, (0, (1, 0.8))), (ORANGE, (0, (5, 1, 1, 1)))]
SIZE = (4.8, 3.2)  # inches: a 9 pt label is 9 to 10 px on a phone and 13 px on a desktop screen
DPI = 150
FONTS = ("Helvetica Neue", "Helvetica", "Arial", "Liberation Sans", "DejaVu Sans")


@contextmanager
def style() -> Iterator[None]:
    """The context in which to draw and save; the caller's matplotlib settings are restored on exit."""
    import matplotlib
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}  # matplotlib logs a line per absent font
    settings: Any = {
        "font.family": [font for font in FONTS if font in installed],
        "font.size": 9.5, "axes.labelsize": 9.5, "xtick.labelsize": 9, "ytick.labelsize": 9,
        "legend.fontsize": 9, "legend.frameon": False, "legend.handlelength": 2.2,
        "text.color": INK, "axes.labelcolor": INK, "xtick.labelcolor": GREY, "ytick.labelcolor": GREY,
        "axes.edgecolor": "#9aa5b1", "xtick.color": "#9aa5b1", "ytick.color": "#9aa5b1",
        "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8,
        "lines.linewidth": 1.3, "figure.facecolor": "white", "savefig.facecolor": "white",
        "text.parse_math": False,  # class names may contain "$"
    }  # fmt: skip
    with warnings.catch_warnings(), matplotlib.rc_context():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # class names in a script without an installed font
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(settings)
        yield


def new_figure(size: tuple[float, float] = SIZE) -> Any:
    """An empty figure, `size` in inches, independent of any window system."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Any, path: Path) -> Path:
    make_folder(path.parent)
    with written_atomically(path) as temporary:
        temporary.write_bytes(png(figure))
    return path


def png(figure: Any) -> bytes:
    """The contents of its file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def plain(value: float, _: object = None) -> str:
    """A tick label with thousands separators and a real minus sign."""
    return f"{value:,.10g}".replace("-", "−")


def label_log_axis(axis: Any, ticks: Sequence[float] = ()) -> None:
    """Labels a log axis at 1, 2, 5, 10, because powers of ten would leave most axes with a single label; at powers
    of ten only if it spans a factor of more than 300; or at the given ticks."""
    from matplotlib.ticker import FixedLocator, NullFormatter

    low, high = (float(end) for end in axis.get_data_interval())
    steps = (1, 2, 5) if high < 300 * low else (1,)
    axis.set_major_locator(FixedLocator(list(ticks) or [m * 10.0**k for k in range(-9, 10) for m in steps]))
    axis.set_major_formatter(plain)
    axis.set_minor_formatter(NullFormatter())


def note(ax: Any, text: str, at: Any, offset: Any, coords: Any = "axes fraction", **look: Any) -> None:
    """A grey annotation at a position, shifted by `offset` points."""
    ax.annotate(text, at, offset, xycoords=coords, textcoords="offset points", **{"color": GREY, **look})


def image_look(images: np.ndarray) -> dict[str, str]:
    """Dark on white; 8 x 8 digits are smoothed, because raw squares are hard to read."""
    return {"cmap": "gray_r", "interpolation": "bicubic" if images.shape[-1] < 16 else "nearest"}
