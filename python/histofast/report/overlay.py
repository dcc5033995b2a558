"""A picture with colours over it as a figure: every pixel as it is, a colour bar, a caption.

Lengths are pixels of a figure of 100 dpi around a picture of up to 1000 px; around a larger one
everything is larger in proportion, letters too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from histofast.report.style import COLORMAP, INK, RC

_DPI = 100
_EDGE_PX, _TOP_PX, _BELOW_PX = 24, 92, 64
_GAP_PX, _BAR_PX, _LABELS_PX, _BAR_HEIGHT_PX = 24, 22, 110, 420
_LEAST_WIDTH_PX = 560  # of the whole figure: a caption is not cut off


def colors_of(shares: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """Return the colours of values at `shares` (0..1) of the scale.

    Args:
        shares: of any shape.

    Returns:
        (..., 3) uint8 RGB.
    """
    table = np.rint(colormaps[COLORMAP](np.arange(256))[:, :3] * 255).astype(np.uint8)
    colors: NDArray[np.uint8] = table[np.rint(np.clip(shares, 0, 1) * 255).astype(np.int64)]
    return colors


def plot_overlay(
    picture: NDArray[np.uint8],
    *,
    title: str,
    caption: str,
    ticks: Sequence[float],
    tick_labels: Sequence[str],
    alpha: float,
    um_per_px: float,
) -> NDArray[np.uint8]:
    """Draw a picture, a bar of its colours and one of length.

    Args:
        picture: (h, w, 3) uint8 RGB, colours laid over it already; no pixel of it is resampled.
        title: first line above the picture.
        caption: second line.
        ticks: places on the colour bar, 0..1.
        tick_labels: what stands there.
        alpha: opacity of the colours, 0..1; the bar shows them on white.
        um_per_px: scale of the picture.

    Returns:
        (height, width, 3) uint8 RGB, the figure.
    """
    unit = max(1.0, max(picture.shape[:2]) / 1000)
    dpi = _DPI * unit
    h, w = (side / unit for side in picture.shape[:2])
    letters = max(len(title) * 9.5, len(caption) * 7.2)  # about the width of the lines
    width = max(
        2 * _EDGE_PX + w + _GAP_PX + _BAR_PX + _LABELS_PX, _LEAST_WIDTH_PX, _EDGE_PX + letters
    )
    bar_height = min(_BAR_HEIGHT_PX, max(h, 120))
    height = _TOP_PX + max(h, bar_height) + _BELOW_PX
    width, height = (math.ceil(side * unit) / unit for side in (width, height))
    with rc_context(RC):
        figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=dpi, facecolor="white")

        def axes_at(x: float, y: float, axes_width: float, axes_height: float) -> Any:
            """Axes by their top-left corner, counted from the top."""
            return figure.add_axes(
                (
                    x / width,
                    1 - (y + axes_height) / height,
                    axes_width / width,
                    axes_height / height,
                )
            )

        figure.text(
            *(_EDGE_PX / width, 1 - 30 / height),
            title,
            fontsize=11,
            color=INK,
            va="center",
            weight="bold",
        )
        figure.text(
            *(_EDGE_PX / width, 1 - 58 / height), caption, fontsize=9, color=INK, va="center"
        )
        bar = axes_at(_EDGE_PX + w + _GAP_PX, _TOP_PX, _BAR_PX, bar_height)
        colors = 255 * (1 - alpha) + alpha * colors_of(np.linspace(0, 1, 256))
        bar.imshow(
            np.rint(colors).astype(np.uint8)[:, np.newaxis],
            origin="lower",
            extent=(0, 1, 0, 1),
            aspect="auto",
            interpolation="none",
        )
        bar.set_xticks([])
        bar.yaxis.tick_right()
        bar.set_yticks(ticks, tick_labels, fontsize=8.5)
        length_um = _round_length(w * unit * um_per_px / 4)
        ruler = axes_at(
            _EDGE_PX, _TOP_PX + max(h, bar_height) + 16, length_um / um_per_px / unit, 3
        )
        ruler.set_facecolor(INK)
        ruler.set_xticks([])
        ruler.set_yticks([])
        for spine in ruler.spines.values():
            spine.set_visible(False)
        label = f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um:g} um"
        figure.text(
            *(_EDGE_PX / width, (_BELOW_PX - 38) / height),
            label,
            fontsize=9,
            color=INK,
            va="center",
        )
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    drawn = np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])
    # Put in afterwards: matplotlib would resample it, through floats.
    left, top = round(_EDGE_PX * unit), round(_TOP_PX * unit)
    drawn[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return drawn


def _round_length(most_um: float) -> float:
    """Return the longest of 1, 2, 5, 10, 20 ... that is not above `most_um`."""
    power = 10.0 ** math.floor(math.log10(most_um))
    return power * max(k for k in (1, 2, 5) if k * power <= most_um * (1 + 1e-9))
