"""A picture of a slide with its tissue and its patches drawn on it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from histofast._arrays import check
from histofast.tissue.finding import Tissue


def preview(
    image: NDArray[np.uint8], tissue: Tissue, boxes_l0: NDArray[np.int64] | None = None
) -> NDArray[np.uint8]:
    """Draw the outline of the tissue (green) and of the patches (blue) on an overview.

    Args:
        image: (h, w, 3) uint8 RGB overview of the whole slide, of any size.
        tissue: what to outline.
        boxes_l0: (n, 4) int64 (x, y, width, height) of the patches in level-0 pixels.

    Returns:
        (h, w, 3) uint8, a new array.

    Raises:
        TypeError: wrong dtype.
        ValueError: wrong shape or a strided array.
    """
    h, w = check("image", image, "uint8", ("h", "w", 3))
    drawn = image.copy()
    if h == 0 or w == 0:
        return drawn
    if boxes_l0 is not None:
        check("boxes_l0", boxes_l0, "int64", ("n", 4))
        scale = np.array([w / tissue.width_l0, h / tissue.height_l0] * 2)
        corners = np.concatenate([boxes_l0[:, :2], boxes_l0[:, :2] + boxes_l0[:, 2:]], axis=1)
        lines = _outlines(np.rint(corners * scale).astype(np.int64), (h, w))
        blue = np.array([40, 90, 220], np.uint16)
        drawn[lines] = (drawn[lines] + 2 * blue) // 3
    rows = (np.arange(h) + 0.5) * tissue.mask.shape[0] / h
    columns = (np.arange(w) + 0.5) * tissue.mask.shape[1] / w
    inside = tissue.mask[rows.astype(np.int64)[:, None], columns.astype(np.int64)] != 0
    line = _edge(inside)
    for _ in range(max(h, w) // 1600):
        line |= _grown(line)
    drawn[line] = (0, 150, 50)
    return drawn


def _outlines(corners: NDArray[np.int64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """One-pixel outlines of boxes (n, 4) given by their first and last-but-one corners."""
    h, w = shape
    x0, y0, x1, y1 = (
        np.clip(values, 0, side - 1) for values, side in zip(corners.T, (w, h, w, h), strict=True)
    )
    # Lines as +1 where they begin and -1 behind their end, summed up along them.
    across = np.zeros((h, w + 1), np.int32)
    down = np.zeros((h + 1, w), np.int32)
    for y in (y0, y1):
        np.add.at(across, (y, x0), 1)
        np.add.at(across, (y, x1 + 1), -1)
    for x in (x0, x1):
        np.add.at(down, (y0, x), 1)
        np.add.at(down, (y1 + 1, x), -1)
    drawn: NDArray[np.bool_] = np.cumsum(across[:, :-1], axis=1) > 0
    drawn |= np.cumsum(down[:-1], axis=0) > 0
    return drawn


def _edge(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of `inside` with a neighbour (4) outside, and those neighbours."""
    edge = np.zeros_like(inside)
    differ = inside[1:] != inside[:-1]
    edge[1:] |= differ
    edge[:-1] |= differ
    differ = inside[:, 1:] != inside[:, :-1]
    edge[:, 1:] |= differ
    edge[:, :-1] |= differ
    return edge


def _grown(line: NDArray[np.bool_]) -> NDArray[np.bool_]:
    grown = np.zeros_like(line)
    grown[1:] |= line[:-1]
    grown[:-1] |= line[1:]
    grown[:, 1:] |= line[:, :-1]
    grown[:, :-1] |= line[:, 1:]
    return grown
