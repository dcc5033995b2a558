"""How figures look: colours told apart with every kind of colour vision, and in grey."""

from __future__ import annotations

import math
from collections.abc import Sequence

RC = {
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.unicode_minus": False,
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same figure everywhere
    "hatch.linewidth": 0.5,
    "image.composite_image": False,  # pictures beside each other keep their own pixels
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "histofast",
    "text.parse_math": False,  # a $ in a file's name is a dollar
}
INK, FAINT, HATCH, PAPER = "#222222", "#dddddd", "#777777", "#ffffff"
NULL, RANDOM = "#5f5f5f", "#d55e00"
SERIES = ("#0072b2", "#c04c00", "#00795a", "#a9568a", "#8a6d00", "#3d6fb8")  # dark enough as text
MARKERS = ("o", "s", "^", "D")
DASHES = ("--", "-.", (0, (3, 3)))
COLORMAP = "viridis"  # perceptually uniform; its lightness rises throughout
DIVERGING = "RdBu"  # of differences: red below, blue above, as light as paper between
BLACK, WHITE = "#111111", "#fefefe"  # on colours of the map: these stay in the dark
# On a page each colour is a variable of the style sheet, which knows light and dark.
VARIABLES = {
    INK: "--ink",
    FAINT: "--line",
    HATCH: "--hatch",
    PAPER: "--paper",
    NULL: "--null",
    RANDOM: "--random",
    **{color: f"--s{k}" for k, color in enumerate(SERIES)},
}
LOG_FROM = 20.0  # values further apart than this are drawn on a logarithmic scale
LONGEST = 30  # letters of a name on an axis
_LIGHT_ENOUGH = 0.6  # from this share of the scale on, black reads better than white
_PALE = 0.3  # and so far from the middle of a scale of differences


def look_of(look: int | str) -> tuple[str, str, object]:
    """Return colour, marker and dashes of a series."""
    if look == "null":
        return NULL, "s", "--"
    if look == "random":
        return RANDOM, "^", ":"
    assert isinstance(look, int)
    return SERIES[look % len(SERIES)], MARKERS[look % len(MARKERS)], "-"


def ink_on(share: float, *, diverging: bool = False) -> str:
    """Return the colour of a text on that of a value at `share` (0..1) of the scale."""
    is_light = abs(share - 0.5) <= _PALE if diverging else share >= _LIGHT_ENOUGH
    return BLACK if is_light else WHITE


def shorten(name: str, longest: int = LONGEST) -> str:
    """Take out the middle of a name that is too long for an axis."""
    if len(name) <= longest:
        return name
    tail = longest // 2
    return f"{name[: longest - tail - 1]}…{name[-tail:]}"


def range_of(values: Sequence[float], *, spare: float = 0.06) -> tuple[float, float]:
    """Return bounds a little outside of `values`, but not outside of 0..1 if all are inside."""
    known = [value for value in values if not math.isnan(value)] or [0.0, 1.0]
    low, high = min(known), max(known)
    least = 0.02 * max(abs(low), abs(high), 0.1)  # so that no difference is blown up at will
    room = max(spare * (high - low), least)
    share = low >= 0 and high <= 1
    return (max(low - room, 0.0), min(high + room, 1.0)) if share else (low - room, high + room)


def spread(wanted: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """Move positions apart, in their order and as little as possible.

    Args:
        wanted: positions, in any order.
        gap: the least distance between two; less where they do not fit otherwise.
        low, high: no position is outside.

    Returns:
        The positions, in the order of `wanted`.
    """
    n = len(wanted)
    gap = min(gap, (high - low) / max(n - 1, 1))
    order = sorted(range(n), key=lambda i: wanted[i])
    # Less the gaps before them, positions need only not fall: means of runs that would.
    runs: list[tuple[float, int]] = []
    for rank, i in enumerate(order):
        runs.append((wanted[i] - rank * gap, 1))
        while len(runs) > 1 and runs[-2][0] >= runs[-1][0]:
            (b, nb), (a, na) = runs.pop(), runs.pop()
            runs.append(((a * na + b * nb) / (na + nb), na + nb))
    means = [mean for mean, size in runs for _ in range(size)]
    moved = [0.0] * n
    for rank, i in enumerate(order):
        moved[i] = min(max(means[rank], low), high - (n - 1) * gap) + rank * gap
    return moved
