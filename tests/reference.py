"""Plain NumPy definitions of what the kernels compute: the specification, no cleverness.

Each section defines one kernel; tests/test_<kernel>.py holds the kernel to it.
"""

from __future__ import annotations

import numpy as np

# --- tiles: area-averaging resampling -------------------------------------------------------------


def axis_weights(start: float, length: float, count: int, size: int) -> np.ndarray:
    """(count, size) float64: how much of each source pixel is in each output pixel of one axis.

    Output pixel i is the mean of the source over [start + i*s, start + (i+1)*s), s = length/count.
    For s < 1 (upsampling) it is linear interpolation at the cell's centre. Outside 0..size the
    source continues as its edge pixel.
    """
    weights = np.zeros((count, size))
    s = length / count
    for i in range(count):
        if s >= 1:
            low, high = start + i * s, start + (i + 1) * s
            for pixel in range(int(np.floor(low)), int(np.ceil(high))):
                share = min(high, pixel + 1) - max(low, pixel)
                weights[i, min(max(pixel, 0), size - 1)] += max(share, 0.0) / s
        else:
            centre = start + (i + 0.5) * s - 0.5
            pixel = int(np.floor(centre))
            weights[i, min(max(pixel, 0), size - 1)] += 1 - (centre - pixel)
            weights[i, min(max(pixel + 1, 0), size - 1)] += centre - pixel
    return weights


def cut_patch(level: np.ndarray, box: tuple[float, float, float, float], patch_px: int) -> np.ndarray:
    """(p, p, 3) float64: the box (x, y, width, height) of `level` (h, w, 3), averaged to p px."""
    x, y, width, height = box
    rows = axis_weights(y, height, patch_px, level.shape[0])
    columns = axis_weights(x, width, patch_px, level.shape[1])
    return np.einsum("ih,hwc,jw->ijc", rows, level.astype(np.float64), columns, optimize=True)


def coverage(mask: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(n,) float64: mean of `mask` (h, w) over each box (x, y, width, height) in mask pixels.

    Outside the mask there is no tissue.
    """
    result = np.zeros(len(boxes))
    for k, (x, y, width, height) in enumerate(boxes):
        for row in range(max(int(np.floor(y)), 0), min(int(np.ceil(y + height)), mask.shape[0])):
            for column in range(max(int(np.floor(x)), 0), min(int(np.ceil(x + width)), mask.shape[1])):
                overlap_y = min(y + height, row + 1) - max(y, row)
                overlap_x = min(x + width, column + 1) - max(x, column)
                result[k] += max(overlap_y, 0) * max(overlap_x, 0) * bool(mask[row, column])
        result[k] /= width * height
    return result
