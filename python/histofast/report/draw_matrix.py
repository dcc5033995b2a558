"""A matrix as colours, with its values written where they fit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.collections import PolyCollection
from matplotlib.patches import Patch
from numpy.typing import NDArray

from histofast.report.charts import Matrix
from histofast.report.numbers import number, signed
from histofast.report.sheet import Sheet
from histofast.report.style import BLACK, COLORMAP, DIVERGING, HATCH, INK, WHITE, ink_on

_MAP, _LEAST_CELL, _MOST_CELL = 5.0, 0.135, 0.46  # inches
_WRITTEN_CELL = 0.4  # cells of this size have their value written in them
_BAR_GAP, _BAR = 0.2, 0.16


def colors(shares: NDArray[np.floating[Any]], *, diverging: bool = False) -> NDArray[np.uint8]:
    """As `colors_of` of this room; `diverging` are those of differences."""
    table = np.rint(
        colormaps[DIVERGING if diverging else COLORMAP](np.arange(256))[:, :3] * 255
    ).astype(np.uint8)
    found: NDArray[np.uint8] = table[np.rint(np.clip(shares, 0, 1) * 255).astype(np.int64)]
    return found


def draw_matrix(sheet: Sheet, matrix: Matrix) -> None:
    """Draw a heat map and its bar of colours as a new panel of a sheet."""
    la, lb = len(matrix.rows), len(matrix.columns)
    cell = min(max(_MAP / max(la, lb), _LEAST_CELL), _MOST_CELL)
    font = min(9.0, 72 * cell * 0.85)  # points
    axes = sheet.axes(cell * lb, cell * la)
    axes.set(xlim=(-0.5, lb - 0.5), ylim=(la - 0.5, -0.5))
    axes.spines[["left", "bottom"]].set_visible(False)
    _draw_cells(sheet, axes, matrix, written=cell >= _WRITTEN_CELL)
    sheet.name_ticks(axes, "x", matrix.columns, size=font)
    sheet.name_ticks(axes, "y", matrix.rows, size=font)
    axes.set_xlabel(matrix.column_label, fontsize=10, color=INK)
    axes.set_ylabel(matrix.row_label, fontsize=10, color=INK)
    draw_bar(
        sheet,
        colors(np.linspace(0, 1, 256), diverging=matrix.form == "difference"),
        left=cell * lb + _BAR_GAP,
        height=max(cell * la, 0.6),
        low=matrix.low,
        high=matrix.high,
    )
    sheet.explain(axes, _keys(matrix))


def draw_bar(
    sheet: Sheet, shown: NDArray[np.uint8], *, left: float, height: float, low: float, high: float
) -> Any:
    """Draw a bar of colours (256, 3) from `low` to `high`, and return its axes."""
    bar = sheet.axes(_BAR, height, left=left)
    extent = (0.0, 1.0, low, high)
    bar.imshow(
        shown[:, np.newaxis], aspect="auto", origin="lower", extent=extent, interpolation="none"
    )
    bar.set_xticks([])
    bar.yaxis.tick_right()
    bar.tick_params(labelsize=8)
    bar.spines[:].set_visible(False)
    return bar


def _draw_cells(sheet: Sheet, axes: Any, matrix: Matrix, *, written: bool) -> None:
    values = np.array(matrix.values, float)
    shares = np.clip((values - matrix.low) / (matrix.high - matrix.low), 0, 1)
    blank = np.isnan(values)
    diverging = matrix.form == "difference"
    write = signed if diverging else number

    def tips(places: Any) -> list[str]:
        said = []
        for i, j in places.tolist():
            word = matrix.words.get((i, j), matrix.blank)
            value = word if blank[i, j] else write(values[i, j])
            said.append(f"{matrix.rows[i]} / {matrix.columns[j]}: {value}")
        return said

    known, unknown = np.argwhere(~blank), np.argwhere(blank)
    filled = colors(shares[~blank], diverging=diverging) / 255
    edges: dict[str, Any] = {"facecolors": filled, "edgecolors": filled, "linewidths": 0.3}
    hatch: dict[str, Any] = {"facecolors": "none", "edgecolors": HATCH, "hatch": "////", "lw": 0}
    for places, kind, look in ((known, "cell", edges), (unknown, "blank", hatch)):
        if len(places):
            group = sheet.group(kind, tips(places))
            cells = PolyCollection(_squares(places), gid=group, clip_on=False, zorder=1, **look)
            axes.add_collection(cells)
    for color, width in ((WHITE, 2.2), (BLACK, 0.9)) if matrix.outlined else ():
        outlined = _squares(np.array(matrix.outlined))
        group = sheet.group("outline")
        around: dict[str, Any] = {"facecolors": "none", "edgecolors": color, "linewidths": width}
        axes.add_collection(PolyCollection(outlined, gid=group, zorder=3, **around))
    for i, j in known.tolist() if written else ():
        text = f"{values[i, j]:.2f}".replace("-0.00", "0.00")
        text = f"+{text}" if diverging and values[i, j] > 0 and text != "0.00" else text
        color = ink_on(shares[i, j], diverging=diverging)
        axes.text(j, i, text, ha="center", va="center", fontsize=8, color=color, zorder=5)


def _squares(places: NDArray[np.int64]) -> list[NDArray[np.float64]]:
    """Return the (4, 2) corners of each cell (row, column)."""
    corners = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])
    return list(places[:, np.newaxis, ::-1] + corners)


def _keys(matrix: Matrix) -> list[Any]:
    keys = []
    if matrix.outlined and matrix.outline:
        keys.append(Patch(fc="none", ec=INK, lw=0.9, label=matrix.outline))
    if any(math.isnan(value) for row in matrix.values for value in row):
        keys.append(Patch(fc="none", ec=HATCH, hatch="////", lw=0, label=matrix.blank))
    return keys
