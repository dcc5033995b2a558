"""Tiles of a slide's pyramid as JPEG, from blocks that are decoded once and kept while there is room."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histofast.errors import TileError
from histofast.slides import Slide, encode_tile
from histofast.tiling import cut_patches
from histofast.viewer.blocks import Abandoned, Block, Blocks
from histofast.viewer.pyramid import TILE_PX, Pyramid

QUALITY = 85
GREY = (200, 200, 200)  # of what cannot be decoded
CACHE_BYTES = 192 << 20
IsWanted = Callable[[], bool]


@dataclass(frozen=True, kw_only=True, slots=True)
class TileFile:
    """A compressed tile.

    Attributes:
        data: JPEG.
        unreadable: (level, column, row) of the tiles of the slide's file that are grey in it.
        reason: why the first of them is; "" where none is.
    """

    data: bytes
    unreadable: frozenset[tuple[int, int, int]]
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Tiled:
    """An open slide, the number its blocks are kept under, and its pyramid."""

    number: int
    slide: Slide
    pyramid: Pyramid


class Tiles:
    """Tiles of any number of slides. Thread-safe."""

    def __init__(self, blocks: Blocks | None = None) -> None:
        self.blocks = Blocks(CACHE_BYTES) if blocks is None else blocks

    def pixels(
        self, tiled: Tiled, z: int, column: int, row: int, *, is_wanted: IsWanted = lambda: True
    ) -> Block | None:
        """Return a tile; None where there is none.

        Returns:
            Pixels (h, w, 3) uint8, h and w 512 or less at the right and bottom edge; what cannot be decoded
            in `GREY`.

        Raises:
            Abandoned: `is_wanted` said no, which is asked between blocks.
        """
        size = tiled.pyramid.tile_size(z, column, row)
        if size is None:
            return None
        if z and tiled.pyramid.sources[z - 1].level is None:  # the zoom below is made of it
            block = self._of_zoom(tiled, z, column, row, is_wanted)
        else:
            block = self._cut(tiled, z, column, row, is_wanted)
        assert block.pixels is not None
        pixels = np.ascontiguousarray(block.pixels[: size[1], : size[0]])
        return Block(pixels, block.unreadable, block.reason)

    def jpeg(
        self, tiled: Tiled, z: int, column: int, row: int, *, is_wanted: IsWanted = lambda: True
    ) -> TileFile | None:
        """Return a tile as JPEG; None where there is none. See `pixels`."""
        block = self.pixels(tiled, z, column, row, is_wanted=is_wanted)
        if block is None or block.pixels is None:
            return None
        data = encode_tile(block.pixels, codec="jpeg", quality=QUALITY)
        return TileFile(data=data, unreadable=block.unreadable, reason=block.reason)

    def _cut(self, tiled: Tiled, z: int, column: int, row: int, is_wanted: IsWanted) -> Block:
        """Make a whole tile: past the edge of the slide its edge goes on."""
        source = tiled.pyramid.sources[z]
        window = tiled.pyramid.window(z, column, row)
        grid = source.grid
        places = [(c, r) for r in window.rows for c in window.columns]
        pool = np.empty((len(places), grid.tile_height, grid.tile_width, 3), np.uint8)
        slot_of = np.arange(len(places), dtype=np.int32)
        unreadable, reason = frozenset[tuple[int, int, int]](), ""
        for slot, (c, r) in enumerate(places):
            if not is_wanted():
                raise Abandoned
            if source.level is None:
                block = self._of_zoom(tiled, z + 1, c, r, is_wanted)
            else:
                block = self._of_slide(tiled, source.level, c, r)
            if block.pixels is None:
                slot_of[slot] = -1
            else:
                pool[slot] = block.pixels
            unreadable |= block.unreadable
            reason = reason or block.reason
        out = np.empty((1, TILE_PX, TILE_PX, 3), np.uint8)
        cut_patches(
            pool,
            slot_of.reshape(len(window.rows), len(window.columns)),
            np.array([window.box], np.float64),
            width=window.width,
            height=window.height,
            out=out,
            fill=GREY,
        )
        return Block(out[0], unreadable, reason)

    def _of_zoom(self, tiled: Tiled, z: int, column: int, row: int, is_wanted: IsWanted) -> Block:
        key = (tiled.number, -1 - z, column, row)
        return self.blocks.get(key, lambda: self._cut(tiled, z, column, row, is_wanted))

    def _of_slide(self, tiled: Tiled, level: int, column: int, row: int) -> Block:
        key = (tiled.number, level, column, row)
        return self.blocks.get(key, lambda: _decode(tiled.slide, level, column, row))


def _decode(slide: Slide, level: int, column: int, row: int) -> Block:
    info = slide.levels[level]
    pixels: NDArray[np.uint8] = np.empty((info.tile_height, info.tile_width, 3), np.uint8)
    try:
        slide.read_tile(level, column, row, pixels)
    except TileError as error:
        return Block(None, frozenset({(level, column, row)}), str(error))
    return Block(pixels)
