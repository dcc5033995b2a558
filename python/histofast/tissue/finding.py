"""A slide in, its `Tissue` out: found on the overview, or taken from a mask or from polygons.

A *mask* is an (h, w) uint8 array of 0 and 1 that covers the whole slide, an *overview* the RGB
picture of the same kind, about 8 um per pixel. ``_l0`` is level-0 pixels, ``_px`` mask pixels.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from histofast._arrays import check, empty, to_numpy
from histofast._files import path_of
from histofast._notebook import WHITE, Pictured, framed, nearest, shown_size
from histofast._numbers import real_number, whole_number
from histofast.errors import SlideError
from histofast.tissue.mask import MAX_CLOSE_PX, REVISION, mask_into
from histofast.tissue.mask_file import MaskFile
from histofast.tissue.outline import Polygon, trace
from histofast.tissue.polygons import fill, read_polygons
from histofast.tissue.stains import in_no_ink, stained

CLOSE_UM = 24.0
ASPECT_TOLERANCE = 0.03
SOME_INK = 0.01  # of what could be tissue: then it is looked at
MUCH_INK = 0.1  # then it is said

Ink = Literal["remove", "keep"]
INK = get_args(Ink)
_SHOWN_RGB = (120, 190, 140)


class LevelSize(Protocol):
    """What this module needs to know of a level."""

    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...


class OverviewSlide(Protocol):
    """What this module needs to know of a slide (`slides.Slide` has it)."""

    @property
    def levels(self) -> Sequence[LevelSize]: ...
    @property
    def mpp(self) -> float: ...
    def overview(self, *, mpp: float = 8.0) -> NDArray[np.uint8]: ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Tissue(Pictured):
    """Where there is tissue on one slide.

    Attributes:
        mask: (h, w) uint8, 1 is tissue; read-only. Covers the whole slide.
        width_l0: width of the slide.
        height_l0: height of the slide.
        threshold: score above which a pixel is tissue, or None when the mask came from outside.
        identity: everything that made the mask; equal texts, equal masks of one overview.
        notes: what whoever uses the mask should know of how it was made.
    """

    mask: NDArray[np.uint8]
    width_l0: int
    height_l0: int
    threshold: int | None
    identity: str
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        how = "from a mask" if self.threshold is None else f"threshold {self.threshold}"
        return f"Tissue({self.fraction:.1%} of {self.width_l0:,} x {self.height_l0:,} px, {how})"

    def _picture(self) -> NDArray[np.uint8]:
        width, height = shown_size(self.width_l0, self.height_l0)
        rows, columns = self.mask.shape
        inside = self.mask[nearest(height, rows)[:, None], nearest(width, columns)] != 0
        picture = np.full((height, width, 3), WHITE, np.uint8)
        picture[inside] = _SHOWN_RGB
        return framed(picture)

    @property
    def downsample_x(self) -> float:
        """Level-0 pixels per mask pixel, across."""
        return float(self.width_l0 / self.mask.shape[1])

    @property
    def downsample_y(self) -> float:
        """Level-0 pixels per mask pixel, down."""
        return float(self.height_l0 / self.mask.shape[0])

    @property
    def fraction(self) -> float:
        """Share of the slide that is tissue, 0..1."""
        return int(np.count_nonzero(self.mask)) / self.mask.size

    def area_mm2(self, mpp: float) -> float:
        """Area of the tissue; `mpp` is level-0 um per pixel."""
        return self.fraction * self.width_l0 * self.height_l0 * mpp * mpp / 1e6

    def contours(self) -> list[Polygon]:
        """Trace the tissue along the edges of its pixels.

        Returns:
            One (exterior, holes) per object, objects from top to bottom. A ring is (k, 2) float64
            (x, y) in level-0 pixels, corners only, not closed; with y pointing down an exterior has
            positive area by the shoelace formula, a hole negative. Rings are simple and the
            polygons valid: objects that touch at a corner are two, a hole that touches the outside
            at a corner stays a hole. The areas add up to the mask's exactly.
        """
        scale = np.array([self.downsample_x, self.downsample_y])
        return [
            (exterior * scale, [hole * scale for hole in holes])
            for exterior, holes in trace(self.mask)
        ]

    def geojson(self, *, origin_l0: tuple[int, int] = (0, 0)) -> dict[str, Any]:
        """A FeatureCollection for QuPath: one annotation "Tissue" per object, in level-0 pixels.

        Args:
            origin_l0: what to count from; QuPath's is `Slide.origin_l0`.
        """
        features = []
        for exterior, holes in self.contours():
            rings = [
                (np.concatenate([ring, ring[:1]]) - origin_l0).tolist()
                for ring in (exterior, *holes)
            ]
            features.append(
                {
                    "type": "Feature",
                    "geometry": {"type": "Polygon", "coordinates": rings},
                    "properties": {
                        "objectType": "annotation",
                        "classification": {"name": "Tissue", "color": [0, 160, 60]},
                    },
                }
            )
        return {"type": "FeatureCollection", "features": features}


def find_tissue(
    slide: OverviewSlide,
    *,
    mpp: float = 8.0,
    threshold: int | None = None,
    min_area_um2: float = 20_000.0,
    max_hole_um2: float = 100_000.0,
    ink: Ink = "remove",
    mask: NDArray[Any] | Mapping[str, Any] | str | Path | None = None,
    origin_l0: tuple[int, int] = (0, 0),
) -> Tissue:
    """Find the tissue of a slide, or take a ready mask of it.

    Args:
        slide: anything with `levels`, `mpp` and `overview(mpp=...)`; what of it could not be decoded
            is told by `Slide.survey`. An overview on a GPU is worked on there, and waited for.
        mpp: um per pixel of the overview that is looked at.
        threshold: 0..255, as in `tissue_mask`; None finds it.
        min_area_um2: smaller objects are removed. The default is about one patch of 256 px at
            0.55 um/px.
        max_hole_um2: holes up to this are filled, larger ones stay open.
        ink: "remove" leaves out pen marks (blue, green, strong red) and black. Blue and green stains
            (toluidine blue, Luxol fast blue, trichrome) are told from them by their grain. "keep" takes all of it for tissue.
            Where much is removed `Tissue.notes` says how much.
        mask: (h, w) array that covers the slide, 0 is background, a GeoJSON mapping, or the path of
            either, as `extract` takes it: PNG, JPEG, TIFF (of a pyramid the level at `mpp` is read),
            .geojson; taken as it is instead of looking at the slide.
        origin_l0: level-0 pixel that the coordinates of a GeoJSON count from.

    Raises:
        TypeError: a mask of another type, or a parameter that is no number.
        ValueError: a parameter out of range, a mask that does not fit the slide, or a threshold
            together with a mask.
        FileNotFoundError, SlideError: a mask's file that is not there, cannot be read or does not fit.

    Determinism: bitwise for one overview, on every machine.
    """
    min_area_um2 = real_number("min_area_um2", min_area_um2, at_least=0)
    max_hole_um2 = real_number("max_hole_um2", max_hole_um2, at_least=0)
    if ink not in INK:
        raise ValueError(f"ink must be one of {', '.join(INK)}, got {ink!r}")
    mpp = real_number("mpp", mpp, above=0)
    threshold = whole_number("threshold", threshold, at_least=0, at_most=255)
    width_l0, height_l0 = slide.levels[0].width, slide.levels[0].height
    if mask is not None:
        if threshold is not None:
            raise ValueError(f"threshold must be None where a mask is given, got {threshold}")
        return _given(slide, mask, downsample=max(mpp / slide.mpp, 1.0), origin_l0=origin_l0)

    image = slide.overview(mpp=mpp)
    h, w = check("slide.overview()", image, "uint8", ("h", "w", 3))
    pixel_um2 = (width_l0 / w) * (height_l0 / h) * slide.mpp**2
    drawn = empty((h, w), "uint8", like=image)
    sizes = {
        "close_px": min(round(CLOSE_UM / math.sqrt(pixel_um2)), MAX_CLOSE_PX),
        "max_hole_px": min(int(max_hole_um2 / pixel_um2), h * w),
        "min_area_px": min(math.ceil(min_area_um2 / pixel_um2), h * w + 1),
    }
    options: dict[str, Any] = {"threshold": threshold, "exclude_foreign": ink == "remove", **sizes}
    level, above_px, remaining_px = to_numpy(mask_into(image, drawn, **options)).tolist()
    if above_px - remaining_px > SOME_INK * above_px:
        picture = to_numpy(image)
        stain = stained(picture)
        if stain.any():
            drawn = np.empty((h, w), np.uint8)
            found = mask_into(in_no_ink(picture, stain), drawn, **options)
            level, above_px, remaining_px = found.tolist()
    identity = (
        f"tissue r{REVISION}, overview {w} x {h} px of {mpp:g} um/px, "
        f"threshold {'otsu' if threshold is None else threshold}, close {CLOSE_UM:g} um, "
        f"holes {max_hole_um2:g} um2, objects {min_area_um2:g} um2, "
        f"ink {ink}"
    )
    return whole_mask(
        to_numpy(drawn),
        width_l0,
        height_l0,
        threshold=level,
        identity=identity,
        notes=_removed(above_px, remaining_px),
    )


def _removed(above_px: int, remaining_px: int) -> tuple[str, ...]:
    """Say how much was taken for ink, where it is much."""
    lost_px = above_px - remaining_px
    if lost_px < MUCH_INK * above_px or above_px == 0:
        return ()
    note = (
        f"{100 * lost_px / above_px:.0f} % of what could be tissue was taken for pen marks or black: where it is"
        ' stain, take it with ink="keep"'
    )
    return (note,)


def _given(
    slide: OverviewSlide,
    mask: NDArray[Any] | Mapping[str, Any] | str | Path,
    *,
    downsample: float,
    origin_l0: tuple[int, int],
) -> Tissue:
    """Take a ready mask, from memory or from a file; `downsample` is level-0 pixels per overview pixel."""
    width_l0, height_l0 = slide.levels[0].width, slide.levels[0].height
    if isinstance(mask, str | os.PathLike):
        file = MaskFile(path_of("mask", mask))
        size = max(1, round(width_l0 / downsample)), max(1, round(height_l0 / downsample))
        try:
            return _given(slide, file.read(size), downsample=downsample, origin_l0=origin_l0)
        except ValueError as error:
            raise SlideError(f"mask {file.path}: {error}") from error
    if isinstance(mask, Mapping):
        return tissue_from_geojson(
            mask,
            width_l0=width_l0,
            height_l0=height_l0,
            downsample=downsample,
            origin_l0=origin_l0,
        )
    return tissue_from_mask(mask, width_l0=width_l0, height_l0=height_l0)


def tissue_from_mask(mask: NDArray[Any], *, width_l0: int, height_l0: int) -> Tissue:
    """Take a ready mask of any resolution that covers the whole slide.

    Args:
        mask: (h, w) bool or integer, 0 is background.
        width_l0: width of the slide.
        height_l0: height of the slide.

    Raises:
        TypeError: not an array of bool or integers.
        ValueError: not two-dimensional, without pixels, larger than the slide, or of another aspect
            than the slide's.
    """
    width_l0 = whole_number("width_l0", width_l0, at_least=1)
    height_l0 = whole_number("height_l0", height_l0, at_least=1)
    wanted = "mask must be bool or integers of shape (h, w)"
    if not isinstance(mask, np.ndarray):
        raise TypeError(f"{wanted}, got {type(mask).__name__}")
    if mask.dtype.kind not in "bui":
        raise TypeError(f"{wanted}, got {mask.dtype.name} of shape {mask.shape}")
    if mask.ndim != 2:
        raise ValueError(
            f"{wanted}, got {mask.dtype.name} of shape {mask.shape}: "
            "pass one channel, in which 0 is background"
        )
    if mask.size == 0:
        raise ValueError(f"{wanted} with h and w at least 1, got shape {mask.shape}")
    h, w = mask.shape
    if w > width_l0 or h > height_l0:
        raise ValueError(
            f"mask must be no larger than the slide, {width_l0} x {height_l0} px, "
            f"got {w} x {h} px: is it of another slide?"
        )
    # A side of a small mask is off by up to half a pixel from rounding alone.
    aspect = (width_l0 / w) / (height_l0 / h)
    slack = ASPECT_TOLERANCE + 0.5 / w + 0.5 / h
    if not 1 - slack <= aspect <= 1 + slack:
        raise ValueError(
            f"mask must have the aspect of the slide, {width_l0 / height_l0:.3f} (width / height), "
            f"got {w / h:.3f}: it must cover the whole slide, not a part of it"
        )
    binary = np.ascontiguousarray(mask != 0).view(np.uint8)
    return whole_mask(binary, width_l0, height_l0, threshold=None, identity=_digest(binary))


def tissue_from_geojson(
    geojson: Mapping[str, Any],
    *,
    width_l0: int,
    height_l0: int,
    downsample: float,
    origin_l0: tuple[int, int] = (0, 0),
) -> Tissue:
    """Draw the polygons of a GeoJSON as a mask.

    A mask pixel is tissue when its centre lies in a polygon and in none of its holes, nor in an area of a
    class that QuPath ignores (`Ignore*`). What has no area (points, lines, features without a geometry)
    and missing cores of tissue arrays are passed over; `Tissue.notes` says how much.

    Args:
        geojson: FeatureCollection, Feature, GeometryCollection, Polygon or MultiPolygon, in level-0
            pixels, as QuPath and `Tissue.geojson` write it.
        width_l0: width of the slide.
        height_l0: height of the slide.
        downsample: level-0 pixels per mask pixel, at least 1; kept to within the rounding of the
            mask to whole pixels.
        origin_l0: level-0 pixel that the coordinates count from.

    Raises:
        TypeError: not a mapping.
        ValueError: no polygon, another geometry, a broken ring, polygons that cover no mask pixel
            of the slide, or too many rows of it to be drawn.
    """
    width_l0 = whole_number("width_l0", width_l0, at_least=1)
    height_l0 = whole_number("height_l0", height_l0, at_least=1)
    downsample = real_number("downsample", downsample, at_least=1)
    if not isinstance(geojson, Mapping):
        raise TypeError(f"geojson must be a mapping, got {type(geojson).__name__}")
    read = read_polygons(geojson)
    polygons = [[ring + origin_l0 for ring in rings] for rings in read.polygons]
    if not polygons:
        got = f"none ({'; '.join(read.notes)})" if read.notes else "none"
        raise ValueError(f"geojson must hold at least one polygon, got {got}")
    corners = np.concatenate([rings[0] for rings in polygons])
    (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
    if right <= 0 or bottom <= 0 or left >= width_l0 or top >= height_l0:
        raise ValueError(
            f"geojson must lie on the slide, {width_l0} x {height_l0} px, got polygons within "
            f"x {left:g}..{right:g}, y {top:g}..{bottom:g}: coordinates are level-0 pixels"
        )
    h = max(1, round(height_l0 / downsample))
    w = max(1, round(width_l0 / downsample))
    mask = np.zeros((h, w), np.uint8)
    scale = w / width_l0, h / height_l0
    fill(mask, [[ring * scale for ring in rings] for rings in polygons])
    if read.ignored:
        ignored = np.zeros_like(mask)
        fill(ignored, [[(ring + origin_l0) * scale for ring in rings] for rings in read.ignored])
        mask &= 1 - ignored
    if not mask.any():
        raise ValueError(
            f"geojson must cover the centre of a mask pixel, got polygons that cover none at "
            f"{w} x {h} px: they are too small or lie beside the slide"
        )
    return whole_mask(
        mask,
        width_l0,
        height_l0,
        threshold=None,
        identity=_digest(mask),
        notes=read.notes,
    )


def whole_mask(
    mask: NDArray[np.uint8],
    width_l0: int,
    height_l0: int,
    *,
    threshold: int | None,
    identity: str,
    notes: tuple[str, ...] = (),
) -> Tissue:
    """Return a mask of a whole slide with what is to be known of it; it is read-only from then on."""
    mask.flags.writeable = False
    return Tissue(
        mask=mask,
        width_l0=width_l0,
        height_l0=height_l0,
        threshold=threshold,
        identity=identity,
        notes=notes,
    )


def _digest(mask: NDArray[np.uint8]) -> str:
    h, w = mask.shape
    return f"mask {w} x {h} px, sha256 {hashlib.sha256(np.packbits(mask).tobytes()).hexdigest()}"
