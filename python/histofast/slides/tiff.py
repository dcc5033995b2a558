"""Tiled TIFF of any vendor: tifffile reads the directories once, imagecodecs decodes the tiles.

A tile that the file leaves out (no bytes) shows what the next finer level shows there (its nearest
pixels), and white on level 0: that is background which a scanner skipped. GDAL leaves out tiles of its
"no data" value, or of zeros: in its files they show that, as with other readers.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from histofast._arrays import check
from histofast._words import clipped, one_line
from histofast.errors import StoreError, TileError
from histofast.slides.associated import Associated
from histofast.slides.byte_source import ByteSource
from histofast.slides.codestreams import largest_stream
from histofast.slides.slide import Slide
from histofast.slides.tiff_beside import read_page
from histofast.slides.tiff_layout import TiffLayout
from histofast.tiling import WHITE


class TiffSlide(Slide):
    """A tiled TIFF whose tiles are decoded straight from the file into the caller's array."""

    def __init__(self, source: ByteSource, layout: TiffLayout, *, mpp: float) -> None:
        """Serve the file whose directories gave `layout`; `mpp` is the level-0 scale.

        `source` is closed with the slide.
        """
        self.path = source.place
        self.name = source.place.stem
        self.mpp = mpp
        self.levels = layout.levels
        self.properties = dict(layout.properties)
        self._tables, self._beside = layout.tables, layout.beside
        self._icc_profile = layout.icc_profile
        self._source = source
        self._is_closed = False

    @property
    def identity(self) -> str:
        return self._source.identity or super().identity

    @property
    def associated(self) -> Mapping[str, NDArray[np.uint8]]:
        return Associated(tuple(self._beside), self._read_beside)

    @property
    def icc_profile(self) -> bytes:
        return self._icc_profile

    def _read_beside(self, name: str) -> NDArray[np.uint8]:
        self._check_open()
        return read_page(self._source, self._beside[name])

    def _check_open(self) -> None:
        if self._is_closed:
            raise ValueError(f"{self.path} is closed")

    def prefetch(self, level: int, tiles: NDArray[np.int64]) -> None:
        if not self._source.reads_ahead:
            return
        info, table = self.levels[level], self._tables[level]
        of_planes = np.arange(0, table.offsets.size, table.plane_tiles)
        index = (tiles[:, 1:] * table.file_columns + tiles[:, :1] + of_planes).reshape(-1)
        most = largest_stream(info.tile_width * info.tile_height)
        index = index[(table.offsets[index] > 0) & (table.sizes_bytes[index] <= most)]
        ranges = np.stack([table.offsets[index], table.sizes_bytes[index]], axis=1)
        self._source.prefetch(ranges.astype(np.int64))

    def read_tile(self, level: int, column: int, row: int, out: NDArray[np.uint8]) -> None:
        info = self.levels[level]
        shape = (info.tile_height, info.tile_width, 3)
        if out.shape != shape or out.dtype != np.uint8 or not out.flags.c_contiguous:
            check("out", out, "uint8", shape)
        self._check_open()
        try:
            if not (0 <= column < info.columns and 0 <= row < info.rows):
                raise ValueError("there is no such tile")
            table = self._tables[level]
            index = row * table.file_columns + column
            most = largest_stream(info.tile_width * info.tile_height)
            parts = [
                self._read_bytes(table.offsets.item(i), table.sizes_bytes.item(i), most)
                for i in range(index, table.offsets.size, table.plane_tiles)
            ]
            if all(parts):
                table.decode(parts, index, out)
            else:
                self._fill_absent(level, column, row, out)
        except (TileError, StoreError, MemoryError):  # none of the latter is damage to the tile
            raise
        except Exception as error:
            raise TileError(
                f"{self.path}: tile (column {column}, row {row}) of level {level} cannot be"
                f" decoded: {clipped(one_line(error), 200)}"
            ) from error

    def _read_bytes(self, offset: int, count: int, most: int) -> bytes:
        """Read part of the file; empty for a tile that the file leaves out."""
        if count == 0 or offset == 0:
            return b""
        if count > most:
            raise ValueError(f"a tile of its size has at most {most:,} bytes, got {count:,}")
        data = self._source.read(offset, count)
        if len(data) != count:
            raise ValueError(f"its {count} bytes at {offset:,} lie past the end of the file")
        return data

    def _fill_absent(self, level: int, column: int, row: int, out: NDArray[np.uint8]) -> None:
        """Show what the file says of absent tiles, else the next finer level there, else white."""
        absent = self._tables[level].absent
        out[...] = WHITE if absent is None else absent
        if level == 0 or absent is not None:
            return
        info, finer, table = self.levels[level], self.levels[level - 1], self._tables[level - 1]
        ratio = info.downsample / finer.downsample
        # The finer pixel under the centre of each pixel of the tile.
        x = ((np.arange(info.tile_width) + column * info.tile_width + 0.5) * ratio).astype(np.int64)
        y = ((np.arange(info.tile_height) + row * info.tile_height + 0.5) * ratio).astype(np.int64)
        x, y = x[x < finer.width], y[y < finer.height]
        tile = np.empty((finer.tile_height, finer.tile_width, 3), np.uint8)
        for r in np.unique(y // finer.tile_height).tolist():
            for c in np.unique(x // finer.tile_width).tolist():
                if level == 1 and table.sizes_bytes[r * table.file_columns + c] == 0:
                    continue  # stays white
                self.read_tile(level - 1, c, r, tile)
                in_y, in_x = y // finer.tile_height == r, x // finer.tile_width == c
                pixels = tile[y[in_y] % finer.tile_height][:, x[in_x] % finer.tile_width]
                out[np.ix_(np.flatnonzero(in_y), np.flatnonzero(in_x))] = pixels

    def close(self) -> None:
        self._is_closed = True
        self._source.close()
