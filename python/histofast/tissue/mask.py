"""Overview in, mask out: (h, w) uint8 of 0 and 1 that covers what the overview shows.

*Foreign* is what is no part of the slide: pen marks and black (glass edges, pen, unscanned area).
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

from histofast import _core
from histofast._arrays import check, empty, one_place
from histofast._numbers import whole_number

REVISION = 2  # of the definition of the mask; part of every identity
MAX_CLOSE_PX = 32
Array = TypeVar("Array")  # NumPy's, or one of torch or CuPy on a GPU


def tissue_mask(
    image: Array,
    *,
    threshold: int | None = None,
    exclude_foreign: bool = True,
    close_px: int = 3,
    max_hole_px: int = 1562,
    min_area_px: int = 312,
    out: Array | None = None,
) -> Array:
    """Find tissue on an overview.

    The score of a pixel is its chroma, max(R, G, B) - min(R, G, B), smoothed by the 5 x 5 binomial.
    Tissue scores above the threshold; that mask is closed, small holes are filled, small objects
    removed. The defaults in pixels are those of `find_tissue` at 8 um per pixel.

    Args:
        image: (h, w, 3) uint8 RGB. NumPy array, or one of torch or CuPy on a GPU.
        threshold: 0..255. None takes Otsu's between strong stain and the rest, and, where this rest
            is two classes itself, Otsu's between faint stain and glass; at least 8. A picture of
            one class is all tissue or none.
        exclude_foreign: leave out pen marks (blue, green, strong red) and black. Switch it off for
            blue or green stains: trichrome, Alcian blue, light green.
        close_px: radius of the square that closes gaps, 0..32.
        max_hole_px: holes of up to so many pixels are filled.
        min_area_px: objects of fewer pixels are removed.
        out: (h, w) uint8 to write into; allocated beside `image` when omitted.

    Returns:
        `out`: (h, w) uint8, 1 is tissue.

    Raises:
        TypeError: wrong dtype, or a parameter that is no number.
        ValueError: wrong shape, a strided array, arrays in two places, or a parameter out of range.

    Determinism: bitwise, on every machine; CPU and GPU give the same mask.
    On a GPU the call is asynchronous on the library's current stream.
    Reference: Otsu 1979 (threshold).

    Example:
        >>> image = np.full((40, 40, 3), 245, np.uint8)
        >>> image[10:30, 10:30] = (200, 120, 170)
        >>> int(tissue_mask(image, min_area_px=100).sum())
        480
    """
    h, w = check("image", image, "uint8", ("h", "w", 3))
    if out is None:
        out = empty((h, w), "uint8", like=image)
    check("out", out, "uint8", (h, w))
    mask_into(
        image,
        out,
        threshold=threshold,
        exclude_foreign=exclude_foreign,
        close_px=close_px,
        max_hole_px=max_hole_px,
        min_area_px=min_area_px,
    )
    return out


def mask_into(
    image: Any,
    out: Any,
    *,
    threshold: int | None,
    exclude_foreign: bool,
    close_px: int,
    max_hole_px: int,
    min_area_px: int,
) -> Any:
    """Write the mask into `out` and return what was found on the way.

    Returns:
        (3,) int32 in the place of `image`: the threshold used, how many pixels score above it, and
        how many of these are not foreign. On a GPU both are results to come: nothing waits here.
    """
    threshold = whole_number("threshold", threshold, at_least=0, at_most=255)
    options: dict[str, Any] = {
        "threshold": -1 if threshold is None else threshold,
        "exclude_foreign": exclude_foreign,
        "close_px": whole_number("close_px", close_px, at_least=0, at_most=MAX_CLOSE_PX),
        "max_hole_px": whole_number("max_hole_px", max_hole_px, at_least=0),
        "min_area_px": whole_number("min_area_px", min_area_px, at_least=0),
    }
    library = one_place(image=image, out=out)
    if library is None:
        return np.array(_core.tissue_mask(image, out, **options), np.int32)
    size = _core.tissue_mask_scratch_bytes(*out.shape, **options)
    found = library.empty((3,), "int32", image)
    scratch = library.empty((size,), "uint8", image)
    _core.tissue_mask(
        image, out, **options, found=found, scratch=scratch, stream=library.stream(image)
    )
    return found
