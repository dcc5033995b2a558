"""Overview image in, `Tissue` out: where there is tissue on a slide, its contours and a preview.

A *mask* is an (h, w) uint8 array of 0 and 1 that covers the whole slide, an *overview* the RGB
picture of the same kind, about 8 um per pixel. ``_l0`` is level-0 pixels, ``_px`` mask pixels.
*Foreign* is what is no part of the slide: pen marks and black (glass edges, pen, unscanned area).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from histofast import _core
from histofast._arrays import check, empty, one_place, to_numpy

REVISION = 1  # of the definition of the mask; part of every identity
CLOSE_UM = 24.0
MAX_CLOSE_PX = 32
ASPECT_TOLERANCE = 0.03

Polygon = tuple[NDArray[np.float64], list[NDArray[np.float64]]]
Array = TypeVar("Array")  # NumPy's, or one of torch or CuPy on a GPU


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
class Tissue:
    """Where there is tissue on one slide.

    Attributes:
        mask: (h, w) uint8, 1 is tissue; read-only. Covers the whole slide.
        width_l0: width of the slide.
        height_l0: height of the slide.
        threshold: score above which a pixel is tissue, or None when the mask came from outside.
        identity: everything that made the mask; equal texts, equal masks of one overview.
    """

    mask: NDArray[np.uint8]
    width_l0: int
    height_l0: int
    threshold: int | None
    identity: str

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
            for exterior, holes in _trace(self.mask)
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
        TypeError: wrong dtype.
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
    _mask_into(
        image,
        out,
        threshold=threshold,
        exclude_foreign=exclude_foreign,
        close_px=close_px,
        max_hole_px=max_hole_px,
        min_area_px=min_area_px,
    )
    return out


def _mask_into(
    image: Any,
    out: Any,
    *,
    threshold: int | None,
    exclude_foreign: bool,
    close_px: int,
    max_hole_px: int,
    min_area_px: int,
) -> Any:
    """Write the mask into `out` and return the threshold used.

    Returns:
        (1,) int32 in the place of `image`. On a GPU both are results to come: nothing waits here.
    """
    _check_threshold(threshold)
    if not 0 <= close_px <= MAX_CLOSE_PX:
        raise ValueError(f"close_px must be within 0..{MAX_CLOSE_PX}, got {close_px}")
    for name, value in (("max_hole_px", max_hole_px), ("min_area_px", min_area_px)):
        if value < 0:
            raise ValueError(f"{name} must be at least 0, got {value}")
    options: dict[str, Any] = {
        "threshold": -1 if threshold is None else threshold,
        "exclude_foreign": exclude_foreign,
        "close_px": close_px,
        "max_hole_px": max_hole_px,
        "min_area_px": min_area_px,
    }
    library = one_place(image=image, out=out)
    if library is None:
        return np.array([_core.tissue_mask(image, out, **options)], np.int32)
    size = _core.tissue_mask_scratch_bytes(*out.shape, **options)
    used = library.empty((1,), "int32", image)
    scratch = library.empty((size,), "uint8", image)
    _core.tissue_mask(
        image, out, **options, used=used, scratch=scratch, stream=library.stream(image)
    )
    return used


def find_tissue(
    slide: OverviewSlide,
    *,
    mpp: float = 8.0,
    threshold: int | None = None,
    min_area_um2: float = 20_000.0,
    max_hole_um2: float = 100_000.0,
    exclude_foreign: bool = True,
    mask: NDArray[Any] | Mapping[str, Any] | None = None,
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
        exclude_foreign: leave out pen marks and black, as in `tissue_mask`.
        mask: (h, w) array that covers the slide, 0 is background, or a GeoJSON mapping; taken as it
            is instead of looking at the slide.
        origin_l0: level-0 pixel that the coordinates of a GeoJSON count from.

    Raises:
        TypeError: a mask of another type.
        ValueError: a parameter out of range, a mask that does not fit the slide, or a threshold
            together with a mask.

    Determinism: bitwise for one overview, on every machine.
    """
    for name, value in (("min_area_um2", min_area_um2), ("max_hole_um2", max_hole_um2)):
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be at least 0 and finite, got {value}")
    if not (math.isfinite(mpp) and mpp > 0):
        raise ValueError(f"mpp must be above 0 um per pixel, got {mpp}")
    _check_threshold(threshold)
    width_l0, height_l0 = slide.levels[0].width, slide.levels[0].height
    if mask is not None:
        if threshold is not None:
            raise ValueError(f"threshold must be None where a mask is given, got {threshold}")
        if isinstance(mask, Mapping):
            return tissue_from_geojson(
                mask,
                width_l0=width_l0,
                height_l0=height_l0,
                downsample=max(mpp / slide.mpp, 1.0),
                origin_l0=origin_l0,
            )
        return tissue_from_mask(mask, width_l0=width_l0, height_l0=height_l0)

    image = slide.overview(mpp=mpp)
    h, w = check("slide.overview()", image, "uint8", ("h", "w", 3))
    pixel_um2 = (width_l0 / w) * (height_l0 / h) * slide.mpp**2
    found = empty((h, w), "uint8", like=image)
    used = _mask_into(
        image,
        found,
        threshold=threshold,
        exclude_foreign=exclude_foreign,
        close_px=min(round(CLOSE_UM / math.sqrt(pixel_um2)), MAX_CLOSE_PX),
        max_hole_px=min(int(max_hole_um2 / pixel_um2), h * w),
        min_area_px=min(math.ceil(min_area_um2 / pixel_um2), h * w + 1),
    )
    identity = (
        f"tissue r{REVISION}, overview {w} x {h} px of {mpp:g} um/px, "
        f"threshold {'otsu' if threshold is None else threshold}, close {CLOSE_UM:g} um, "
        f"holes {max_hole_um2:g} um2, objects {min_area_um2:g} um2, "
        f"foreign {'out' if exclude_foreign else 'in'}"
    )
    return _tissue(
        to_numpy(found),
        width_l0,
        height_l0,
        threshold=int(to_numpy(used)[0]),
        identity=identity,
    )


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
    _check_slide_size(width_l0, height_l0)
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
    found = np.ascontiguousarray(mask != 0).view(np.uint8)
    return _tissue(found, width_l0, height_l0, threshold=None, identity=_digest(found))


def tissue_from_geojson(
    geojson: Mapping[str, Any],
    *,
    width_l0: int,
    height_l0: int,
    downsample: float,
    origin_l0: tuple[int, int] = (0, 0),
) -> Tissue:
    """Draw the polygons of a GeoJSON as a mask.

    A mask pixel is tissue when its centre lies in a polygon and in none of its holes.

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
        ValueError: no polygon, another geometry, a broken ring, or polygons that cover no mask
            pixel of the slide.
    """
    _check_slide_size(width_l0, height_l0)
    if not (math.isfinite(downsample) and downsample >= 1):
        raise ValueError(f"downsample must be at least 1, got {downsample}")
    if not isinstance(geojson, Mapping):
        raise TypeError(f"geojson must be a mapping, got {type(geojson).__name__}")
    polygons = [[_ring(ring) + origin_l0 for ring in rings] for rings in _polygons(geojson)]
    if not polygons:
        raise ValueError("geojson must hold at least one polygon, got none")
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
    for rings in polygons:
        _fill(mask, [ring * (w / width_l0, h / height_l0) for ring in rings])
    if not mask.any():
        raise ValueError(
            f"geojson must cover the centre of a mask pixel, got polygons that cover none at "
            f"{w} x {h} px: they are too small or lie beside the slide"
        )
    return _tissue(mask, width_l0, height_l0, threshold=None, identity=_digest(mask))


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


def _check_threshold(threshold: int | None) -> None:
    if threshold is not None and not 0 <= threshold <= 255:
        raise ValueError(f"threshold must be within 0..255, got {threshold}")


def _check_slide_size(width_l0: int, height_l0: int) -> None:
    for name, value in (("width_l0", width_l0), ("height_l0", height_l0)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


def _tissue(
    mask: NDArray[np.uint8], width_l0: int, height_l0: int, *, threshold: int | None, identity: str
) -> Tissue:
    mask.flags.writeable = False
    return Tissue(
        mask=mask, width_l0=width_l0, height_l0=height_l0, threshold=threshold, identity=identity
    )


def _digest(mask: NDArray[np.uint8]) -> str:
    h, w = mask.shape
    return f"mask {w} x {h} px, sha256 {hashlib.sha256(np.packbits(mask).tobytes()).hexdigest()}"


# --- Contours ---------------------------------------------------------------------------------


def _trace(mask: NDArray[np.uint8]) -> list[Polygon]:
    """Polygons of a mask in mask pixels, along the edges of pixels.

    The corners of all rings are found at once, from the 2 x 2 pixels around each grid point. On a
    grid line they are paired from the left (from the top): every pair is one side of a ring. Where
    two pixels touch only by a corner there are two ring corners, one to each pixel.
    """
    h, w = mask.shape
    padded = np.zeros((h + 2, w + 2), np.uint8)
    padded[1:-1, 1:-1] = mask != 0
    around = padded[:-1, :-1] | padded[:-1, 1:] << 1 | padded[1:, :-1] << 2 | padded[1:, 1:] << 3
    is_corner = np.isin(around, (1, 2, 4, 8, 7, 11, 13, 14, 6, 9))
    y, x = np.nonzero(is_corner)
    if len(y) == 0:
        return []
    code = around[y, x]
    is_double = (code == 6) | (code == 9)
    repeats = np.where(is_double, 2, 1)
    x, y, code = (np.repeat(values, repeats) for values in (x, y, code))
    # Of the two corners at one point, the first ends the side from the left. In code 6 (the pixels
    # right above and left below) it goes down, so the other one is first on the vertical line.
    second = np.zeros(len(x), bool)
    second[1:] = (x[1:] == x[:-1]) & (y[1:] == y[:-1])
    across = np.arange(len(x))
    down = np.lexsort((second != (code == 6), y, x))
    partner_across = np.empty(len(x), np.int64)
    partner_down = np.empty(len(x), np.int64)
    for order, partner in ((across, partner_across), (down, partner_down)):
        partner[order[::2]], partner[order[1::2]] = order[1::2], order[::2]

    points = np.stack([x, y], axis=1)
    exteriors: list[NDArray[np.int64]] = []
    holes: list[NDArray[np.int64]] = []
    for ring in _rings(partner_across.tolist(), partner_down.tolist()):
        for loop in _simple_loops(points[ring]):
            # The trace may run either way round; the tissue beside its first side tells which.
            exterior, oriented = _orient(loop, padded)
            (exteriors if exterior else holes).append(oriented)
    return _nest(exteriors, holes, mask)


def _rings(partner_across: list[int], partner_down: list[int]) -> Iterator[list[int]]:
    seen = bytearray(len(partner_across))
    for start in range(len(partner_across)):
        if seen[start]:
            continue
        ring = []
        at = start
        while not seen[at]:
            seen[at] = 1
            ring.append(at)
            at = partner_across[at]
            seen[at] = 1
            ring.append(at)
            at = partner_down[at]
        yield ring


def _simple_loops(ring: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Cut a ring at the points it visits twice."""
    points = [(x, y) for x, y in ring.tolist()]
    if len(set(points)) == len(points):
        yield ring
        return
    path: list[tuple[int, int]] = []
    place: dict[tuple[int, int], int] = {}
    for point in points:
        if point in place:
            loop = path[place[point] :]
            del path[place[point] :]
            for passed in loop:
                del place[passed]
            yield np.array(loop, np.int64)
        place[point] = len(path)
        path.append(point)
    yield np.array(path, np.int64)


def _orient(loop: NDArray[np.int64], padded: NDArray[np.uint8]) -> tuple[bool, NDArray[np.int64]]:
    """Whether the loop is an exterior, and the loop with its area positive if so, else negative."""
    lowest = np.lexsort((loop[:, 1], loop[:, 0]))[0]
    x, y = loop[lowest]
    # Right below the leftmost topmost corner lies the inside of the loop: tissue, or a hole.
    exterior = bool(padded[y + 1, x + 1])
    ahead = np.roll(loop, -1, axis=0)
    positive = int(np.sum(loop[:, 0] * ahead[:, 1] - ahead[:, 0] * loop[:, 1])) > 0
    return exterior, loop if positive == exterior else loop[::-1]


def _nest(
    exteriors: list[NDArray[np.int64]], holes: list[NDArray[np.int64]], mask: NDArray[np.uint8]
) -> list[Polygon]:
    """Give every hole to the object around it."""
    exteriors.sort(key=lambda ring: (int(ring[:, 1].min()), int(ring[:, 0].min())))
    holes.sort(key=lambda ring: (int(ring[:, 1].min()), int(ring[:, 0].min())))
    polygons: list[Polygon] = [(ring.astype(np.float64), []) for ring in exteriors]
    if not holes:
        return polygons
    # Vertical sides of all rings, found by their x and first y; they never overlap.
    h = mask.shape[0]
    keys, owners = [], []
    for number, ring in enumerate([*exteriors, *holes]):
        ahead = np.roll(ring, -1, axis=0)
        upright = ring[:, 0] == ahead[:, 0]
        keys.append(ring[upright, 0] * (h + 1) + np.minimum(ring[upright, 1], ahead[upright, 1]))
        owners.append(np.full(int(upright.sum()), number))
    key, owner = np.concatenate(keys), np.concatenate(owners)
    order = np.argsort(key)
    key, owner = key[order], owner[order]

    object_of = list(range(len(exteriors)))  # of every ring, holes as they are placed
    for hole in holes:
        # The run of tissue above the hole's top side begins at a ring that is placed already.
        top = int(hole[:, 1].min())
        row = top - 1
        x = int(hole[hole[:, 1] == top, 0].min())
        before = np.flatnonzero(mask[row, :x] == 0)
        begin = int(before[-1]) + 1 if len(before) else 0
        side = int(np.searchsorted(key, begin * (h + 1) + row, side="right")) - 1
        parent = object_of[owner[side]]
        object_of.append(parent)
        polygons[parent][1].append(hole.astype(np.float64))
    return polygons


# --- Polygons to pixels -----------------------------------------------------------------------


def _polygons(geojson: Any) -> Iterator[Sequence[Any]]:
    """The rings of every polygon in a GeoJSON object."""
    kind = geojson.get("type") if isinstance(geojson, Mapping) else None
    if kind == "FeatureCollection":
        children = geojson.get("features")
    elif kind == "GeometryCollection":
        children = geojson.get("geometries")
    elif kind == "Feature":
        children = [geojson.get("geometry")]
    elif kind in ("Polygon", "MultiPolygon"):
        children = geojson.get("coordinates")
        children = [children] if kind == "Polygon" else children
        if not isinstance(children, Sequence) or not all(
            isinstance(rings, Sequence) and len(rings) > 0 for rings in children
        ):
            raise ValueError(f"geojson must hold rings in every {kind}, got coordinates without")
        yield from children
        return
    else:
        raise ValueError(
            f"geojson must hold polygons only, got {kind or type(geojson).__name__}: "
            "export areas, not points or lines"
        )
    for child in children if isinstance(children, Sequence) else ():
        yield from _polygons(child)


def _ring(ring: Any) -> NDArray[np.float64]:
    try:
        points = np.array([[float(point[0]), float(point[1])] for point in ring])
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise ValueError(
            f"geojson must hold rings of (x, y) numbers, got one with {error}"
        ) from None
    if len(points) > 1 and (points[0] == points[-1]).all():
        points = points[:-1]
    if len(points) < 3 or not np.isfinite(points).all():
        raise ValueError(
            f"geojson must hold rings of three or more finite points, got one of {len(points)}"
        )
    return points


def _fill(mask: NDArray[np.uint8], rings: list[NDArray[np.float64]]) -> None:
    """Set the pixels whose centres lie inside the rings (in mask pixels) by the even-odd rule."""
    h, w = mask.shape
    start = np.concatenate(rings)
    end = np.concatenate([np.roll(ring, -1, axis=0) for ring in rings])
    upper = np.where(start[:, 1] < end[:, 1], start.T, end.T).T
    lower = np.where(start[:, 1] < end[:, 1], end.T, start.T).T
    # A side crosses the centres of rows first .. last - 1: its upper end counts, its lower not.
    first = np.clip(np.ceil(upper[:, 1] - 0.5), 0, h).astype(np.int64)
    last = np.clip(np.ceil(lower[:, 1] - 0.5), 0, h).astype(np.int64)
    count = last - first
    if not count.any():
        return
    side = np.repeat(np.arange(len(count)), count)
    row = np.arange(len(side)) - np.repeat(np.cumsum(count) - count, count) + first[side]
    x0, y0, x1, y1 = *upper[side].T, *lower[side].T
    x = x0 + (row + 0.5 - y0) / (y1 - y0) * (x1 - x0)
    column = np.clip(np.ceil(x - 0.5), 0, w).astype(np.int64)
    top, bottom = int(row.min()), int(row.max()) + 1
    crossings = np.zeros((bottom - top, w + 1), np.int64)
    np.add.at(crossings, (row - top, column), 1)
    mask[top:bottom] |= (np.cumsum(crossings[:, :-1], axis=1) & 1).astype(np.uint8)


# --- Drawing ----------------------------------------------------------------------------------


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
