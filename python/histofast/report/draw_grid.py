"""Square pictures in rows and columns."""

from __future__ import annotations

from matplotlib.patches import Rectangle

from histofast.report.charts import Grid
from histofast.report.sheet import Sheet
from histofast.report.style import INK

_TILE, _GAP = 0.84, 0.05  # inches


def draw_grid(sheet: Sheet, grid: Grid, *, titled: bool = False) -> None:
    """Draw a grid as a new panel of a sheet, under its title or not."""
    width = _length(max(tile.column + tile.side for tile in grid.tiles))
    height = _length(max(tile.row + tile.side for tile in grid.tiles))
    axes = sheet.axes(width, height)
    for tile in grid.tiles:
        left, top = (place * (_TILE + _GAP) for place in (tile.column, tile.row))
        side = _length(tile.side)
        extent = (left, left + side, top + side, top)
        axes.imshow(tile.pixels, extent=extent, aspect="auto", interpolation="none")
        if tile.tip:  # clear, but there to be pointed at
            group = sheet.group("tile", [tile.tip])
            axes.add_patch(Rectangle((left, top), side, side, color=INK, alpha=0.0, gid=group))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    if titled and grid.title:
        axes.set_title(grid.title, loc="left", fontsize=9, color=INK, pad=4)


def _length(tiles: int) -> float:
    return tiles * _TILE + (tiles - 1) * _GAP
