"""Bags of ready-made patch images in, the stream of their patches out."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, Future
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histofast._numbers import whole_number
from histofast._stopping import stop_if_asked
from histofast.errors import SlideError
from histofast.patches.stream import BATCH_SIZE, PatchBatch, decoding
from histofast.patches.tables import PatchBag
from histofast.slides import read_image
from histofast.tiling import cut_patches


def stream_bag(
    bag: PatchBag,
    *,
    patch_px: int | None = None,
    batch_size: int = BATCH_SIZE,
    allow_upsampling: bool = False,
    workers: Executor | None = None,
) -> Iterator[PatchBatch]:
    """Yield the images of a bag as batches of patches.

    Args:
        bag: from `read_patch_table`.
        patch_px: side to average them down to; their own when None.
        batch_size: patches per batch.
        allow_upsampling: accept images smaller than `patch_px`.
        workers: threads that decode; one per available CPU when None.

    Raises:
        SlideError: an image that is missing or broken, not square, or of another size than the
            first, or smaller than `patch_px`.
    """
    batch_size = whole_number("batch_size", batch_size, at_least=1)
    patch_px = whole_number("patch_px", patch_px, at_least=1)
    side = bag_patch_px(bag)
    target = patch_px or side
    if side < target and not allow_upsampling:
        raise SlideError(
            f"patches of bag {bag.name} are {side} px, asked for {target} px: "
            "use a smaller patch_px, or accept interpolated pixels with allow_upsampling=True"
        )

    def load(file: Path) -> NDArray[np.uint8]:
        image = read_image(file)
        if image.shape != (side, side, 3):
            raise SlideError(
                f"{file} must be {side} x {side} px like the first of bag {bag.name}, "
                f"got {image.shape[1]} x {image.shape[0]}"
            )
        if side == target:
            return image
        out = np.empty((1, target, target, 3), np.uint8)
        box = np.array([[0.0, 0.0, side, side]])
        slot_of = np.zeros((1, 1), np.int32)
        cut_patches(image[None], slot_of, box, width=side, height=side, out=out)
        patch: NDArray[np.uint8] = out[0]
        return patch

    coords = bag.coords
    none_l0, none = np.empty((0, 4), np.int64), np.empty(0, np.int64)
    with decoding(workers) as pool:
        pending: list[Future[NDArray[np.uint8]]] = []
        try:
            for start in range(0, len(bag), batch_size):
                stop_if_asked()
                stop = min(start + batch_size, len(bag))
                while len(pending) < min(stop + batch_size, len(bag)):
                    pending.append(pool.submit(load, bag.files[len(pending)]))
                pixels = np.stack([pending[i].result() for i in range(start, stop)])
                for i in range(start, stop):
                    pending[i] = Future()  # lets go of the decoded image
                yield PatchBatch(pixels, coords[start:stop], none_l0, none, "")
        finally:
            for future in pending:
                future.cancel()


def bag_patch_px(bag: PatchBag) -> int:
    """Side of the bag's patches in pixels, from its first image, which must be square."""
    height, width = read_image(bag.files[0]).shape[:2]
    if height != width:
        raise SlideError(f"{bag.files[0]} must be square, got {width} x {height} px")
    return int(width)
