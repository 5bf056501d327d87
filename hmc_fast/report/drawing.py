"""How every figure here looks: one style, one palette, sizes that a phone can show.

Chains and groups differ by line style or marker as well as by colour, so every figure survives a
greyscale print; the colours are Okabe and Ito's, which colour-blind readers can tell apart.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["image_look", "label_log_axis", "new_figure", "note", "plain", "save", "style"]

BLUE, RED, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
INK, GREY, PALE, SHADE = "#1f2933", "#616e7c", "#eef1f4", "#e3e8ed"
CHAIN_STYLES = [(BLUE, "-"), (RED, (0, (4, 1.2))), (GREEN, (0, (1, 0.8))), (ORANGE, (0, (5, 1, 1, 1)))]
SIZE = (4.8, 3.2)  # inches: a 9 pt label is 9 to 10 px on a phone and 13 px on a desk
DPI = 150
FONTS = ("Helvetica Neue", "Helvetica", "Arial", "Liberation Sans", "DejaVu Sans")


@contextmanager
def style() -> Iterator[None]:
    """Draw and save inside this; the caller's own matplotlib settings come back after it."""
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
        "text.parse_math": False,  # a class may be called "$"
    }  # fmt: skip
    with warnings.catch_warnings(), matplotlib.rc_context():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a class name in a script no font here has
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(settings)
        yield


def new_figure(size: tuple[float, float] = SIZE) -> Any:
    """An empty figure, `size` in inches, that belongs to no window system."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
    return path


def plain(value: float, _: object = None) -> str:
    """A tick label with thousands separators and a real minus sign."""
    return f"{value:,.10g}".replace("-", "−")


def label_log_axis(axis: Any, ticks: Sequence[float] = ()) -> None:
    """Labels 1, 2, 5, 10 in place of powers of ten, which would leave most axes with one label; powers alone on an
    axis of more than 300 fold. Or the given ticks."""
    from matplotlib.ticker import FixedLocator, NullFormatter

    low, high = (float(end) for end in axis.get_data_interval())
    steps = (1, 2, 5) if high < 300 * low else (1,)
    axis.set_major_locator(FixedLocator(list(ticks) or [m * 10.0**k for k in range(-9, 10) for m in steps]))
    axis.set_major_formatter(plain)
    axis.set_minor_formatter(NullFormatter())


def note(ax: Any, text: str, at: Any, offset: Any, coords: Any = "axes fraction", **look: Any) -> None:
    """A grey remark at a place, moved by `offset` points."""
    ax.annotate(text, at, offset, xycoords=coords, textcoords="offset points", **{"color": GREY, **look})


def image_look(images: np.ndarray) -> dict[str, str]:
    """Ink on paper; a digit of 8 x 8 squares is hard to read unless it is smoothed."""
    return {"cmap": "gray_r", "interpolation": "bicubic" if images.shape[-1] < 16 else "nearest"}
