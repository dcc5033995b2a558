"""Decoded tiles of a level and boxes in, square patches out."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

from histofast import _core
from histofast._arrays import check, one_place

WHITE = (255, 255, 255)
Array = TypeVar("Array")  # NumPy's, or one of torch or CuPy on a GPU


def cut_patches(
    pool: Any,
    slot_of: Any,
    boxes: Any,
    *,
    width: int,
    height: int,
    out: Array,
    fill: tuple[int, int, int] = WHITE,
) -> Array:
    """Resample boxes of a tiled level to square patches, by area averaging.

    Args:
        pool: (slots, th, tw, 3) uint8 decoded tiles. NumPy array, or one of torch or CuPy on a GPU;
            so are the other arrays, all in one place. Tiles whose width is a multiple of 16 pixels
            are read fastest on a GPU.
        slot_of: (rows, columns) int32 slot of each tile of the level; -1 for none, shown as `fill`.
        boxes: (n, 4) float64 (x, y, width, height) in pixels of the level. Past its edge the edge
            pixel continues.
        width: of the level in pixels; the rest of the last tiles is padding.
        height: likewise.
        out: (n, p, p, 3) uint8 or float32 to write into. Floats are from 0 to 255, what the bytes are
            before they are rounded; on a CPU they are slow.
        fill: RGB of tiles that are not there.

    Returns:
        `out`: the mean of each of the p x p cells of each box; where a cell is smaller than a
        pixel, linear interpolation. Bytes are within 1 of tests/reference.py's real-valued
        `cut_patch`, floats within 0.5, and within 0.05 of it for cells below 5 pixels.

    Raises:
        TypeError: wrong dtype.
        ValueError: wrong shape, a strided array, arrays in different places, a box that is not
            finite, or absurdly large, or has no area. On a GPU nobody looks at the boxes and slots
            beforehand: such a box gives a patch of `fill`, and slots have to be right.

    Determinism: bitwise, on every CPU, instruction set and GPU.
    On a GPU the call is asynchronous on the current stream of the arrays' library.
    """
    slots, _, _ = check("pool", pool, "uint8", ("slots", "th", "tw", 3))
    check("slot_of", slot_of, "int32", ("rows", "columns"))
    (n,) = check("boxes", boxes, "float64", ("n", 4))
    check("out", out, ("uint8", "float32"), (n, "p", "p", 3))
    patches: Any = out  # the stub knows NumPy's arrays only
    library = one_place(pool=pool, slot_of=slot_of, boxes=boxes, out=out)
    if library is not None:
        stream = library.stream(out)
        _core.cut_patches(pool, slot_of, boxes, width, height, fill, patches, stream=stream)
        return out
    if n and not ((np.abs(boxes) < 2**31).all() and (boxes[:, 2:] > 0).all()):
        raise ValueError("boxes must be finite, below 2**31, with width and height above 0")
    if slot_of.size and int(slot_of.max()) >= slots:
        raise ValueError(f"slot_of must name slots below {slots}, got {int(slot_of.max())}")
    _core.cut_patches(pool, slot_of, boxes, width, height, fill, patches)
    return out
