"""A picture with a bar of its colours and one of length."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.patches import Rectangle

from histofast.report.charts import Picture
from histofast.report.draw_matrix import colors, draw_bar
from histofast.report.sheet import SMALL, Sheet
from histofast.report.style import INK

_MOST_PX, _DPI = 1000, 100  # a larger picture has more dots per inch
_GAP, _LEAST_BAR, _MOST_BAR = 0.24, 1.2, 4.2  # inches
_RULER, _ABOVE = 0.16, 0.04


def dpi_of(picture: Picture) -> float:
    """Return the dots per inch at which a picture's pixels are dots."""
    most: int = max(picture.pixels.shape[:2])
    return _DPI * max(1.0, most / _MOST_PX)


def draw_picture(sheet: Sheet, picture: Picture, *, titled: bool = False) -> Any:
    """Draw a picture as a new panel of a sheet, under its title or not, and return its axes."""
    h, w = (side / dpi_of(picture) for side in picture.pixels.shape[:2])
    axes = sheet.axes(w, h)
    axes.imshow(picture.pixels, aspect="auto", interpolation="none")
    axes.set_axis_off()
    for k, head in enumerate(picture.heads):
        axes.text(
            (k + 0.5) / len(picture.heads),
            1 + _ABOVE / h,
            head,
            fontsize=SMALL,
            color=INK,
            ha="center",
            va="bottom",
            transform=axes.transAxes,
        )
    if titled and picture.title:
        pad = 18 if picture.heads else 4
        axes.set_title(picture.title, loc="left", fontsize=9, color=INK, pad=pad)
    if picture.ticks:
        opaque = colors(np.linspace(0, 1, 256))
        shown = 255 * (1 - picture.opacity) + picture.opacity * opaque
        height = min(_MOST_BAR, max(h, _LEAST_BAR))
        bar = draw_bar(
            sheet, np.rint(shown).astype(np.uint8), left=w + _GAP, height=height, low=0.0, high=1.0
        )
        places, words = zip(*picture.ticks, strict=True)
        bar.set_yticks(places, words, fontsize=8.5)
    if picture.um_per_px is not None:
        length_um = _round_length(picture.pixels.shape[1] * picture.um_per_px / 4)
        share = length_um / picture.um_per_px / picture.pixels.shape[1]
        below = -_RULER / h
        axes.add_patch(
            Rectangle(
                (0, below), share, 0.03 / h, color=INK, transform=axes.transAxes, clip_on=False
            )
        )
        label = f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um:g} um"
        axes.text(0, below * 1.3, label, fontsize=9, color=INK, va="top", transform=axes.transAxes)
    return axes


def _round_length(most_um: float) -> float:
    """Return the longest of 1, 2, 5, 10, 20 ... that is not above `most_um`."""
    power = 10.0 ** math.floor(math.log10(most_um))
    return power * max(k for k in (1, 2, 5) if k * power <= most_um * (1 + 1e-9))
