"""Values of the patches of one slide in, the slide coloured by them out: pictures and objects.

A *share* is where on the colour map a value lies, 0..1. Coordinates are level-0 pixels, top-left.
Colours come from `histofast.report`, which is loaded when the first of them is needed.
"""

from __future__ import annotations

import json
import math
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from histofast._arrays import check
from histofast._files import replacing
from histofast._numbers import real_number, whole_number
from histofast._tables import as_number, as_read, csv_text, records, separator_of, shown
from histofast._words import one_line
from histofast.slides import Slide, ome_xml, open_slide, write_array_pyramid, write_png

Scale = Literal["rank", "minmax", "raw"]

CLASSES = 5  # quantiles that QuPath's objects are classified by
MOST_OBJECTS = 50_000  # in GeoJSON: QuPath is slow with more
_LONG_SIDE_PX = 4000  # of the picture, unless the slide is smaller
_TILE_PX = 256
_LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PatchValues:
    """A table of values per patch.

    Attributes:
        name: what the values are, from the head of their column.
        coords_l0: (n, 2) int64 level-0 (x, y).
        values: (n,) float64.
    """

    name: str
    coords_l0: NDArray[np.int64]
    values: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AttentionMap:
    """Values of patches, and the slide they lie on.

    Attributes:
        slide: name of the slide.
        name: what the values are, as QuPath shows it.
        values: (n,) float64.
        coords_l0: (n, 2) int64 level-0 (x, y) of each patch.
        patch_l0: side of a patch, level-0 px.
        scale: how values became shares.
        shares: (n,) float64, 0..1.
        alpha: opacity of the colours, 0..1.
        overview: (h, w, 3) uint8 RGB, the whole slide.
        unreadable: tiles of the overview that could not be decoded.
        width_l0, height_l0: size of the slide.
        level0_mpp: um per level-0 pixel.
        origin_l0: level-0 pixel that QuPath counts from.
        folds: of the run whose models gave the values; () where no run did.
        stem: of the names of its files, but for the picture.
    """

    slide: str
    name: str
    values: NDArray[np.float64]
    coords_l0: NDArray[np.int64]
    patch_l0: int
    scale: Scale
    shares: NDArray[np.float64]
    alpha: float
    overview: NDArray[np.uint8]
    unreadable: int
    width_l0: int
    height_l0: int
    level0_mpp: float
    origin_l0: tuple[int, int]
    folds: tuple[int, ...] = ()
    stem: str = "attention"

    @property
    def files(self) -> tuple[str, ...]:
        """Names of what `save` writes."""
        return ("overlay.png", *(f"{self.stem}.{end}" for end in ("geojson", "ome.tif", "csv")))

    def with_values(self, values: NDArray[np.floating[Any]], *, name: str) -> AttentionMap:
        """Return the map of other values of the same patches, on the same overview.

        Args:
            values: (n,) floating point.
            name: what they are.

        Raises:
            TypeError, ValueError: as `attention_map`.
        """
        _check_values(values, self.coords_l0, self.scale)
        exact = values.astype(np.float64)
        return replace(self, name=name, values=exact, shares=_shares(exact, self.scale))

    def heat(self) -> NDArray[np.float64]:
        """Draw the shares on the grid of the overview.

        Returns:
            (h, w) float64, the mean share of the patches over each pixel; NaN where there is none.
        """
        h, w, _ = self.overview.shape
        scale = np.array([w / self.width_l0, h / self.height_l0])
        low = np.minimum(np.rint(self.coords_l0 * scale), [w - 1, h - 1]).astype(np.int64)
        high = np.rint((self.coords_l0 + self.patch_l0) * scale).astype(np.int64)
        high = np.maximum(high, low + 1)  # a patch smaller than a pixel is one
        total, count = np.zeros((h, w)), np.zeros((h, w), np.int32)
        boxes = np.concatenate([low, high], axis=1).tolist()
        for (left, top, right, bottom), share in zip(boxes, self.shares.tolist(), strict=True):
            total[top:bottom, left:right] += share
            count[top:bottom, left:right] += 1
        total[count == 0] = np.nan
        total /= np.maximum(count, 1)
        return total

    def overlay(self) -> NDArray[np.uint8]:
        """Lay the colours over the overview, grey under them; what has no patch stays as it is.

        Grey, because stains would change the hues that tell the values.

        Returns:
            (h, w, 3) uint8 RGB.
        """
        heat = self.heat()
        drawn = self.overview.copy()
        for row, shares in zip(drawn, heat, strict=True):  # row by row: temporaries stay small
            shown = ~np.isnan(shares)
            row[shown] = tinted(row[shown], shares[shown], alpha=self.alpha)
        return drawn

    def geojson(self) -> dict[str, Any]:
        """Return a FeatureCollection for QuPath 0.4 and later: one tile object per patch.

        Each carries its value as a measurement and is classified by the fifth of all patches that
        its value lies in, whatever `scale`. Coordinates count from `origin_l0`, as QuPath's do. Of more than
        50,000 values the highest are there.
        """
        from histofast.report import colors_of

        edges = [round(100 * k / CLASSES) for k in range(CLASSES + 1)]
        middles = (np.arange(CLASSES) + 0.5) / CLASSES
        classes = [
            {"name": f"{self.name} {low}-{high} %", "color": color}
            for low, high, color in zip(edges, edges[1:], colors_of(middles).tolist(), strict=False)
        ]
        of_patch = np.minimum(ranks(self.values) * CLASSES, CLASSES - 1).astype(np.int64)
        told = np.sort(np.argsort(-self.values, kind="stable")[:MOST_OBJECTS])
        corners = (self.coords_l0[told] - self.origin_l0).tolist()
        side = self.patch_l0
        return {
            "type": "FeatureCollection",
            "features": [
                {
                    "type": "Feature",
                    "geometry": {
                        "type": "Polygon",
                        "coordinates": [
                            [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]
                        ],
                    },
                    "properties": {
                        "objectType": "tile",
                        "classification": classes[k],
                        "measurements": {self.name: value},
                    },
                }
                for (x, y), value, k in zip(
                    corners, self.values[told].tolist(), of_patch[told].tolist(), strict=True
                )
            ],
        }

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write overlay.png, and as `stem` has it .geojson, .ome.tif and .csv, all or none.

        The OME-TIFF is the overlay as a pyramid with its scale. Where QuPath shows the scanned part
        of a slide only, it begins there too, so that both lie in one frame.

        Args:
            folder: made if missing.
            overwrite: replace these files where they are; others in the folder are not touched.

        Raises:
            FileExistsError: one of the files is there and `overwrite` is False.
            NotADirectoryError: `folder` is a file.
            ModuleNotFoundError: matplotlib is not installed.
        """
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(f"folder must be a folder, {folder} is a file")
        overlay = self.overlay()
        figure = self._figure(overlay)
        geojson = json.dumps(self.geojson(), separators=(",", ":"), ensure_ascii=False)
        is_new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with ExitStack() as stack:
                paths = [
                    stack.enter_context(replacing(folder / name, overwrite=overwrite))
                    for name in self.files
                ]
                write_png(paths[0], figure)
                paths[1].write_text(geojson, encoding="utf-8")
                self._write_pyramid(paths[2], overlay)
                self._write_csv(paths[3])
        except BaseException:
            if is_new and not any(folder.iterdir()):
                folder.rmdir()
            raise

    def _figure(self, overlay: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the overlay with its colour bar, a caption and a bar of length."""
        from histofast.report import Figure, Picture, pixels_of

        ticks, labels = self._ticks()
        side_um = self.patch_l0 * self.level0_mpp
        caption = f"{self.name} of {len(self.values):,} patches of {side_um:.4g} um, "
        caption += {
            "rank": "coloured by percentile rank (on the bar, the values at the ranks)",
            "minmax": "coloured from the lowest to the highest value",
            "raw": "coloured from 0 to 1",
        }[self.scale]
        picture = Picture(
            pixels=overlay,
            alt=caption,
            ticks=tuple(zip(ticks, labels, strict=True)),
            opacity=self.alpha,
            um_per_px=self._picture_mpp[0],
        )
        figure = Figure(name="overlay", panels=(picture,), title=self.slide, basis=caption)
        return pixels_of(figure)

    @property
    def _picture_mpp(self) -> tuple[float, float]:
        """um per pixel of the overview, along x and y."""
        h, w, _ = self.overview.shape
        return self.level0_mpp * self.width_l0 / w, self.level0_mpp * self.height_l0 / h

    def _ticks(self) -> tuple[list[float], list[str]]:
        """Places on the colour bar, 0..1, and what they say."""
        ticks = [0.0, 0.25, 0.5, 0.75, 1.0]
        if self.scale == "rank":
            found = np.quantile(self.values, ticks).tolist()
            return ticks, [f"{100 * p:.0f} %: {v:.3g}" for p, v in zip(ticks, found, strict=True)]
        low, high = (0.0, 1.0) if self.scale == "raw" else _limits(self.values)
        if low == high:
            return [0.5], [f"{low:.3g}"]
        return ticks, [f"{low + (high - low) * t:.3g}" for t in ticks]

    def _write_pyramid(self, path: Path, overlay: NDArray[np.uint8]) -> None:
        mpp_x, mpp_y = self._picture_mpp
        left, top = (
            round(c * self.level0_mpp / m)
            for c, m in zip(self.origin_l0, (mpp_x, mpp_y), strict=True)
        )
        picture = overlay[top:, left:]
        h, w, _ = picture.shape
        write_array_pyramid(
            path,
            picture,
            mpp=(mpp_x + mpp_y) / 2,
            tile_px=_TILE_PX,
            levels=1 + max(0, math.ceil(math.log2(max(h, w) / _TILE_PX))),
            factor=2,
            codec="deflate",
            description=ome_xml(f"{self.slide} {self.name}", w, h, mpp_x, mpp_y),
            place="subifds",
        )

    def _write_csv(self, path: Path) -> None:
        places = zip(self.coords_l0.tolist(), self.values.tolist(), strict=True)
        rows = ([x, y, value] for (x, y), value in places)
        path.write_text(csv_text([("x", "y", "value"), *rows]), encoding="utf-8")


def attention_map(
    slide: Slide | str | Path,
    values: NDArray[np.floating[Any]],
    *,
    coords_l0: NDArray[np.int64],
    patch_l0: int,
    name: str = "attention",
    scale: Scale = "rank",
    alpha: float = 0.5,
    mpp: float | None = None,
) -> AttentionMap:
    """Put the values of patches onto their slide.

    Args:
        slide: an open slide, or the path of one.
        values: (n,) floating point, one per patch, n >= 1.
        coords_l0: (n, 2) int64 level-0 (x, y) of the top-left corner of each patch.
        patch_l0: side of a patch, level-0 px.
        name: what the values are.
        scale: what is coloured: "rank" the percentile rank (ties share theirs), "minmax" the place
            between the lowest and the highest value, "raw" the value itself, which must be 0..1.
        alpha: opacity of the colours, 0..1.
        mpp: um per pixel of the picture; by default what makes its longer side 4000 px, or the
            slide's own where that is coarser.

    Raises:
        TypeError: arrays of another type, an argument that is no number.
        ValueError: no patches, arrays that do not agree, NaN or infinite values, patches beyond the
            slide, values out of 0..1 with scale "raw", an argument out of range.
        FileNotFoundError, SlideError: as `open_slide`; not one tile of the slide can be decoded.

    Example:
        >>> ranks(np.array([3.0, 1.0, 1.0, 9.0])).tolist()
        [0.625, 0.25, 0.25, 0.875]
    """
    _check_values(values, coords_l0, scale)
    patch_l0 = whole_number("patch_l0", patch_l0, at_least=1)
    check_look(scale=scale, alpha=alpha, mpp=mpp)
    if not isinstance(slide, Slide):
        with open_slide(slide) as opened:
            return attention_map(
                opened,
                values,
                coords_l0=coords_l0,
                patch_l0=patch_l0,
                name=name,
                scale=scale,
                alpha=alpha,
                mpp=mpp,
            )
    base = slide.levels[0]
    _check_on_slide(slide, coords_l0)
    if mpp is None:
        mpp = slide.mpp * max(1.0, max(base.width, base.height) / _LONG_SIDE_PX)
    survey = slide.survey(mpp=mpp)
    exact = values.astype(np.float64)
    return AttentionMap(
        slide=slide.name,
        name=name,
        values=exact,
        coords_l0=coords_l0.copy(),
        patch_l0=patch_l0,
        scale=scale,
        shares=_shares(exact, scale),
        alpha=float(alpha),
        overview=survey.picture,
        unreadable=len(survey.unreadable_l0),
        width_l0=base.width,
        height_l0=base.height,
        level0_mpp=slide.mpp,
        origin_l0=slide.origin_l0,
    )


def tinted(
    pixels: NDArray[np.uint8], shares: NDArray[np.floating[Any]], *, alpha: float
) -> NDArray[np.uint8]:
    """Return pixels (..., 3) as grey, with the colours of `shares` (...), 0..1, over them."""
    from histofast.report import colors_of

    grey = pixels @ _LUMA
    mixed = (1 - alpha) * grey[..., np.newaxis] + alpha * colors_of(shares)
    found: NDArray[np.uint8] = np.rint(mixed).astype(np.uint8)
    return found


def _check_values(
    values: NDArray[np.floating[Any]], coords_l0: NDArray[np.int64], scale: Scale
) -> None:
    if not isinstance(values, np.ndarray) or values.dtype.kind != "f":
        got = values.dtype.name if isinstance(values, np.ndarray) else type(values).__name__
        raise TypeError(f"values must be floating point of shape (n,), got {got}")
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"values must be of shape (n,), n at least 1, got {values.shape}")
    check("coords_l0", coords_l0, "int64", (len(values), 2), contiguous=False)
    bad = ~np.isfinite(values)
    if bad.any():
        raise ValueError(
            f"values must be finite, got NaN or infinity for {bad.sum()} of {len(values)} patches, "
            f"first at row {bad.argmax()}"
        )
    if scale == "raw" and not (values.min() >= 0 and values.max() <= 1):
        raise ValueError(
            f'values must be within 0..1 for scale="raw", got {values.min():g}..{values.max():g}: '
            'take scale="minmax", or scale="rank"'
        )


def check_look(*, scale: str, alpha: float, mpp: float | None) -> None:
    """Refuse what no map can look like, before values are computed at length.

    Raises:
        TypeError, ValueError: as `attention_map`.
    """
    if scale not in get_args(Scale):
        raise ValueError(f"scale must be one of {', '.join(get_args(Scale))}, got {scale!r}")
    real_number("alpha", alpha, at_least=0, at_most=1)
    real_number("mpp", mpp, above=0)


def read_values(path: str | Path) -> PatchValues:
    """Read a CSV table of x, y and one further column, as `AttentionMap.save` writes it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: other columns, no rows, coordinates that are no whole numbers, values that are
            no finite numbers.
    """
    path = Path(path)
    (_, head), *rows = list(records(path)) or [(1, [])]
    head = [as_read(cell.strip()) for cell in head]
    if len(head) != 3 or [name.casefold() for name in head[:2]] != ["x", "y"] or not head[2]:
        raise ValueError(f"{path} must have the columns x, y, value, got {shown(', '.join(head))}")
    if not rows:
        raise ValueError(f"{path} must have a row per patch, got none")
    coords, values = [], []
    separator = separator_of(path)
    for line, cells in rows:
        numbers = [as_number(cell.strip(), separator=separator) for cell in cells]
        x, y, value = numbers if len(numbers) == 3 else (None, None, None)
        if x is None or y is None or value is None or not (_is_whole(x) and _is_whole(y)):
            raise ValueError(
                f"{path}, line {line}: must have two whole numbers and a finite number, "
                f"got {shown(','.join(cells))}"
            )
        coords.append((int(x), int(y)))
        values.append(value)
    return PatchValues(
        name=one_line(head[2]),
        coords_l0=np.array(coords, np.int64),
        values=np.array(values, np.float64),
    )


def _is_whole(number: float) -> bool:
    return number.is_integer() and abs(number) < 1 << 53


def _check_on_slide(slide: Slide, coords_l0: NDArray[np.int64]) -> None:
    """Refuse patches that begin beside the slide; those that end there are cut."""
    base = slide.levels[0]
    beside = ((coords_l0 < 0) | (coords_l0 >= [base.width, base.height])).any(axis=1)
    if beside.any():
        x, y = coords_l0[beside][0].tolist()
        raise ValueError(
            f"patches must lie on {slide.name}, {base.width} x {base.height} px, got "
            f"{beside.sum()} of {len(coords_l0)} patches beside it, first at ({x}, {y}): are they "
            "of another slide?"
        )


def _shares(values: NDArray[np.float64], scale: Scale) -> NDArray[np.float64]:
    if scale == "raw":
        return values.copy()
    if scale == "rank":
        return ranks(values)
    low, high = _limits(values)
    if low == high:
        return np.full(len(values), 0.5)
    half = high / 2 - low / 2  # the difference itself may be too large for a float
    shares: NDArray[np.float64] = (values / 2 - low / 2) / half
    return shares


def _limits(values: NDArray[np.float64]) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of values below each, its equals and itself counted by half."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    middle: NDArray[np.float64] = (np.cumsum(counts) - counts / 2) / len(values)
    return middle[group]
