"""Where the patches of a slide lie.

A *patch* is what the encoder sees (``patch_px`` pixels at ``mpp``), a *tile* what the slide file
stores. ``_l0`` is level-0 pixels, ``_px`` patch pixels. Boxes are (x, y, width, height).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from histofast._arrays import check
from histofast._notebook import SIDE_PX, Pictured, framed, shown_size
from histofast._numbers import mpp_number, real_number, whole_number
from histofast._words import count
from histofast.tiling.covering import SLIVER, coverage
from histofast.tiling.cutting import WHITE

LEVEL_TOLERANCE = 0.01
MAG_TOLERANCE = 0.06  # of what scanners call 40x or 20x
UM_AT_1X = 10.0  # per pixel, nominally
_NOTED_SHARE = 0.005  # of the tissue
_SHOWN_RGB = (40, 90, 220)  # of a patch that is all tissue
_FAINTEST = 0.3  # of a patch, beside that
_SEEN_PX = 4  # side of a patch in a picture from which on neighbours are told apart

Resample = Literal["area", "bicubic", "bilinear"]
RESAMPLE = get_args(Resample)


class LevelGeometry(Protocol):
    """What planning needs to know of a level (`slides.Level` has it)."""

    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def downsample(self) -> float: ...


class SlideGeometry(Protocol):
    """What planning needs to know of a slide (`slides.Slide` has it)."""

    @property
    def levels(self) -> Sequence[LevelGeometry]: ...
    @property
    def mpp(self) -> float: ...


class TissueGeometry(Protocol):
    """What planning needs to know of tissue (`tissue.Tissue` has it)."""

    @property
    def mask(self) -> NDArray[np.uint8]: ...
    @property
    def downsample_x(self) -> float: ...
    @property
    def downsample_y(self) -> float: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchPlan(Pictured):
    """The patches of one slide, row by row.

    Attributes:
        coords_l0: (n, 2) int64 top-left corner (x, y) in level-0 pixels.
        tissue_fraction: (n,) float32 share of the patch that is tissue, 0..1.
        patch_px: side of a patch in pixels.
        patch_l0: side of the square it shows, in level-0 pixels.
        overlap_px: overlap of neighbours in patch pixels.
        mpp: um per patch pixel asked for; `patch_l0` realises it to half a level-0 pixel.
        level: pyramid level the pixels come from.
        level_downsample: level-0 pixels per pixel of that level.
        grid: (columns, rows) of the full grid before tissue was asked for; (0, 0) where there is none.
        identity: the parameters that made the plan.
        beyond_grid: share of the tissue, 0..1, that lies right of and below the full grid, where no patch
            shows it.
        resample: how pixels of the level become those of a patch, see `plan_patches`.
        crossing: patches asked for one by one that would cross an edge of the slide, and were dropped.
    """

    coords_l0: NDArray[np.int64]
    tissue_fraction: NDArray[np.float32]
    patch_px: int
    patch_l0: int
    overlap_px: int
    mpp: float
    level: int
    level_downsample: float
    grid: tuple[int, int]
    identity: dict[str, Any]
    beyond_grid: float = 0.0
    resample: Resample = "area"
    crossing: int = 0

    @property
    def notes(self) -> tuple[str, ...]:
        """Say how much tissue, or how many patches, the edge costs, where that may matter."""
        if self.crossing:
            crosses, are = ("crosses", "is") if self.crossing == 1 else ("cross", "are")
            what = f"{count(self.crossing, 'patch')} of coords {crosses} the edge of the slide"
            return (f'{what}, and {are} dropped: edge="shift" takes them',)
        if self.beyond_grid < _NOTED_SHARE:
            return ()
        where = "lies beyond the last whole patch, right or below"
        return (
            f'{self.beyond_grid:.1%} of the tissue {where}, and is dropped: edge="shift" takes it',
        )

    def __len__(self) -> int:
        return len(self.coords_l0)

    def __repr__(self) -> str:
        overlap = f", overlap {self.overlap_px} px" if self.overlap_px else ""
        columns, rows = self.grid
        grid = f", of a grid of {columns} x {rows}" if columns else ""
        return (
            f"PatchPlan({count(len(self), 'patch')} of {self.patch_px} px at {self.mpp:g} um/px{overlap}"
            f"{grid}, from level {self.level})"
        )

    def _picture(self) -> NDArray[np.uint8]:
        """Draw each patch in its place, fainter where less of it is tissue."""
        stride_l0 = self.patch_l0 * (1 - self.overlap_px / self.patch_px)
        of_grid = (np.array(self.grid) - 1) * stride_l0
        extent = np.maximum(of_grid, self.coords_l0.max(axis=0, initial=0)) + self.patch_l0
        width, height = shown_size(*extent)
        scale = (width, height) / extent
        corners = (self.coords_l0 * scale).astype(np.int64)
        ends = ((self.coords_l0 + self.patch_l0) * scale).astype(np.int64)
        gap = (ends - corners).min(initial=SIDE_PX) >= _SEEN_PX
        ends = np.maximum(ends - gap, corners + 1)
        strength = np.zeros((height, width))
        shown = _FAINTEST + (1 - _FAINTEST) * self.tissue_fraction
        for (x0, y0), (x1, y1), value in zip(corners, ends, shown, strict=True):
            part = strength[y0:y1, x0:x1]
            np.maximum(part, value, out=part)
        ink = np.array(WHITE) - np.array(_SHOWN_RGB)
        return framed((WHITE - strength[..., None] * ink).round().astype(np.uint8))

    @property
    def boxes_l0(self) -> NDArray[np.int64]:
        """(n, 4) int64 (x, y, width, height) in level-0 pixels."""
        return np.concatenate(
            [self.coords_l0, np.full((len(self), 2), self.patch_l0, np.int64)], axis=1
        )

    @property
    def boxes_level(self) -> NDArray[np.float64]:
        """(n, 4) float64 (x, y, width, height) in pixels of `level`."""
        return self.boxes_l0 / self.level_downsample


def plan_patches(
    slide: SlideGeometry,
    tissue: TissueGeometry | None = None,
    *,
    mpp: float = 0.5,
    patch_px: int = 256,
    overlap_px: int = 0,
    min_tissue: float = 0.25,
    edge: Literal["drop", "shift"] = "drop",
    allow_upsampling: bool = False,
    resample: Resample = "area",
) -> PatchPlan:
    """Lay a grid over the slide and keep the patches with enough tissue.

    Args:
        slide: anything with `levels` and `mpp`.
        tissue: where tissue is; None takes every patch.
        mpp: um per pixel of the patches.
        patch_px: side of a patch in pixels.
        overlap_px: overlap of neighbours, in patch pixels.
        min_tissue: least share of tissue in a patch, 0..1; 0 still asks for some tissue.
        edge: "drop" leaves out patches that would cross the right or bottom edge, "shift" moves
            them inwards so that the whole slide is covered.
        allow_upsampling: take a slide that is coarser than `mpp`.
        resample: "area" averages what each pixel covers; "bicubic" and "bilinear" resize as Pillow does,
            for encoders that were trained so, see `slides.resize_image`.

    Returns:
        The plan, patches in row-major order. Each shows the level-0 square of `patch_l0` pixels at
        its corner, which is `patch_px * mpp` um to within half a level-0 pixel.

    Raises:
        TypeError: a parameter that is no number.
        ValueError: a parameter out of range, a slide smaller than one patch or coarser than `mpp`.

    Determinism: the same on every machine.

    Example:
        >>> from types import SimpleNamespace as S
        >>> level = S(width=2048, height=1024, downsample=1.0)
        >>> len(plan_patches(S(levels=[level], mpp=0.25), mpp=0.5, patch_px=256))
        8
    """
    mpp = mpp_number("mpp", mpp)
    patch_px = whole_number("patch_px", patch_px, at_least=1)
    overlap_px = whole_number("overlap_px", overlap_px, at_least=0, at_most=patch_px - 1)
    min_tissue = real_number("min_tissue", min_tissue, at_least=0, at_most=1)
    _refuse_unknown(edge, resample)

    scale, patch_l0 = _scale_and_side(slide, mpp, patch_px, allow_upsampling=allow_upsampling)
    stride_l0 = (patch_px - overlap_px) * scale
    xs = _grid(slide.levels[0].width, patch_l0, stride_l0, edge)
    ys = _grid(slide.levels[0].height, patch_l0, stride_l0, edge)
    coords = np.stack([np.tile(xs, len(ys)), np.repeat(ys, len(xs))], axis=1)
    fraction, beyond_grid = _tissue_of(tissue, coords, patch_l0)
    if tissue is not None:
        keep = (fraction >= min_tissue) & (fraction > 0)
        coords, fraction = coords[keep], fraction[keep]

    level = _level_for(slide, scale)
    return PatchPlan(
        coords_l0=np.ascontiguousarray(coords),
        tissue_fraction=fraction,
        patch_px=patch_px,
        patch_l0=patch_l0,
        overlap_px=overlap_px,
        mpp=mpp,
        level=level,
        level_downsample=slide.levels[level].downsample,
        grid=(len(xs), len(ys)),
        identity={
            "mpp": mpp,
            "patch_px": patch_px,
            "overlap_px": overlap_px,
            "min_tissue": min_tissue,
            "edge": edge,
            "resample": resample,
        },
        resample=resample,
        beyond_grid=beyond_grid,
    )


def plan_at(
    slide: SlideGeometry,
    points_l0: NDArray[np.float64],
    *,
    are_centres: bool = False,
    mpp: float = 0.5,
    patch_px: int = 256,
    edge: Literal["drop", "shift"] = "drop",
    allow_upsampling: bool = False,
    resample: Resample = "area",
) -> PatchPlan:
    """Lay a patch at each of the given places, whatever is there.

    Args:
        slide: anything with `levels` and `mpp`.
        points_l0: (n, 2) float64 (x, y), level-0 pixels: top-left corners; rounded to whole pixels.
        are_centres: they are the centres of patches instead.
        edge: "drop" leaves out patches that cross an edge of the slide, which `PatchPlan.notes` tells,
            "shift" moves them inwards.
        mpp, patch_px, allow_upsampling, resample: see `plan_patches`.

    Returns:
        The plan, patches sorted by y, then x. `tissue_fraction` is 1: nobody has looked.

    Raises:
        TypeError: a parameter that is no number, points of another dtype.
        ValueError: as `plan_patches`; a place that is not finite, outside of the slide, or there twice.

    Determinism: the same on every machine.

    Example:
        >>> from types import SimpleNamespace as S
        >>> slide = S(levels=[S(width=2048, height=1024, downsample=1.0)], mpp=0.25)
        >>> plan_at(slide, np.array([[300.0, 300.0]]), are_centres=True, mpp=0.5).coords_l0.tolist()
        [[44, 44]]
    """
    mpp = mpp_number("mpp", mpp)
    patch_px = whole_number("patch_px", patch_px, at_least=1)
    _refuse_unknown(edge, resample)
    check("points_l0", points_l0, "float64", ("n", 2))
    scale, patch_l0 = _scale_and_side(slide, mpp, patch_px, allow_upsampling=allow_upsampling)
    base = slide.levels[0]
    _refuse_strays(points_l0, base, are_centres=are_centres)
    shift = patch_l0 / 2 if are_centres else 0.0
    corners = np.floor(points_l0 - shift + 0.5).astype(np.int64)
    last = np.array([base.width, base.height], np.int64) - patch_l0
    within = corners.clip(0, last)
    is_whole = (within == corners).all(axis=1)
    coords = within if edge == "shift" else corners[is_whole]
    coords = coords[np.lexsort(coords.T)]
    level = _level_for(slide, scale)
    return PatchPlan(
        coords_l0=np.ascontiguousarray(coords),
        tissue_fraction=np.ones(len(coords), np.float32),
        patch_px=patch_px,
        patch_l0=patch_l0,
        overlap_px=0,
        mpp=mpp,
        level=level,
        level_downsample=slide.levels[level].downsample,
        grid=(0, 0),
        identity={"mpp": mpp, "patch_px": patch_px, "edge": edge, "resample": resample},
        resample=resample,
        crossing=int(np.count_nonzero(~is_whole)) if edge == "drop" else 0,
    )


def _refuse_strays(
    points_l0: NDArray[np.float64], base: LevelGeometry, *, are_centres: bool
) -> None:
    """Refuse places that are none of the slide, or there twice."""
    size = np.array([base.width, base.height], np.float64)
    # Not so written for NaN, which is within nothing.
    is_there = (points_l0 >= 0) & ((points_l0 <= size) if are_centres else (points_l0 < size))
    strays = np.flatnonzero(~is_there.all(axis=1))
    if len(strays):
        x, y = points_l0[strays[0]]
        more = f", and {len(strays) - 1:,} more" if len(strays) > 1 else ""
        raise ValueError(
            f"coords must lie in the slide of {base.width} x {base.height} level-0 pixels, got "
            f"({x:g}, {y:g}){more}: are they of another slide, or of another level?"
        )
    places, counts = np.unique(points_l0, axis=0, return_counts=True)
    if len(places) < len(points_l0):
        x, y = places[counts > 1][0]
        raise ValueError(f"coords must be there once each, got ({x:g}, {y:g}) {counts.max()} times")


def _scale_and_side(
    slide: SlideGeometry, mpp: float, patch_px: int, *, allow_upsampling: bool
) -> tuple[float, int]:
    """Return level-0 pixels per patch pixel, and the side of a patch in level-0 pixels.

    Raises:
        ValueError: the slide is coarser than `mpp`, or smaller than a patch.
    """
    scale = mpp / slide.mpp
    if scale < 1 - LEVEL_TOLERANCE and not allow_upsampling:
        raise ValueError(
            f"mpp must be at least the slide's own {slide.mpp:g}, got {mpp:g}: ask for a coarser "
            "mpp, or accept interpolated pixels with allow_upsampling=True"
        )
    patch_l0 = max(1, round(patch_px * scale))
    _refuse_larger(slide.levels[0], patch_px, patch_l0, mpp)
    return scale, patch_l0


def nominal_patch_l0(patch_px: int, *, mpp: float, slide_mpp: float) -> int:
    """Return the side of a patch in level-0 pixels, were the slide's scale what scanners call it.

    The nearest of 0.25 um per pixel and its halves and doubles stands for the slide's own, so that slides of
    one scanner agree.

    Example:
        >>> [nominal_patch_l0(256, mpp=0.5, slide_mpp=mpp) for mpp in (0.2527, 0.2636, 0.4930)]
        [512, 512, 256]
    """
    at_40x = UM_AT_1X / 40
    nominal = at_40x * 2.0 ** round(math.log2(slide_mpp / at_40x))
    return max(1, round(patch_px * mpp / nominal))


def _tissue_of(
    tissue: TissueGeometry | None, coords: NDArray[np.int64], patch_l0: int
) -> tuple[NDArray[np.float32], float]:
    """Return (n,) the share of tissue of patches, and the share of all tissue right of and below them."""
    if tissue is None:
        return np.ones(len(coords), np.float32), 0.0
    per_pixel = np.array([tissue.downsample_x, tissue.downsample_y] * 2)
    boxes = np.concatenate([coords, np.full_like(coords, patch_l0)], axis=1)
    right, below = coords.max(axis=0) + patch_l0
    beyond = _share_beyond(tissue.mask, right / tissue.downsample_x, below / tissue.downsample_y)
    return coverage(tissue.mask, boxes / per_pixel).astype(np.float32), beyond


def mpp_at(mag: float, slide_mpp: float) -> float:
    """Return the um per pixel of patches of a nominal magnification on a slide.

    Scanners call 0.25 um per pixel 40x, and 0.2527 or 0.2636 too: where the slide's own scale is within
    `MAG_TOLERANCE` of the nominal one it is kept, so that patches are its pixels as they are.

    Args:
        mag: 20 is nominally 0.5 um per pixel.
        slide_mpp: um per level-0 pixel.

    Example:
        >>> mpp_at(40, 0.2636), mpp_at(20, 0.2636), mpp_at(40, 0.2651)
        (0.2636, 0.5, 0.25)
    """
    nominal = UM_AT_1X / mag
    is_kept = abs(slide_mpp - nominal) <= MAG_TOLERANCE * nominal * (1 + SLIVER)
    return slide_mpp if is_kept else nominal


def _share_beyond(mask: NDArray[np.uint8], width: float, height: float) -> float:
    """Share of a mask's tissue right of or below a corner, in mask pixels, parts of pixels by their area."""
    columns, rows = int(width), int(height)
    right, below = width - columns, height - rows
    within = (
        np.count_nonzero(mask[:rows, :columns])
        + right * np.count_nonzero(mask[:rows, columns : columns + 1])
        + below * np.count_nonzero(mask[rows : rows + 1, :columns])
        + right * below * np.count_nonzero(mask[rows : rows + 1, columns : columns + 1])
    )
    whole = np.count_nonzero(mask)
    return max(0.0, 1 - within / whole) if whole else 0.0


def _refuse_unknown(edge: str, resample: str) -> None:
    """Refuse ways that there are not."""
    if edge not in ("drop", "shift"):
        raise ValueError(f'edge must be "drop" or "shift", got {edge!r}')
    if resample not in RESAMPLE:
        raise ValueError(f"resample must be one of {', '.join(RESAMPLE)}, got {resample!r}")


def _refuse_larger(base: LevelGeometry, patch_px: int, patch_l0: int, mpp: float) -> None:
    """Refuse patches that are larger than the slide."""
    if patch_l0 > base.width or patch_l0 > base.height:
        raise ValueError(
            f"patch_px must fit the slide: {patch_px} px at {mpp:g} um/px are {patch_l0} level-0 "
            f"pixels, the slide has {base.width} x {base.height}: use a smaller patch_px or mpp"
        )


def _grid(
    size_l0: int, patch_l0: int, stride_l0: float, edge: Literal["drop", "shift"]
) -> NDArray[np.int64]:
    """Corners of the patches along one axis; the last one is at most `size_l0 - patch_l0`."""
    last = size_l0 - patch_l0
    count = int(last / stride_l0) + 2
    corners: NDArray[np.int64] = np.floor(np.arange(count) * stride_l0 + 0.5).astype(np.int64)
    corners = corners[corners <= last]
    if edge == "shift" and corners[-1] != last:
        corners = np.append(corners, last)
    return corners


def _level_for(slide: SlideGeometry, scale: float) -> int:
    """The coarsest level that is not coarser than `scale`; the finest when all are."""
    fine_enough = [
        (level.downsample, i)
        for i, level in enumerate(slide.levels)
        if level.downsample <= scale * (1 + LEVEL_TOLERANCE)
    ]
    return max(fine_enough)[1] if fine_enough else 0
