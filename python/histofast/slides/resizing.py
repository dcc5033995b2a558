"""Boxes of pictures in, squares of another size out, resized as the makers of an encoder did.

Area averaging (`tiling.cut_patches`) is what patches are cut with; these are for encoders that were
trained on pictures of another resizing.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from histofast import _core
from histofast._arrays import check
from histofast.tiling import SLIVER, WHITE, Resample, cut_patches

_FILTERS = ("bicubic", "bilinear")


def resize_image(
    image: NDArray[np.uint8],
    *,
    resample: Literal["bicubic", "bilinear"],
    out: NDArray[np.uint8],
    box: tuple[float, float, float, float] | None = None,
) -> NDArray[np.uint8]:
    """Resize a picture, or a box of it, bit for bit as Pillow's `Image.resize` does.

    Filters are widened by the reduction ("antialias" elsewhere), so that no pixel is passed over: this is also
    what torchvision's `Resize` does to Pillow's pictures, and with `antialias=True` to tensors, but for
    rounding. OpenCV's and torch's `interpolate` without antialias are another thing.

    Args:
        image: (h, w, 3) uint8.
        resample: "bicubic" is Keys' cubic with a = -0.5, "bilinear" the triangle.
        out: (p, q, 3) uint8 to write into.
        box: (left, top, right, bottom) in pixels of the image, as Pillow has it; fractions are honoured; all of
            the image when None.

    Raises:
        TypeError: wrong dtype.
        ValueError: wrong shape, a strided array, another filter, or a box that is not in the image.

    Determinism: bitwise, on every machine.
    Reference: R. G. Keys, 1981, equation 15.

    Example:
        >>> image = np.repeat(np.arange(0, 240, 40, dtype=np.uint8), 3).reshape(1, 6, 3)
        >>> resize_image(image, resample="bilinear", out=np.empty((1, 3, 3), np.uint8))[0, :, 0].tolist()
        [29, 100, 171]
    """
    h, w = check("image", image, "uint8", ("h", "w", 3))
    check("out", out, "uint8", ("p", "q", 3))
    if resample not in _FILTERS:
        raise ValueError(f"resample must be bicubic or bilinear, got {resample!r}")
    left, top, right, bottom = (0, 0, w, h) if box is None else box
    if not (0 <= left < right <= w and 0 <= top < bottom <= h):
        raise ValueError(f"box must lie in the image, {w} x {h} px, got {box}")
    corners = (float(left), float(top), float(right), float(bottom))
    _core.resize_image(image, corners, resample == "bicubic", out)
    return out


def resize_patches(
    pool: NDArray[np.uint8],
    slot_of: NDArray[np.int32],
    boxes: NDArray[np.float64],
    *,
    width: int,
    height: int,
    resample: Resample,
    out: NDArray[np.uint8],
    fill: tuple[int, int, int] = WHITE,
) -> NDArray[np.uint8]:
    """Resample boxes of a tiled level to square patches in one of several ways.

    With "area" this is `tiling.cut_patches`, which explains the arguments. Else each box is cut out as the
    pixels that it touches, and these are resized by `resize_image`: nothing outside of the box is seen, as
    with a region that is read first and resized then.

    Determinism: bitwise, on every machine.
    """
    if resample == "area":
        return cut_patches(pool, slot_of, boxes, width=width, height=height, out=out, fill=fill)
    for box, patch in zip(boxes, out, strict=True):
        sliver = SLIVER * box[2:]
        first = np.floor(box[:2] + sliver)
        size = np.ceil(box[:2] + box[2:] - sliver) - first
        side = int(size.max())
        raw = np.empty((1, side, side, 3), np.uint8)
        whole = np.array([[*first, side, side]])
        cut_patches(pool, slot_of, whole, width=width, height=height, out=raw, fill=fill)
        pixels = np.ascontiguousarray(raw[0, : int(size[1]), : int(size[0])])
        within = np.concatenate([box[:2], box[:2] + box[2:]]) - np.tile(first, 2)
        left, top, right, bottom = np.clip(within, 0, np.tile(size, 2)).tolist()
        resize_image(pixels, resample=resample, out=patch, box=(left, top, right, bottom))
    return out
