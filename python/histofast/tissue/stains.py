"""Overview in, what of its ink-coloured pixels is stained tissue out.

At about 8 um per pixel a pixel is a nucleus: tissue is grained and a stroke of a pen is smooth. Over tissue a
pen takes away the light of the channel that its dye absorbs, and that channel's grain with it; a blue or
green stain is seen in just that channel. So grain is looked for in the lowest of the three.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

# Grey levels of standard deviation over 5 x 5 px. H&E (a real slide) has 20 and more in three quarters of its
# area, dyed blue or green 15 at every scale of 4 to 16 um; under pens that let through up to
# a third of the light it has less than 11.
GRAIN = 12
_GRAIN_PX, _AROUND_PX = 5, 25  # sides of the squares: of grain, of what decides: 200 um
_SPECK, _GROWN = 2, 4  # radii, as the kernel has them


def stained(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Find tissue among what has the colours of pens.

    An area of ink colours (8-connected, as `tissue_mask` leaves it out) with grain on less than a third, its
    border apart, is a stroke, all of it. In any other each pixel goes with the majority of the 25 x 25
    px around it, so that a stroke across blue tissue stays a stroke.

    Args:
        image: (h, w, 3) uint8 RGB.

    Returns:
        (h, w) bool, of pixels that `tissue_mask` leaves out.

    Determinism: bitwise, on every machine.
    """
    core = _core(image)  # the squares of grain about these pixels show ink colours only
    foreign = _dilated(core, _GROWN)
    grained = core & _grained(image)
    labels, count = ndimage.label(foreign, np.ones((3, 3), int))
    of_core, of_grained = (
        np.bincount(labels[part], minlength=count + 1) for part in (core, grained)
    )
    # Strokes over H&E have grain on up to a quarter of their area, blue tissue with one across it on more.
    is_tissue = (of_core > 0) & (3 * of_grained >= of_core)
    is_tissue[0] = False
    if not is_tissue.any():
        return np.zeros(foreign.shape, np.bool_)
    near_core, near_grained = (_sums(part, _AROUND_PX, repeats=False) for part in (core, grained))
    found: NDArray[np.bool_] = is_tissue[labels] & (near_core > 0) & (2 * near_grained >= near_core)
    return found


def in_no_ink(image: NDArray[np.uint8], where: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return a picture in which some pixels have no pen's colour: magenta, of the chroma that they had.

    Args:
        image: (h, w, 3) uint8 RGB.
        where: (h, w) bool.
    """
    shown = image.copy()
    pixels = image[where]
    high, low = pixels.max(axis=1), pixels.min(axis=1)
    shown[where] = np.stack([high, low, high], axis=1)
    return shown


def _core(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """(h, w) bool: centres of 5 x 5 px of pen and black, as the kernel has them before it lets them grow."""
    red, green, blue = (image[..., i].astype(np.int16) for i in range(3))
    high = np.maximum(np.maximum(red, green), blue)
    chroma = high - np.minimum(np.minimum(red, green), blue)
    raw = (blue - red >= 72) & (red - green <= 8)
    raw |= (green - red >= 24) & (green - blue >= 8)
    raw |= red - np.maximum(green, blue) >= 144
    raw |= (high < 80) & (chroma < 24)
    return _eroded(_eroded(_dilated(raw, 1), 1), _SPECK)


def _dilated(bits: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """Square of side 2 * radius + 1; nothing beyond the edge."""
    grown = bits
    for axis in (0, 1):
        before = np.moveaxis(grown, axis, 0)
        grown = grown.copy()
        after = np.moveaxis(grown, axis, 0)
        for by in range(1, radius + 1):
            after[by:] |= before[:-by]
            after[:-by] |= before[by:]
    return grown


def _eroded(bits: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """The same for what is not set, so that an edge does not erode."""
    return ~_dilated(~bits, radius)


def _grained(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where the lowest channel has grain; whole numbers, so no rounding."""
    low = np.minimum(np.minimum(image[..., 0], image[..., 1]), image[..., 2])
    n = _GRAIN_PX**2
    sums = _sums(low, _GRAIN_PX, repeats=True)
    squares = _sums(low.astype(np.int32) ** 2, _GRAIN_PX, repeats=True)
    grained: NDArray[np.bool_] = n * squares - sums * sums > (n * GRAIN) ** 2
    return grained


def _sums(values: NDArray[Any], side: int, *, repeats: bool) -> NDArray[np.int32]:
    """Sum over the square of `side` pixels around each pixel; beyond the edge it repeats, or there is nothing."""
    sums = np.pad(values.astype(np.int32), side // 2, mode="edge" if repeats else "constant")
    for axis in (0, 1):
        # Differences are right even where the running sum has gone beyond 32 bits.
        running = np.cumsum(sums, axis=axis, dtype=np.int32)
        sums = running[side - 1 :].copy() if axis == 0 else running[:, side - 1 :].copy()
        np.moveaxis(sums, axis, 0)[1:] -= np.moveaxis(running, axis, 0)[:-side]
    return sums
