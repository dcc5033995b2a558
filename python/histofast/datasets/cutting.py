"""One picture in, its crops of one size and scale out, and whether a crop shows anything."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from histofast.tiling import cut_patches

_LUMINANCE = np.array([2125, 7154, 721], np.int32)  # of Rec. 709, as scikit-image has it, in 1e-4
_BATCH = 64  # crops at a time


def grid(length: float, *, side: int, overlap: float) -> NDArray[np.float64]:
    """Return where crops begin along an axis.

    Every `round(side * (1 - overlap))` from 0; where that leaves an end uncovered, one more at the end
    (our reading: the original drops it).

    Args:
        length: of the axis, in pixels of the crops; at least `side`.
        side: of a crop.
        overlap: of neighbours, a share of `side`, 0..0.95.

    Returns:
        (k,) float64, k >= 1.

    Example:
        >>> grid(1024, side=272, overlap=0.25).tolist()
        [0.0, 204.0, 408.0, 612.0, 752.0]
    """
    stride = max(1, round(side * (1 - overlap)))
    room = max(0.0, length - side)
    starts = stride * np.arange(math.floor(room / stride + 1e-9) + 1, dtype=np.float64)
    # Less than a pixel is rounding of the scale, not tissue.
    return np.append(starts, room) if room - starts[-1] >= 1 else starts


def crops(
    image: NDArray[np.uint8], *, side: int, overlap: float, scale: float = 1.0
) -> Iterator[NDArray[np.uint8]]:
    """Cut a picture into overlapping squares, by area averaging.

    An axis that is shorter than a crop is continued by its mirror image on both sides, without its
    border twice, as often as it takes.

    Args:
        image: (h, w, 3) uint8.
        side: of a crop, pixels.
        overlap: of neighbours, a share of `side`.
        scale: pixels of the picture to one of a crop.

    Yields:
        (k, side, side, 3) uint8, at most 64 at a time, row by row; at least one in all.
    """
    needed = math.ceil(side * scale - 1e-9)
    short = [max(0, needed - length) for length in image.shape[:2]]
    if any(short):
        around = [(lack // 2, lack - lack // 2) for lack in short]
        image = np.pad(image, (*around, (0, 0)), mode="reflect")
    height, width = image.shape[:2]
    ys, xs = (grid(length / scale, side=side, overlap=overlap) for length in (height, width))
    boxes = np.array([(x, y, side, side) for y in ys for x in xs]) * scale
    pool, slots = np.ascontiguousarray(image)[None], np.zeros((1, 1), np.int32)
    for start in range(0, len(boxes), _BATCH):
        part = boxes[start : start + _BATCH]
        out = np.empty((len(part), side, side, 3), np.uint8)
        cut_patches(pool, slots, part, width=width, height=height, out=out)
        yield out


def contrast(image: NDArray[np.uint8]) -> float:
    """Return how far apart the 5th and 99th percentile of an image's luminance are, 0..1.

    scikit-image's `is_low_contrast` at its default of 0.05 asks whether this is below 0.1: it takes
    the range of floats, which luminance is there, for -1..1.

    Args:
        image: (h, w, 3) uint8.
    """
    luminance = (image.reshape(-1, 3).astype(np.int32) @ _LUMINANCE).astype(np.int32)
    last = len(luminance) - 1
    places = [(0.05 * last), (0.99 * last)]
    around = [(math.floor(place), math.ceil(place)) for place in places]
    ordered = np.partition(luminance, sorted({i for pair in around for i in pair}))
    low, high = (
        float(ordered[i]) + (place - i) * float(ordered[j] - ordered[i])
        for place, (i, j) in zip(places, around, strict=True)
    )
    return (high - low) / (255 * float(_LUMINANCE.sum()))
