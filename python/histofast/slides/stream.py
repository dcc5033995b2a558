"""From boxes on one level to pixels: every tile under a box is decoded once, no other at all.

The boxes are served in order, in batches. Before anything is decoded the whole schedule is known:
which batch needs a tile first and which last. So the pool of decoded tiles has exactly the size the
order of the boxes asks for, slots are reused as soon as their tile is done with, and memory does
not grow with the slide.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from histofast._stopping import stop_if_asked
from histofast.errors import TileError
from histofast.slides.resizing import resize_patches
from histofast.tiling import WHITE, Resample

# Tiles per task: enough that handing out a task costs little beside decoding them.
TILES_PER_TASK = 4
# Batches decoded ahead of the one being cut.
LOOKAHEAD = 2


class TiledLevel(Protocol):
    """What streaming needs to know of a level (`Level` has it)."""

    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def tile_width(self) -> int: ...
    @property
    def tile_height(self) -> int: ...


class TiledSlide(Protocol):
    """What streaming needs of a slide (`Slide` has it)."""

    @property
    def levels(self) -> Sequence[TiledLevel]: ...
    def prefetch(self, level: int, tiles: NDArray[np.int64]) -> None: ...
    def read_tile(self, level: int, column: int, row: int, out: NDArray[np.uint8]) -> None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Unreadable:
    """A tile that could not be decoded."""

    column: int
    row: int
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """`pixels` (n, p, p, 3) uint8 of boxes start..start+n, and what was unreadable beneath them.

    `unreadable` lists a tile with the first batch that needed it; `damaged` (k,) int64 are the
    boxes of this batch that show at least one unreadable tile, there in `WHITE`.
    """

    start: int
    pixels: NDArray[np.uint8]
    unreadable: tuple[Unreadable, ...]
    damaged: NDArray[np.int64]


class Schedule:
    """When each tile of a level is needed, for boxes served in order in batches.

    Args:
        boxes: (n, 4) float64 (x, y, width, height) in pixels of the level.
        patch_px: side of the patch each box becomes.
        batch_size: boxes per batch.
        size: (width, height) of the level in pixels.
        tile_size: (width, height) of its tiles.

    Attributes:
        tiles: per batch, (k, 2) int64 (column, row) of the tiles needed first by it.
        released: per batch, flat indices of the tiles not needed after it.
        slots: number of tiles that are in memory at once, `LOOKAHEAD` batches ahead included.
    """

    def __init__(
        self,
        boxes: NDArray[np.float64],
        *,
        patch_px: int,
        batch_size: int,
        size: tuple[int, int],
        tile_size: tuple[int, int],
    ) -> None:
        self.columns, self.rows = (-(-s // t) for s, t in zip(size, tile_size, strict=True))
        self.batches = -(-len(boxes) // batch_size)
        batch_of = (np.arange(len(boxes)) // batch_size).astype(np.int32)
        self._x = _tile_range(boxes[:, 0], boxes[:, 2], patch_px, size[0], tile_size[0])
        self._y = _tile_range(boxes[:, 1], boxes[:, 3], patch_px, size[1], tile_size[1])

        first = np.full(self.rows * self.columns, self.batches, np.int32)
        last = np.full(self.rows * self.columns, -1, np.int32)
        for flat, where in self._tiles_under(np.arange(len(boxes))):
            # On repeated indices the last assignment stands, and batches only grow.
            last[flat] = np.maximum(last[flat], batch_of[where])
            np.minimum.at(first, flat, batch_of[where])
        needed = np.flatnonzero(last >= 0)
        by_first = needed[np.argsort(first[needed], kind="stable")]
        starts = np.searchsorted(first[by_first], np.arange(self.batches + 1))
        columns_rows = np.stack([by_first % self.columns, by_first // self.columns], axis=1)
        self.tiles = [columns_rows[a:b] for a, b in itertools.pairwise(starts)]
        by_last = needed[np.argsort(last[needed], kind="stable")]
        ends = np.searchsorted(last[by_last], np.arange(self.batches + 1))
        self.released = [by_last[a:b] for a, b in itertools.pairwise(ends)]

        loaded = np.cumsum([len(t) for t in self.tiles])
        freed = np.cumsum([0] + [len(r) for r in self.released])
        ahead = np.minimum(np.arange(self.batches) + LOOKAHEAD, self.batches - 1)
        self.slots = int((loaded[ahead] - freed[:-1]).max(initial=0))
        self.decoded = len(needed)

    def _tiles_under(
        self, boxes: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Pairs (flat tile index, box index), a few long arrays that together hold all pairs."""
        if len(boxes) == 0:
            return
        (x0, x1), (y0, y1) = self._x, self._y
        for dy in range(int((y1 - y0)[boxes].max()) + 1):
            for dx in range(int((x1 - x0)[boxes].max()) + 1):
                where = boxes[(x0[boxes] + dx <= x1[boxes]) & (y0[boxes] + dy <= y1[boxes])]
                yield (y0[where] + dy) * self.columns + x0[where] + dx, where

    def boxes_on(self, boxes: NDArray[np.int64], bad: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Those of `boxes` under which a tile of `bad` (flat) lies."""
        hit = np.zeros(int(boxes[-1]) + 1 if len(boxes) else 0, bool)
        for flat, where in self._tiles_under(boxes):
            hit[where[bad[flat]]] = True
        return np.flatnonzero(hit)


def _tile_range(
    start: NDArray[np.float64], length: NDArray[np.float64], patch_px: int, size: int, tile: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last tile that the taps of `cut_patches` may touch along one axis."""
    # Interpolation (upsampling) reaches half a pixel further than the box.
    reach = np.where(length < patch_px, 1.0, 0.0)
    low = np.clip(np.floor(start - reach), 0, size - 1).astype(np.int64)
    high = np.clip(np.ceil(start + length + reach) - 1, 0, size - 1).astype(np.int64)
    return low // tile, np.maximum(high // tile, low // tile)


def _uninitialised(slots: int, tile_height: int, tile_width: int) -> NDArray[np.uint8]:
    """(slots, tile_height, tile_width, 3) uint8, not initialised, at an address of 16 mod 32."""
    # On rows aligned to 32 bytes libjpeg-turbo writes past the caches, a third slower for us, who
    # read them soon.
    size = slots * tile_height * tile_width * 3
    raw = np.empty(size + 32, np.uint8)
    start = (16 - raw.ctypes.data) % 32
    return raw[start : start + size].reshape(slots, tile_height, tile_width, 3)


class _TilePool:
    """The decoded tiles that are in memory: filled ahead in `workers`, emptied batch by batch.

    `slot_of` (rows, columns) int32 is where the pool has a tile, -1 where it has not; `bad` (flat)
    marks the tiles that could not be decoded.
    """

    def __init__(
        self, slide: TiledSlide, level: int, schedule: Schedule, *, workers: Executor
    ) -> None:
        info = slide.levels[level]
        self._slide, self._level, self._schedule, self._workers = slide, level, schedule, workers
        self.tiles = _uninitialised(schedule.slots, info.tile_height, info.tile_width)
        self.slot_of = np.full((schedule.rows, schedule.columns), -1, np.int32)
        self.bad = np.zeros(self.slot_of.size, bool)
        self._flat_slots = self.slot_of.reshape(-1)
        self._free = list(range(schedule.slots - 1, -1, -1))
        self._pending: list[list[Future[list[Unreadable]]]] = []

    def fill(self, batch: int) -> tuple[Unreadable, ...]:
        """Wait for the tiles of a batch, those of the next ones under way; return what failed."""
        while len(self._pending) < min(batch + LOOKAHEAD + 1, self._schedule.batches):
            self._submit(len(self._pending))
        failed = [tile for future in self._pending[batch] for tile in future.result()]
        self._pending[batch] = []
        for tile in failed:
            # The slot stays taken until the tile is released, but nothing is shown from it.
            self.bad[tile.row * self._schedule.columns + tile.column] = True
        return tuple(failed)

    def _submit(self, batch: int) -> None:
        jobs = []
        for column, row in self._schedule.tiles[batch].tolist():
            slot = self._free.pop()
            self.slot_of[row, column] = slot
            jobs.append((column, row, slot))
        self._pending.append(
            [
                self._workers.submit(self._decode, jobs[i : i + TILES_PER_TASK])
                for i in range(0, len(jobs), TILES_PER_TASK)
            ]
        )

    def _decode(self, jobs: Sequence[tuple[int, int, int]]) -> list[Unreadable]:
        failed = []
        for column, row, slot in jobs:
            try:
                self._slide.read_tile(self._level, column, row, self.tiles[slot])
            except TileError as error:
                failed.append(Unreadable(column=column, row=row, reason=str(error)))
        return failed

    def shown(self) -> NDArray[np.int32]:
        """As `slot_of`, without the tiles that could not be decoded."""
        if not self.bad.any():
            return self.slot_of
        return np.where(self.bad, -1, self._flat_slots).reshape(self.slot_of.shape)

    def release(self, batch: int) -> None:
        """Let go of the tiles that no batch after this one needs."""
        released = self._schedule.released[batch]
        self._free.extend(self._flat_slots[released].tolist())
        self._flat_slots[released] = -1

    def close(self) -> None:
        """Wait for the tasks under way and drop the rest; workers write into `tiles`."""
        for futures in self._pending:
            for future in futures:
                if not future.cancel():
                    future.exception()


def stream_boxes(
    slide: TiledSlide,
    level: int,
    boxes: NDArray[np.float64],
    *,
    patch_px: int,
    batch_size: int,
    workers: Executor,
    resample: Resample = "area",
) -> Iterator[Batch]:
    """Cut `boxes` (n, 4), in pixels of `level`, to patches; yield them in order, in batches.

    Decoding runs ahead in `workers`. Tiles that cannot be decoded are shown in white and reported.
    Stopping the iteration early waits for the tasks under way and drops the rest.
    """
    if len(boxes) == 0:
        return
    info = slide.levels[level]
    schedule = Schedule(
        boxes,
        patch_px=patch_px,
        batch_size=batch_size,
        size=(info.width, info.height),
        tile_size=(info.tile_width, info.tile_height),
    )
    slide.prefetch(level, np.concatenate(schedule.tiles))
    pool = _TilePool(slide, level, schedule, workers=workers)
    try:
        for batch in range(schedule.batches):
            stop_if_asked()
            failed = pool.fill(batch)
            start = batch * batch_size
            stop = min(start + batch_size, len(boxes))
            pixels = np.empty((stop - start, patch_px, patch_px, 3), np.uint8)
            resize_patches(
                pool.tiles,
                pool.shown(),
                boxes[start:stop],
                width=info.width,
                height=info.height,
                resample=resample,
                out=pixels,
                fill=WHITE,
            )
            damaged = np.empty(0, np.int64)
            if pool.bad.any():
                damaged = schedule.boxes_on(np.arange(start, stop), pool.bad)
            pool.release(batch)
            yield Batch(start=start, pixels=pixels, unreadable=failed, damaged=damaged)
    finally:
        pool.close()
