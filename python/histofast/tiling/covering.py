"""A mask and boxes in, the share of the mask in each box out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from histofast._arrays import check

BAND_ROWS = 256
SLIVER = 1e-10  # of a box's side: rounding, no part of what the box shows


def coverage(mask: NDArray[np.uint8], boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of a mask over boxes, exact for fractional boxes, by an integral image.

    Args:
        mask: (h, w) uint8, 0 is background.
        boxes: (n, 4) float64 (x, y, width, height) in mask pixels; outside the mask is background.

    Returns:
        (n,) float64, 0..1.

    Raises:
        TypeError, ValueError: wrong dtype or shape.
    """
    h, w = check("mask", mask, "uint8", ("h", "w"))
    check("boxes", boxes, "float64", ("n", 4))
    result = np.zeros(len(boxes))
    if h == 0 or w == 0:
        return result
    first_row = np.clip(np.floor(boxes[:, 1]), 0, h).astype(np.int64)
    last_row = np.clip(np.ceil(boxes[:, 1] + boxes[:, 3]), 0, h).astype(np.int64)
    start = 0
    while start < len(boxes):
        # Boxes come row by row: an integral image of the rows of some of them at a time is small.
        reach = first_row[start] + BAND_ROWS
        beyond = np.flatnonzero(last_row[start:] > max(reach, last_row[start]))
        stop = start + int(beyond[0]) if len(beyond) else len(boxes)
        top, bottom = int(first_row[start:stop].min()), int(last_row[start:stop].max())
        if bottom > top:
            shifted = boxes[start:stop] - np.array([0, top, 0, 0])
            result[start:stop] = _means(mask[top:bottom], shifted)
        start = stop
    return result


def _means(mask: NDArray[np.uint8], boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """`coverage` by one integral image."""
    h, w = mask.shape
    integral = np.zeros((h + 1, w + 1), np.int64)
    np.cumsum(mask != 0, axis=0, out=integral[1:, 1:])
    np.cumsum(integral[1:, 1:], axis=1, out=integral[1:, 1:])

    def below(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        # The integral of a picture of squares is bilinear within each of them: exact.
        x, y = np.clip(x, 0, w), np.clip(y, 0, h)
        i, j = np.minimum(y.astype(np.int64), h - 1), np.minimum(x.astype(np.int64), w - 1)
        fy, fx = y - i, x - j
        top = integral[i, j] * (1 - fx) + integral[i, j + 1] * fx
        bottom = integral[i + 1, j] * (1 - fx) + integral[i + 1, j + 1] * fx
        result: NDArray[np.float64] = top * (1 - fy) + bottom * fy
        return result

    x0, y0, x1, y1 = boxes[:, 0], boxes[:, 1], boxes[:, 0] + boxes[:, 2], boxes[:, 1] + boxes[:, 3]
    inside = below(x1, y1) - below(x0, y1) - below(x1, y0) + below(x0, y0)
    # What cancels leaves a residue: a box that touches no set pixel covers exactly nothing.
    inside[_touched(integral, boxes) == 0] = 0.0
    return np.clip(inside / (boxes[:, 2] * boxes[:, 3]), 0.0, 1.0)


def _touched(integral: NDArray[np.int64], boxes: NDArray[np.float64]) -> NDArray[np.int64]:
    """Number of set pixels of which a box shows some, slivers of rounding apart."""
    h, w = (size - 1 for size in integral.shape)
    sliver = SLIVER * boxes[:, 2:]
    low = np.floor(boxes[:, :2] + sliver).astype(np.int64).clip(0, (w, h))
    high = np.ceil(boxes[:, :2] + boxes[:, 2:] - sliver).astype(np.int64).clip(0, (w, h))
    (x0, y0), (x1, y1) = low.T, high.T
    count: NDArray[np.int64] = (
        integral[y1, x1] - integral[y1, x0] - integral[y0, x1] + integral[y0, x0]
    )
    return count
