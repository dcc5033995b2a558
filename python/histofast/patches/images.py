"""Bags of ready-made patch images in, the stream of their patches out."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, Future

import numpy as np
from numpy.typing import NDArray

from histofast._numbers import whole_number
from histofast._stopping import stop_if_asked
from histofast.patches.fitting import FittedBag, fit_bag
from histofast.patches.stream import BATCH_SIZE, PatchBatch, decoding
from histofast.patches.tables import OddPatches, PatchBag


def stream_bag(
    bag: PatchBag,
    *,
    patch_px: int | None = None,
    batch_size: int = BATCH_SIZE,
    odd: OddPatches | None = None,
    allow_upsampling: bool = False,
    workers: Executor | None = None,
) -> Iterator[PatchBatch]:
    """Yield the images of a bag as batches of patches.

    Args:
        bag: from `read_patch_table`.
        patch_px: side of the patches; when None that of the images.
        batch_size: patches per batch.
        odd: what to do with images of other sizes, see `fit_bag`.
        allow_upsampling: accept images smaller than `patch_px`.
        workers: threads that decode; one per available CPU when None.

    Raises:
        SlideError: as `fit_bag`; an image that is missing or broken.
    """
    patch_px = whole_number("patch_px", patch_px, at_least=1)
    fitted = fit_bag(bag, patch_px=patch_px, odd=odd, allow_upsampling=allow_upsampling)
    yield from stream_fitted(fitted, batch_size=batch_size, workers=workers)


def stream_fitted(
    fitted: FittedBag, *, batch_size: int = BATCH_SIZE, workers: Executor | None = None
) -> Iterator[PatchBatch]:
    """As `stream_bag`, for one of which it is decided what becomes of its images."""
    batch_size = whole_number("batch_size", batch_size, at_least=1)
    bag = fitted.bag
    coords = bag.coords
    none_l0, none = np.empty((0, 4), np.int64), np.empty(0, np.int64)
    with decoding(workers) as pool:
        pending: list[Future[NDArray[np.uint8]]] = []
        try:
            for start in range(0, len(bag), batch_size):
                stop_if_asked()
                stop = min(start + batch_size, len(bag))
                while len(pending) < min(stop + batch_size, len(bag)):
                    pending.append(pool.submit(fitted.load, bag.files[len(pending)]))
                pixels = np.stack([pending[i].result() for i in range(start, stop)])
                for i in range(start, stop):
                    pending[i] = Future()  # lets go of the decoded image
                yield PatchBatch(pixels, coords[start:stop], none_l0, none, "")
        finally:
            for future in pending:
                future.cancel()
