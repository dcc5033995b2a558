"""Which pixels of a slide each tile of a power-of-two pyramid shows.

Zoom `max_level` is level 0 at 1:1, each zoom below halves it, sizes rounded up, and zoom 0 fits into one
tile. A pixel of a zoom is the mean of what it covers on the coarsest level of the slide that is not
coarser than the zoom (1 % tolerance, as of patches). Where that level is more than twice as fine, it is
the mean of what it covers on the zoom above, whose tiles are kept: so no tile of a slide that has few
levels is decoded again for every zoom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from histofast.slides import Level
from histofast.tiling import LEVEL_TOLERANCE

TILE_PX = 512
_MOST_REDUCTION = 2.0  # straight from a level of the slide
_REACH_PX = 1.0  # around a box that is a little smaller than its tile: it is interpolated


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """What a zoom is made of.

    Attributes:
        level: index of a level of the slide; None: the zoom above.
        grid: its size and tiles.
        reduction: pixels of it per pixel of the zoom, along each side.
    """

    level: int | None
    grid: Level
    reduction: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """The part of a source that a tile needs.

    Attributes:
        columns, rows: of its tiles.
        box: (x, y, width, height) that the tile shows, in pixels from the first of these tiles.
        width, height: of these tiles together, px, as far as the source goes.
    """

    columns: range
    rows: range
    box: tuple[float, float, float, float]
    width: int
    height: int


class Pyramid:
    """The zooms of a slide whose levels are `levels`, finest first."""

    def __init__(self, levels: Sequence[Level]) -> None:
        base = levels[0]
        self._levels = levels
        self.max_level = max(0, (-(-max(base.width, base.height) // TILE_PX) - 1).bit_length())
        self.sources = tuple(self._source(z) for z in range(self.max_level + 1))

    def size(self, z: int) -> tuple[int, int]:
        """(width, height) of a zoom in pixels."""
        scale = 1 << (self.max_level - z)
        return -(-self._levels[0].width // scale), -(-self._levels[0].height // scale)

    def tile_size(self, z: int, column: int, row: int) -> tuple[int, int] | None:
        """(width, height) of a tile, cropped at the edges; None where there is no such tile."""
        if not 0 <= z <= self.max_level:
            return None
        width, height = self.size(z)
        left, top = width - column * TILE_PX, height - row * TILE_PX
        if column < 0 or row < 0 or left <= 0 or top <= 0:
            return None
        return min(TILE_PX, left), min(TILE_PX, top)

    def _source(self, z: int) -> Source:
        scale = float(1 << (self.max_level - z))
        levels = self._levels
        index = max(
            (
                i
                for i in range(len(levels))
                if levels[i].downsample <= scale * (1 + LEVEL_TOLERANCE)
            ),
            key=lambda i: levels[i].downsample,
        )
        reduction = scale / levels[index].downsample
        if reduction <= _MOST_REDUCTION * (1 + LEVEL_TOLERANCE):
            return Source(level=index, grid=levels[index], reduction=reduction)
        width, height = self.size(z + 1)
        above = Level(
            width=width,
            height=height,
            downsample=scale / 2,
            tile_width=TILE_PX,
            tile_height=TILE_PX,
        )
        return Source(level=None, grid=above, reduction=2.0)

    def window(self, z: int, column: int, row: int) -> Window:
        """Return what a tile needs of the source of its zoom."""
        source = self.sources[z]
        side = TILE_PX * source.reduction
        grid = source.grid
        columns = _tiles_under(column * side, side, grid.width, grid.tile_width)
        rows = _tiles_under(row * side, side, grid.height, grid.tile_height)
        x, y = columns.start * grid.tile_width, rows.start * grid.tile_height
        return Window(
            columns=columns,
            rows=rows,
            box=(column * side - x, row * side - y, side, side),
            width=min(grid.width - x, len(columns) * grid.tile_width),
            height=min(grid.height - y, len(rows) * grid.tile_height),
        )


def _tiles_under(start: float, length: float, size: int, tile: int) -> range:
    """Tiles that a part of an axis touches; the last one where it lies beyond all."""
    reach = _REACH_PX if length < TILE_PX else 0.0
    low = min(max(int(start - reach), 0), size - 1)
    high = min(max(int(-(-(start + length + reach) // 1)) - 1, low), size - 1)
    return range(low // tile, high // tile + 1)
