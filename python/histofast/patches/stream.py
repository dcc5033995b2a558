"""Patches in order, from a slide and a plan: batches of pixels and corners, row by row.

Batches of ready-made patch images (`images`) are the same to everything downstream: (n, p, p, 3)
uint8 RGB with (n, 2) int64 level-0 coordinates.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from histofast._machine import available_cpus
from histofast._numbers import whole_number
from histofast.errors import TileError
from histofast.slides import Slide, stream_boxes
from histofast.tiling import PatchPlan

# Small: memory of a few MB is used again by the allocator, larger pieces are cleared every time.
BATCH_SIZE = 8


class PatchBatch(NamedTuple):
    """Some consecutive patches.

    Attributes:
        pixels: (n, p, p, 3) uint8 RGB.
        coords_l0: (n, 2) int64 top-left corners, level-0 pixels.
        unreadable_l0: (k, 4) int64 boxes (x, y, width, height) newly found unreadable, level 0.
        damaged: (m,) int64 positions in the plan of patches of this batch that show such a box.
        reason: why the first of them was unreadable; empty when nothing was.
    """

    pixels: NDArray[np.uint8]
    coords_l0: NDArray[np.int64]
    unreadable_l0: NDArray[np.int64]
    damaged: NDArray[np.int64]
    reason: str


@contextmanager
def decoding(given: Executor | None) -> Iterator[Executor]:
    """Yield the threads given, or a thread for each CPU."""
    if given is not None:
        yield given
        return
    with ThreadPoolExecutor(available_cpus(), thread_name_prefix="histofast-decode") as own:
        yield own


def iter_patches(
    slide: Slide,
    plan: PatchPlan,
    *,
    batch_size: int = BATCH_SIZE,
    workers: Executor | None = None,
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """Yield the patches of a plan: (n, p, p, 3) uint8 pixels and (n, 2) int64 level-0 corners.

    Every compressed tile under a patch is decoded exactly once, others never; memory is bounded by
    the tiles under two rows of patches.

    Args:
        slide: the slide the plan was made for.
        plan: from `plan_patches`.
        batch_size: patches per batch; the last may be smaller.
        workers: threads that decode; one per available CPU when None.

    Raises:
        TileError: a tile under a patch cannot be decoded (`extract` counts and lists them instead).
        TypeError, ValueError: a batch_size that is no number, or below 1.

    Determinism: bitwise, whatever the threads and the batch size.
    """
    for batch in stream_slide(slide, plan, batch_size=batch_size, workers=workers):
        if len(batch.unreadable_l0):
            raise TileError(batch.reason)
        yield batch.pixels, batch.coords_l0


def stream_slide(
    slide: Slide,
    plan: PatchPlan,
    *,
    batch_size: int = BATCH_SIZE,
    workers: Executor | None = None,
) -> Iterator[PatchBatch]:
    """As `iter_patches`, but unreadable tiles are reported in the batch and shown in white."""
    batch_size = whole_number("batch_size", batch_size, at_least=1)
    with decoding(workers) as pool:
        for batch in stream_boxes(
            slide,
            plan.level,
            plan.boxes_level,
            patch_px=plan.patch_px,
            batch_size=batch_size,
            workers=pool,
            resample=plan.resample,
        ):
            at = np.array([(t.column, t.row) for t in batch.unreadable], np.int64).reshape(-1, 2)
            yield PatchBatch(
                pixels=batch.pixels,
                coords_l0=plan.coords_l0[batch.start : batch.start + len(batch.pixels)],
                unreadable_l0=slide.tile_boxes_l0(plan.level, at),
                damaged=batch.damaged,
                reason=batch.unreadable[0].reason if batch.unreadable else "",
            )
