"""A comparison as a figure for print: every layer against every layer, and the diagonal beside it.

All lengths are inches, so that names stay readable however many layers there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from histofast.report.figure_files import save_figure
from histofast.report.findings import (
    Pair,
    basis_of,
    is_one_set,
    pairs_of,
    percent,
    title_of,
    word_for_blanks,
)
from histofast.report.style import (
    COLORMAP,
    DIAGONAL,
    FAINT,
    INK,
    LONGEST,
    PERMUTED,
    RANDOM,
    bottom_of,
    draw_legend,
    ink_on,
    shorten,
)
from histofast.similarity import Comparison

_HATCH = "////"
_MOST_CELL, _LEAST_CELL = 0.5, 0.125
_WRITTEN_CELL = 0.4  # cells of this size have their value written in them
_MAP, _TOP, _EDGE, _BAR_GAP, _BAR = 7.5, 1.25, 0.25, 0.2, 0.18


def plot_comparison(comparison: Comparison, path: Path) -> None:
    """Draw the matrix as a heat map, and beside it the diagonal with its interval and nulls.

    The scale runs from 0, or the lowest value if that is negative, to 1. Undefined cells are
    hatched; cells of layers with the same name are outlined. The same comparison gives the same
    file.

    Args:
        comparison: what to draw.
        path: of the image (PNG, PDF or SVG by its suffix), overwritten, whole or not at all.

    Raises:
        What `check_figure_path` raises.
    """
    save_figure(lambda: _figure(comparison), path)


def _figure(comparison: Comparison) -> Figure:
    pairs = pairs_of(comparison)
    la, lb = comparison.matrix.shape
    cell = min(max(_MAP / max(la, lb), _LEAST_CELL), _MOST_CELL)
    font = min(9.0, 72 * cell * 0.85)  # points
    letter = 0.62 * font / 72  # about the width of one
    rows, columns = (
        [shorten(name) for name in names] for names in (comparison.names_a, comparison.names_b)
    )
    left = 0.55 + letter * max(map(len, rows))
    below = 0.55 + letter * max(
        map(len, columns + [shorten(pair.name, 2 * LONGEST) for pair in pairs])
    )
    map_width, map_height = cell * lb, cell * la
    height = max(map_height, 3.0)
    bar_left = left + map_width + _BAR_GAP
    lines_left = bar_left + _BAR + 1.35
    lines_width = min(max(cell * len(pairs), 4.5), 12.0)
    width = (lines_left + lines_width if pairs else bar_left + _BAR + 0.6) + _EDGE
    figure = Figure(figsize=(max(width, 7.0), below + height + _TOP))

    def axes_at(x: float, y: float, w: float, h: float) -> Any:
        whole_w, whole_h = figure.get_size_inches()
        return figure.add_axes((x / whole_w, y / whole_h, w / whole_w, h / whole_h))

    top = below + height
    lowest = bottom_of(*comparison.matrix.ravel().tolist())
    _draw_map(
        axes_at(left, top - map_height, map_width, map_height),
        comparison,
        rows=rows,
        columns=columns,
        lowest=lowest,
        font=font,
        written=cell >= _WRITTEN_CELL,
    )
    bar = axes_at(bar_left, top - map_height, _BAR, map_height)
    figure.colorbar(ScalarMappable(Normalize(lowest, 1), COLORMAP), cax=bar)
    bar.tick_params(labelsize=8)
    bar.set_title(" ", fontsize=8)
    if pairs:
        _draw_lines(axes_at(lines_left, below, lines_width, height), comparison, pairs, font)
    said = f"{title_of(comparison)}: {comparison.measure}"
    x, y = _EDGE / figure.get_figwidth(), 1 - 0.28 / figure.get_figheight()
    figure.text(x, y, said, fontsize=12, color=INK, va="center", weight="bold")
    y = 1 - 0.52 / figure.get_figheight()
    figure.text(x, y, basis_of(comparison), fontsize=9, color=INK, va="center")
    return figure


def _draw_map(
    axes: Any,
    comparison: Comparison,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    lowest: float,
    font: float,
    written: bool,
) -> None:
    matrix = comparison.matrix
    axes.imshow(matrix, cmap=COLORMAP, vmin=lowest, vmax=1, aspect="auto", interpolation="none")
    undefined = np.argwhere(np.isnan(matrix))
    for i, j in undefined:
        axes.add_patch(
            Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, hatch=_HATCH, ec="#777777", lw=0)
        )
    outlined = [] if is_one_set(comparison) else comparison.pairs.tolist()
    for i, j in outlined:
        corner = (j - 0.5, i - 0.5)
        axes.add_patch(Rectangle(corner, 1, 1, fill=False, ec="#ffffff", lw=2.2, zorder=3))
        axes.add_patch(Rectangle(corner, 1, 1, fill=False, ec="#000000", lw=0.9, zorder=4))
    if written:
        for (i, j), value in np.ndenumerate(matrix):
            if not np.isnan(value):
                share = (value - lowest) / (1 - lowest)
                text = f"{value:.2f}".replace("-0.00", "0.00")
                axes.text(
                    j, i, text, ha="center", va="center", fontsize=8, color=ink_on(share), zorder=5
                )
    axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=font)
    axes.set_yticks(range(len(rows)), rows, fontsize=font)
    axes.tick_params(length=0, pad=3)
    if not is_one_set(comparison):
        axes.set_xlabel(comparison.label_b, fontsize=10)
        axes.set_ylabel(comparison.label_a, fontsize=10)
    keys = []
    if outlined:
        keys.append(Patch(fc="#ffffff", ec="#000000", lw=0.9, label="the same layer in both"))
    if len(undefined):
        label = word_for_blanks(comparison)
        keys.append(Patch(fc="#ffffff", ec="#777777", hatch=_HATCH, lw=0, label=label))
    if keys:
        draw_legend(axes, keys)


def _draw_lines(axes: Any, comparison: Comparison, pairs: Sequence[Pair], font: float) -> None:
    x = np.arange(len(pairs))

    def column(name: str) -> np.ndarray[Any, Any]:
        values = [getattr(pair, name) for pair in pairs]
        return np.array([np.nan if value is None else value for value in values])

    value, low, high = column("value"), column("low"), column("high")
    permuted, random = column("permuted"), column("random")
    drawn = np.concatenate([value, low, high, permuted, random])
    joined = not is_one_set(comparison)  # pairs of encoders have no order
    keys = axes.plot(
        x,
        value,
        "-o" if joined else "o",
        color=DIAGONAL,
        lw=1.8,
        ms=4.5,
        zorder=4,
        label=comparison.measure,
    )
    if not np.isnan(low).all():
        label = f"{percent(comparison.confidence)} interval"
        bars = axes.vlines(x, low, high, color=DIAGONAL, alpha=0.6, lw=1, zorder=3, label=label)
        if joined:
            axes.fill_between(x, low, high, color=DIAGONAL, alpha=0.22, lw=0, zorder=2)
        keys.append(Patch(fc=DIAGONAL, alpha=0.22, label=label) if joined else bars)
    if not np.isnan(permuted).all():
        keys += axes.plot(
            x,
            permuted,
            "--s" if joined else "s",
            color=PERMUTED,
            lw=1.3,
            ms=3,
            zorder=3,
            label="images shuffled",
        )
    if not np.isnan(random).all():
        keys += axes.plot(
            x,
            random,
            ":^" if joined else "^",
            color=RANDOM,
            lw=1.5,
            ms=4,
            zorder=3,
            label="random initialisation",
        )
    bottom, top = bottom_of(*drawn.tolist()), max(1.0, *drawn[~np.isnan(drawn)].tolist(), 1.0)
    for k in np.flatnonzero(np.isnan(value)):
        axes.axvspan(k - 0.5, k + 0.5, fc="none", ec="#999999", hatch=_HATCH, lw=0, zorder=1)
        axes.text(
            k,
            (bottom + top) / 2,
            "undefined",
            rotation=90,
            ha="center",
            va="center",
            fontsize=min(font, 8),
            color=INK,
            bbox={"fc": "white", "ec": "none", "pad": 1.2},
            zorder=5,
        )
    axes.set_xticks(
        x, [shorten(pair.name, 2 * LONGEST) for pair in pairs], rotation=90, fontsize=font
    )
    axes.set_xlim(-0.5, len(pairs) - 0.5)
    axes.set_ylim(bottom - 0.02, top + 0.02)
    axes.set_ylabel(comparison.measure, fontsize=10)
    axes.tick_params(axis="y", labelsize=9)
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="y", color=FAINT, lw=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    draw_legend(axes, keys)
