"""What every slide is to the rest of histofast, whatever its format.

A slide is a pyramid of levels; each level is a grid of equally sized tiles that can be decoded
one by one from many threads. Formats without tiles (OpenSlide's, plain images) present blocks of
their own choosing as tiles. Coordinates are level-0 pixels, (x, y), top-left.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from histofast._machine import available_cpus
from histofast._notebook import SIDE_PX, Pictured
from histofast._numbers import real_number, whole_number
from histofast._remote import Place
from histofast._words import count
from histofast.errors import SlideError, TileError
from histofast.slides.associated import Associated
from histofast.slides.metadata import file_identity
from histofast.slides.stream import Unreadable, stream_boxes
from histofast.tiling import WHITE

MAX_OVERVIEW_PX = 1 << 28  # 0.8 GB
SURVEY_BATCH = 32  # blocks of an overview that are cut at a time
_REGION_PX = 256  # side of the blocks that a region is cut in
_SAME = 1e-6  # of two scales, relative


@dataclass(frozen=True, kw_only=True, slots=True)
class Level:
    """One level of the pyramid.

    `downsample` is the level-0 pixels per pixel of this level; an integer whenever the sizes allow
    it (4.0, not 3.9987 because the last row was cut off).
    """

    width: int
    height: int
    downsample: float
    tile_width: int
    tile_height: int

    @property
    def columns(self) -> int:
        """Number of tile columns."""
        return -(-self.width // self.tile_width)

    @property
    def rows(self) -> int:
        """Number of tile rows."""
        return -(-self.height // self.tile_height)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Survey:
    """The whole slide as one small picture, and what could not be decoded for it.

    Attributes:
        picture: (h, w, 3) uint8 RGB.
        unreadable_l0: (k, 4) int64 boxes (x, y, width, height) of unreadable tiles, level 0.
        reason: why the first of them is; empty when none is.
    """

    picture: NDArray[np.uint8]
    unreadable_l0: NDArray[np.int64]
    reason: str


class Slide(Pictured, ABC):
    """An open slide. A context manager; `close()` is safe to call twice.

    Attributes:
        path: file (or folder, for formats that are one), or address.
        name: what feature files are called after: the file name without its last suffix.
        levels: finest first; level 0 has downsample 1.
        mpp: level-0 um per pixel, already checked to lie in 0.05..20.
        properties: what the file says of itself (vendor, objective power, ...), strings.
        identity: short text that changes when the file's content does (size and sha256 of parts).
    """

    path: Place
    name: str
    levels: tuple[Level, ...]
    mpp: float
    properties: Mapping[str, str]
    _identity = ""

    @property
    def identity(self) -> str:
        if not self._identity:
            assert isinstance(self.path, Path), "what has an address has an identity of its own"
            companions = [file for file in self.files[1:] if isinstance(file, Path)]
            self._identity = file_identity(self.path, companions)
        return self._identity

    @property
    def files(self) -> tuple[Place, ...]:
        """All files that the slide is read from; none of an object that has an address."""
        return (self.path,) if isinstance(self.path, Path) else ()

    @property
    def origin_l0(self) -> tuple[int, int]:
        """Level-0 pixel that QuPath counts from: the corner of the scanned part, where it is known.

        Everything else here, and most other tools, count from the corner of the file's level 0.
        """
        return (0, 0)

    @property
    def associated(self) -> Mapping[str, NDArray[np.uint8]]:
        """The pictures beside the scan, by name: label, macro, thumbnail, as far as there are any.

        Each is (h, w, 3) uint8 RGB, decoded when it is asked for; one that is broken is a SlideError then,
        and no matter of the slide's.

        Example:
            slide.associated["label"]
        """
        return Associated()

    @property
    def icc_profile(self) -> bytes:
        """The ICC profile of its colours, as the file has it; b"" where there is none."""
        return b""

    @abstractmethod
    def read_tile(self, level: int, column: int, row: int, out: NDArray[np.uint8]) -> None:
        """Decode one tile into `out`, (tile_height, tile_width, 3) uint8 RGB, C-contiguous.

        Thread-safe; releases the GIL while decoding. Pixels past the edge of the level are
        unspecified.

        Raises:
            TileError: the tile is missing, truncated or corrupt; `out` is then unspecified.
            MemoryError: there is not enough; that says nothing of the tile.
        """

    def prefetch(self, level: int, tiles: NDArray[np.int64]) -> None:
        """Be told which tiles, (k, 2) column and row, will be read, in about this order, each once.

        It replaces what was told before.
        """

    @abstractmethod
    def close(self) -> None: ...

    @property
    def dimensions(self) -> tuple[int, int]:
        """(width, height) of level 0 in pixels."""
        return self.levels[0].width, self.levels[0].height

    def __repr__(self) -> str:
        width, height = self.dimensions
        levels = count(len(self.levels), "level")
        return f"{type(self).__name__}({self.name!r}, {width:,} x {height:,} px, {self.mpp:.4g} um/px, {levels})"

    def _picture(self) -> NDArray[np.uint8]:
        return self.thumbnail(SIDE_PX)

    def thumbnail(self, max_px: int = 1024) -> NDArray[np.uint8]:
        """Return the whole slide as a picture whose longer side has `max_px` pixels, or the slide's if that is less.

        Returns:
            (h, w, 3) uint8 RGB; see `overview`.

        Raises:
            SlideError: as `overview`.
            ValueError: max_px below 1.
        """
        longest = max(self.dimensions)
        shown = min(whole_number("max_px", max_px, at_least=1), longest)
        return self.overview(mpp=self.mpp * longest / shown)

    def read_region(
        self,
        location: tuple[int, int],
        level: int | None = None,
        size: tuple[int, int] | None = None,
        *,
        mpp: float | None = None,
    ) -> NDArray[np.uint8]:
        """Decode a rectangle, of one level or at an exact scale.

        Args:
            location: (x, y) of its top-left corner in level-0 pixels; may lie outside.
            level: index into `levels`; None: `mpp` is told.
            size: (width, height) in pixels of that level, or at that scale.
            mpp: um per pixel, not below the slide's: area-averaged from the nearest finer level, as
                patches are; None: `level` is told.

        Returns:
            (height, width, 3) uint8 RGB; white outside the slide.

        Raises:
            TypeError: no size.
            ValueError: no such level, a scale finer than the slide's, both or none of them, or a negative size.
            TileError: a tile under the rectangle cannot be decoded.

        Example:
            slide.read_region((30_000, 12_000), size=(512, 512), mpp=0.5)
        """
        if size is None:
            raise TypeError("size must be (width, height), got None")
        if min(size) < 0:
            raise ValueError(f"size must not be negative, got {size}")
        if (level is None) == (mpp is None):
            raise ValueError("level or mpp must be given, and not both")
        if mpp is not None:
            return self._read_at(location, size, real_number("mpp", mpp, above=0))
        level = whole_number("level", level, at_least=0, at_most=len(self.levels) - 1)
        assert level is not None
        info = self.levels[level]
        x0, y0 = (round(c / info.downsample) for c in location)
        x1, y1 = x0 + size[0], y0 + size[1]
        region = np.full((size[1], size[0], 3), WHITE, np.uint8)
        tile = np.empty((info.tile_height, info.tile_width, 3), np.uint8)
        left, right = max(x0, 0), min(x1, info.width)
        top, bottom = max(y0, 0), min(y1, info.height)
        if left >= right or top >= bottom:
            return region
        rows = range(top // info.tile_height, (bottom - 1) // info.tile_height + 1)
        columns = range(left // info.tile_width, (right - 1) // info.tile_width + 1)
        tiles = [(column, row) for row in rows for column in columns]
        self.prefetch(level, np.array(tiles, np.int64))
        for column, row in tiles:
            self.read_tile(level, column, row, tile)
            tx, ty = column * info.tile_width, row * info.tile_height
            xa, xb = max(left, tx), min(right, tx + info.tile_width)
            ya, yb = max(top, ty), min(bottom, ty + info.tile_height)
            part = tile[ya - ty : yb - ty, xa - tx : xb - tx]
            region[ya - y0 : yb - y0, xa - x0 : xb - x0] = part
        return region

    def _read_at(
        self, location: tuple[int, int], size: tuple[int, int], mpp: float
    ) -> NDArray[np.uint8]:
        """Decode a rectangle at a scale, in blocks."""
        scale = mpp / self.mpp
        if scale < 1 - _SAME:
            raise ValueError(
                f"mpp must be at least the slide's {self.mpp:.4g}, got {mpp:g}: nothing finer was scanned"
            )
        index = self.finer_than(scale)
        width, height = size
        corners = [
            (x, y) for y in range(0, height, _REGION_PX) for x in range(0, width, _REGION_PX)
        ]
        down = self.levels[index].downsample
        at = (np.array(location) + np.array(corners, np.float64).reshape(-1, 2) * scale) / down
        boxes = np.concatenate([at, np.full_like(at, _REGION_PX * scale / down)], axis=1)
        region = np.empty((height, width, 3), np.uint8)
        with ThreadPoolExecutor(available_cpus()) as pool:
            for batch in stream_boxes(
                self, index, boxes, patch_px=_REGION_PX, batch_size=SURVEY_BATCH, workers=pool
            ):
                for tile in batch.unreadable:
                    (box,) = self.tile_boxes_l0(index, np.array([[tile.column, tile.row]]))
                    if _meet(
                        box, (*location, width * scale, height * scale)
                    ):  # a block may go beyond
                        raise TileError(tile.reason)
                for (x, y), block in zip(corners[batch.start :], batch.pixels, strict=False):
                    part = region[y : y + _REGION_PX, x : x + _REGION_PX]
                    part[:] = block[: part.shape[0], : part.shape[1]]
        return region

    def finer_than(self, scale: float) -> int:
        """Return the coarsest level that has all the detail of a downsampling by `scale`."""
        return max(
            (i for i, level in enumerate(self.levels) if level.downsample <= scale * 1.01),
            key=lambda i: self.levels[i].downsample,
            default=0,
        )

    def overview(self, *, mpp: float = 8.0, workers: Executor | None = None) -> NDArray[np.uint8]:
        """The whole slide as one small picture, area-averaged from the nearest finer level.

        Args:
            mpp: um per pixel wanted; the picture's is `mpp` to within its rounding to whole pixels,
                or the slide's own where that is coarser.
            workers: threads that decode; its own for the duration of the call when None.

        Returns:
            (h, w, 3) uint8 RGB. One pixel is `width_l0 / w` by `height_l0 / h` level-0 pixels. Tiles
            that cannot be decoded are shown from the finer levels, in white where those have
            nothing either; `survey` tells which they are.

        Raises:
            SlideError: not one tile could be decoded.
        """
        return self.survey(mpp=mpp, workers=workers).picture

    def overview_size(self, *, mpp: float) -> tuple[int, int]:
        """(width, height) of `overview` in pixels."""
        scale = max(real_number("mpp", mpp, above=0) / self.mpp, 1.0)
        width, height = self.dimensions
        return max(1, round(width / scale)), max(1, round(height / scale))

    def survey(self, *, mpp: float = 8.0, workers: Executor | None = None) -> Survey:
        """Return `overview` together with the tiles of its level that cannot be decoded.

        Raises:
            SlideError: not one tile could be decoded, or the picture would not fit into memory.
        """
        w, h = self.overview_size(mpp=mpp)
        if w * h > MAX_OVERVIEW_PX:
            raise SlideError(
                f"an overview of {self.path} must have at most {MAX_OVERVIEW_PX:,} px, {w} x {h} at"
                f" {mpp} um/px: ask for a larger mpp"
            )
        index = self.finer_than(max(mpp / self.mpp, 1.0))
        picture = np.empty((h, w, 3), np.uint8)
        hole = np.ones((h, w), bool)
        own = ThreadPoolExecutor(available_cpus()) if workers is None else nullcontext(workers)
        with own as pool:
            unreadable = self._draw(index, picture, hole, pool)
            for finer in range(index - 1, -1, -1):
                if hole.any():
                    self._draw(finer, picture, hole, pool)
        if hole.all():
            raise SlideError(f"no tile can be decoded, the first: {unreadable[0].reason}")
        tiles = np.array([(t.column, t.row) for t in unreadable], np.int64).reshape(-1, 2)
        return Survey(
            picture=picture,
            unreadable_l0=self.tile_boxes_l0(index, tiles),
            reason=unreadable[0].reason if unreadable else "",
        )

    def _draw(
        self, index: int, picture: NDArray[np.uint8], hole: NDArray[np.bool_], workers: Executor
    ) -> list[Unreadable]:
        """Draw from one level what `hole` marks in `picture`; mark only what is unreadable there.

        Returns:
            The tiles that could not be decoded; they are white.
        """
        level = self.levels[index]
        h, w = hole.shape
        per_x, per_y = level.width / w, level.height / h
        # Blocks about one tile high: of larger ones more tile rows would be in memory at once.
        block = int(np.clip(level.tile_height / per_y, 8, 64))
        columns, rows = -(-w // block), -(-h // block)
        padded = np.zeros((rows * block, columns * block), bool)
        padded[:h, :w] = hole
        wanted = padded.reshape(rows, block, columns, block).any(axis=(1, 3))
        corners = np.ascontiguousarray(np.argwhere(wanted)[:, ::-1]) * block  # (x, y), row by row
        boxes = np.concatenate([corners, np.full_like(corners, block)], axis=1)
        boxes = boxes * np.array([per_x, per_y, per_x, per_y])
        unreadable: list[Unreadable] = []
        for batch in stream_boxes(
            self, index, boxes, patch_px=block, batch_size=SURVEY_BATCH, workers=workers
        ):
            for (x, y), patch in zip(corners[batch.start :].tolist(), batch.pixels, strict=False):
                part = np.s_[y : y + block, x : x + block]
                asked = hole[part]
                shown = patch[: asked.shape[0], : asked.shape[1]]
                np.copyto(picture[part], shown, where=asked[..., np.newaxis])
            unreadable += batch.unreadable
        bad = np.zeros_like(hole)
        for tile in unreadable:
            left, right = ((tile.column + i) * level.tile_width / per_x for i in (0, 1))
            top, bottom = ((tile.row + i) * level.tile_height / per_y for i in (0, 1))
            bad[int(top) : math.ceil(bottom), int(left) : math.ceil(right)] = True
        hole &= bad
        return unreadable

    def tile_boxes_l0(self, level: int, tiles: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where tiles of a level lie on level 0.

        Args:
            level: index into `levels`.
            tiles: (k, 2) int64 (column, row).

        Returns:
            (k, 4) int64 boxes (x, y, width, height), cut at the slide's edge.
        """
        info, base = self.levels[level], self.levels[0]
        tile_l0 = np.array([info.tile_width, info.tile_height]) * info.downsample
        low = np.floor(tiles * tile_l0).astype(np.int64)
        high = np.minimum(np.ceil((tiles + 1) * tile_l0), [base.width, base.height])
        return np.concatenate([low, high.astype(np.int64) - low], axis=1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _meet(a: Sequence[float] | NDArray[np.int64], b: Sequence[float]) -> bool:
    """Whether two boxes (x, y, width, height) have a place in common."""
    return all(a[i] < b[i] + b[i + 2] and b[i] < a[i] + a[i + 2] for i in (0, 1))
