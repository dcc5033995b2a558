"""How figures and pages look: colours told apart with every kind of colour vision, and in grey."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib import colormaps
from matplotlib.colors import to_hex

RC = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same figure everywhere
    "hatch.linewidth": 0.5,
    "pdf.fonttype": 42,
    "svg.hashsalt": "histofast",
    "text.parse_math": False,  # a $ in a file's name is a dollar
}
INK, FAINT = "#222222", "#dddddd"
COLORMAP = "viridis"  # perceptually uniform; its lightness rises throughout
DIAGONAL, PERMUTED, RANDOM = "#0072b2", "#5f5f5f", "#d55e00"
SERIES = ("#0072b2", "#c04c00", "#00795a", "#a9568a", "#8a6d00", "#3d6fb8")  # dark enough as text
SHAPES = ("circle", "square", "triangle", "diamond")
LOG_FROM = 20.0  # speeds further apart than this are drawn on a logarithmic scale
LONGEST = 30  # letters of a name on an axis
_LIGHT_ENOUGH = 0.6  # from this share of the scale on, black reads better than white


def color_of(share: float) -> str:
    """Return the colour of a value at `share` (0..1) of the scale, as #rrggbb."""
    return to_hex(colormaps[COLORMAP](min(max(share, 0.0), 1.0)))


def ink_on(share: float) -> str:
    """Return the colour of a text on `color_of(share)`."""
    return "#111111" if share >= _LIGHT_ENOUGH else "#ffffff"


def bottom_of(*values: float) -> float:
    """Return where the scale begins: 0, or the lowest value there is."""
    return min(0.0, *(value for value in values if not math.isnan(value)), 0.0)


def shorten(name: str, longest: int = LONGEST) -> str:
    """Take out the middle of a name that is too long for an axis."""
    if len(name) <= longest:
        return name
    tail = longest // 2
    return f"{name[: longest - tail - 1]}…{name[-tail:]}"


def draw_legend(
    axes: Any,
    keys: Sequence[Any],
    *,
    left: float = 0.0,
    lift: float = 1.0,
    handle_length: float = 2.4,
) -> None:
    """Put the legend above the axes, where it covers nothing; its corner is in shares of them."""
    axes.legend(
        handles=keys,
        loc="lower left",
        bbox_to_anchor=(left, lift),
        ncols=2,
        frameon=False,
        fontsize=8.5,
        borderaxespad=0.2,
        handlelength=handle_length,
        columnspacing=1.2,
    )
