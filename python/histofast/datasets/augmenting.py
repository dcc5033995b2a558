"""Batches of training images in, changed ones out; what is drawn for an image hangs on its key alone.

Every transform draws from a stream of its own: switching one on changes nothing of the others. Order:
flips and quarter turns, affine map, stain, hue, colour shift, blur, cutout; values are rounded once.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast import _core
from histofast._arrays import check
from histofast._numbers import real_number, whole_number
from histofast.datasets.drawing import (
    SHIFTS,
    SIGMAS,
    TINTS,
    Draws,
    drawn_holes,
    drawn_maps,
    drawn_stains,
    drawn_turns,
    normal,
    uniform,
    within,
)

Pixels = NDArray[np.uint8]
Float = NDArray[np.float64]

_MOST = {"rotate_deg": 180, "shear_deg": 80, "scale": 0.9, "rgb_pca": 10, "blur_sigma": 20}
_LARGEST_PX = 30_000
_MEASURED = 1_000  # images that colour axes are taken of


@dataclass(frozen=True, kw_only=True, slots=True)
class Augmentation:
    """What is drawn for each training image; False or 0: nothing of it.

    What an affine map or a blur asks for beyond the edge is mirrored there, the edge pixel once.

    Attributes:
        flips: left and right, up and down, each with probability 1/2.
        quarter_turns: by 0, 90, 180 or 270 degrees, each with probability 1/4.
        rotate_deg: uniform within +- degrees, 0 to 180.
        translate: along each axis, uniform within +- this share of the side, 0 to 1.
        scale: enlarged by a factor uniform within 1 +- this, 0 to 0.9.
        shear_deg: uniform within +- degrees, along x, 0 to 80.
        hed: haematoxylin, eosin and residual each times 1 +- this, plus +- this in units of natural
            optical density, 0 to 1. Tellez et al., 2018, IEEE Trans Med Imaging 37(9), with the stains
            of Ruifrok and Johnston, 2001; one strength for both, and the unit, are our reading.
        hsv: hue within +- this share of a turn; saturation and value times 1 +- this; 0 to 1.
        rgb_pca: along each principal component of the colours of the data set, normal with this
            deviation in that of the component, 0 to 10. After Krizhevsky et al., 2012, section 4.1; the
            deviation where they have the eigenvalue is our reading. See `colour_axes`.
        blur_sigma: deviation of a Gaussian, uniform from 0 to this, px, 0 to 20.
        cutout: side of a square that gets the image's mean colour, as a share of its shorter side, 0 to
            1; it lies anywhere within. After DeVries and Taylor, 2017, arXiv 1708.04552, whose square
            may lie over the edge and is of the data set's mean: our reading.

    Raises:
        TypeError: a value of another kind.
        ValueError: a value out of range.
    """

    flips: bool = False
    quarter_turns: bool = False
    rotate_deg: float = 0.0
    translate: float = 0.0
    scale: float = 0.0
    shear_deg: float = 0.0
    hed: float = 0.0
    hsv: float = 0.0
    rgb_pca: float = 0.0
    blur_sigma: float = 0.0
    cutout: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        for part in fields(self):
            value = getattr(self, part.name)
            if isinstance(part.default, bool):
                if not isinstance(value, bool | np.bool_):
                    raise TypeError(f"{part.name} must be True or False, got {value!r}")
                value = bool(value)
            else:
                value = real_number(part.name, value, at_least=0, at_most=_MOST.get(part.name, 1))
            object.__setattr__(self, part.name, value)

    @property
    def is_affine(self) -> bool:
        """Whether images are resampled."""
        return bool(self.rotate_deg or self.translate or self.scale or self.shear_deg)


def augment(
    pixels: Pixels,
    augmentation: Augmentation,
    *,
    keys: NDArray[np.uint64],
    colour_axes: Float | None = None,
    threads: int = 1,
    out: Pixels | None = None,
) -> Pixels:
    """Return images as they are learnt from.

    Args:
        pixels: (n, h, w, 3) uint8 RGB; square where there are quarter turns.
        augmentation: what is drawn.
        keys: (n, 2) uint64 of each image: of seed and epoch, and of the image. The same key draws the
            same, wherever in whatever batch the image is.
        colour_axes: (3, 3) float64 from `colour_axes`, for `rgb_pca`.
        threads: that share the images; the result does not depend on them.
        out: (n, h, w, 3) uint8 to write into; not `pixels`.

    Returns:
        `out`: (n, h, w, 3) uint8.

    Raises:
        TypeError: arrays of another type.
        ValueError: arrays of another shape, strided, or one memory; quarter turns of what is not
            square; no `colour_axes` for `rgb_pca`.

    Determinism: bitwise; turns and flips are exact, the rest is within 1 of its definition.

    Example:
        >>> images, keys = np.zeros((2, 8, 8, 3), np.uint8), np.arange(4, dtype=np.uint64)
        >>> augment(images, Augmentation(flips=True, hed=0.05), keys=keys.reshape(2, 2)).shape
        (2, 8, 8, 3)
    """
    n, h, w = check("pixels", pixels, "uint8", ("n", "h", "w", 3))
    check("keys", keys, "uint64", (n, 2))
    threads = whole_number("threads", threads, at_least=1)
    if augmentation.quarter_turns and h != w:
        raise ValueError(f"pixels must be square for quarter_turns, got {w} x {h} px")
    if max(h, w) >= _LARGEST_PX:
        raise ValueError(f"pixels must be of less than {_LARGEST_PX} px a side, got {w} x {h} px")
    out = np.empty_like(pixels) if out is None else out
    check("out", out, "uint8", (n, h, w, 3))
    if np.may_share_memory(pixels, out):
        raise ValueError("out must be another array than pixels, got the memory of both in one")
    drawn = draws_of(augmentation, keys, (h, w), colour_axes=colour_axes)
    _core.augment_images(
        pixels,
        drawn.turns,
        drawn.maps,
        drawn.stains,
        drawn.tints,
        drawn.shifts,
        drawn.sigmas,
        drawn.holes,
        threads,
        out,
    )
    return out


def draws_of(
    augmentation: Augmentation,
    keys: NDArray[np.uint64],
    size: tuple[int, int],
    *,
    colour_axes: Float | None = None,
) -> Draws:
    """Return what `augment` applies to images of (h, w) px.

    Raises:
        TypeError, ValueError: as `augment`.
    """
    a = augmentation
    none = keys[:0]
    shifts: Float = np.zeros((0, 3))
    if a.rgb_pca:
        if colour_axes is None:
            raise ValueError(
                "colour_axes must be given for rgb_pca, got None: pass colour_axes(pixels) of the "
                "training images"
            )
        check("colour_axes", colour_axes, "float64", (3, 3), contiguous=False)
        shifts = normal(keys, SHIFTS, 3) * a.rgb_pca @ colour_axes.T
    return Draws(
        turns=drawn_turns(
            keys if a.flips or a.quarter_turns else none, flips=a.flips, quarters=a.quarter_turns
        ),
        maps=drawn_maps(
            keys if a.is_affine else none,
            size,
            rotate_deg=a.rotate_deg,
            translate=a.translate,
            scale=a.scale,
            shear_deg=a.shear_deg,
        ),
        stains=drawn_stains(keys if a.hed else none, a.hed),
        tints=(within(keys if a.hsv else none, TINTS, 3) * a.hsv).astype(np.float32),
        shifts=shifts.astype(np.float32),
        sigmas=(uniform(keys if a.blur_sigma else none, SIGMAS, 1)[:, 0] * a.blur_sigma).astype(
            np.float32
        ),
        holes=drawn_holes(keys if a.cutout else none, size, a.cutout),
    )


def colour_axes(pixels: NDArray[np.uint8], *, rows: NDArray[np.int64] | None = None) -> Float:
    """Return the principal components of the colours of images, each as long as its deviation.

    Args:
        pixels: (n, h, w, 3) uint8; of more than 1,000, so many are measured, evenly spaced.
        rows: (m,) int64 which of them, the training images; all when None.

    Returns:
        (3, 3) float64, one component in each column, the largest first, in grey levels. The sum of each
        is not negative.

    Raises:
        TypeError, ValueError: another type or shape, or no pixels.
    """
    n, h, w = check("pixels", pixels, "uint8", ("n", "h", "w", 3), contiguous=False)
    rows = np.arange(n) if rows is None else rows
    if len(rows) * h * w == 0:
        raise ValueError(f"pixels must hold some, got {len(rows)} images of {w} x {h} px")
    sums, products, count = np.zeros(3), np.zeros((3, 3)), 0
    spaced = np.linspace(0, len(rows) - 1, min(len(rows), _MEASURED)).astype(np.int64)
    for i in rows[spaced]:
        flat = np.asarray(pixels[i], np.float64).reshape(-1, 3)
        sums, products, count = sums + flat.sum(0), products + flat.T @ flat, count + len(flat)
    mean = sums / count
    found: tuple[Any, Any] = np.linalg.eigh(products / count - np.outer(mean, mean))
    values, vectors = found[0][::-1], found[1][:, ::-1]
    vectors = vectors * np.where(vectors.sum(0) < 0, -1.0, 1.0)
    axes: Float = vectors * np.sqrt(np.maximum(values, 0))
    return axes
