"""Polygons of a GeoJSON to a mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast._words import clipped, printable

_FARTHEST_PX = 1 << 40  # far beyond any slide, and rows are still counted exactly
_DEEPEST = 8  # collections and features in each other
_MOST_CROSSINGS = 1 << 26  # ten seconds; a million annotations of thirty rows each
_BAND_CROSSINGS, _BAND_PIXELS = 1 << 21, 1 << 23  # what is drawn at a time
_SHOWN_CHARACTERS = 60
_WITHOUT_AREA = ("Point", "MultiPoint", "LineString", "MultiLineString")


def read_polygons(
    geojson: Mapping[str, Any],
) -> tuple[list[list[NDArray[np.float64]]], int]:
    """Read the rings of every polygon in a GeoJSON object, (k, 2) float64 and not closed.

    Returns:
        The polygons, and how many geometries without an area were passed over: points, lines, and
        features whose geometry is null or has no coordinates.

    Raises:
        ValueError: it holds something else, or a broken ring; names the feature.
    """
    polygons: list[list[NDArray[np.float64]]] = []
    without_area = 0
    waiting: list[tuple[Any, str, int]] = [(geojson, "geojson", 0)]
    while waiting:
        value, where, depth = waiting.pop()
        if depth > _DEEPEST:
            raise ValueError(
                f"{where} must hold collections in each other at most {_DEEPEST} deep, got more"
            )
        kind = value.get("type") if isinstance(value, Mapping) else None
        inner: list[tuple[Any, str]] = []
        if kind == "FeatureCollection":
            features = _list(value, "features", where)
            inner = [
                (part, f"{where}: feature {i}{_named(part)}") for i, part in enumerate(features, 1)
            ]
        elif kind == "GeometryCollection":
            inner = [(part, where) for part in _list(value, "geometries", where)]
            without_area += not inner
        elif kind == "Feature":
            geometry = value.get("geometry")
            inner = [] if geometry is None else [(geometry, where)]
            without_area += geometry is None
        elif kind in ("Polygon", "MultiPolygon"):
            coordinates = _list(value, "coordinates", where)
            without_area += not any(coordinates)
            for rings in [coordinates] if kind == "Polygon" else coordinates:
                if not _is_list(rings):
                    raise ValueError(f"{where} must hold lists of rings, got {_shown(rings)}")
                if rings:
                    polygons.append([_ring(ring, where) for ring in rings])
        elif kind in _WITHOUT_AREA:
            without_area += 1
        else:
            got = _shown(value if kind is None else kind)
            raise ValueError(f"{where} must hold polygons, got {got}: export areas as GeoJSON")
        waiting += [(part, place, depth + 1) for part, place in reversed(inner)]
    return polygons, without_area


def _ring(ring: Any, where: str) -> NDArray[np.float64]:
    if not _is_list(ring):
        raise ValueError(f"{where} must hold rings of (x, y) numbers, got {_shown(ring)}")
    numbers = [v for point in ring if _is_list(point) and len(point) > 1 for v in point[:2]]
    kinds = set(map(type, numbers))
    if len(numbers) < 2 * len(ring) or not all(_is_number(kind) for kind in kinds):
        bad = next((p for p in ring if not _is_point(p)), None)
        raise ValueError(
            f"{where} must hold rings of (x, y) numbers, got {_shown(bad)} for a point"
        )
    try:
        points = np.array(numbers, np.float64).reshape(-1, 2)
    except OverflowError:  # a whole number beyond floats
        points = np.full((len(ring), 2), np.inf)
    if len(points) > 1 and (points[0] == points[-1]).all():
        points = points[:-1]
    # Not so written for NaN, which is within nothing.
    if len(points) < 3 or not (np.abs(points) <= _FARTHEST_PX).all():
        far = points[~(np.abs(points) <= _FARTHEST_PX).all(axis=1)]
        got = f"one of {len(points)}" if len(far) == 0 else f"({far[0, 0]:g}, {far[0, 1]:g})"
        raise ValueError(
            f"{where} must hold rings of three or more finite points in level-0 pixels, got {got}"
        )
    return points


def _list(value: Mapping[str, Any], key: str, where: str) -> Sequence[Any]:
    found: Any = value.get(key)
    if not _is_list(found):
        got = _shown(found) if key in value else "none"
        raise ValueError(f"{where} must have a list of {key}, got {got}")
    result: Sequence[Any] = found
    return result


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _is_number(kind: type) -> bool:
    return issubclass(kind, int | float | np.number) and kind is not bool


def _is_point(value: Any) -> bool:
    return _is_list(value) and len(value) > 1 and all(_is_number(type(v)) for v in value[:2])


def _named(feature: Any) -> str:
    """The name that a feature has, in brackets."""
    properties = feature.get("properties") if isinstance(feature, Mapping) else None
    name = properties.get("name") if isinstance(properties, Mapping) else None
    return f" ({_shown(name)})" if name and isinstance(name, str) else ""


def _shown(value: Any) -> str:
    """A value as messages have it: text as it is, of other things their kind."""
    if isinstance(value, str):
        return printable(clipped(value, _SHOWN_CHARACTERS)) or "nothing"
    if isinstance(value, Mapping):
        return "an object"
    return {bool: "true or false", type(None): "null", list: "a list"}.get(type(value), "a number")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Sides:
    """Sides of polygons that cross the centre line of a row of the mask.

    Attributes:
        upper, lower: (n, 2) float64 ends in mask pixels.
        owner: (n,) int64 number of the polygon.
        first, last: (n,) int64 rows that are crossed, the last one not: the upper end counts, the
            lower does not.
    """

    upper: NDArray[np.float64]
    lower: NDArray[np.float64]
    owner: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]


def fill(mask: NDArray[np.uint8], polygons: Sequence[list[NDArray[np.float64]]]) -> None:
    """Set the pixels whose centres lie inside one of the polygons, each by the even-odd rule.

    Bands of a few rows are drawn at a time, so that memory follows the mask and the number of sides,
    not how many rows they cross.

    Args:
        mask: (h, w), drawn on.
        polygons: rings of each, (k, 2) in mask pixels.

    Raises:
        ValueError: the sides cross so many rows that drawing them would take minutes.
    """
    h, w = mask.shape
    sides = _sides(polygons, h)
    changes = np.bincount(sides.first, minlength=h + 1) - np.bincount(sides.last, minlength=h + 1)
    up_to = np.concatenate([[0], np.cumsum(np.cumsum(changes)[:h])])  # crossings above each row
    if up_to[-1] > _MOST_CROSSINGS:
        raise ValueError(
            f"geojson must hold polygons whose sides cross {_MOST_CROSSINGS} rows of the mask at "
            f"most, all in all, got {up_to[-1]}: simplify them"
        )
    top = 0
    while top < h:
        bottom = int(np.searchsorted(up_to, up_to[top] + _BAND_CROSSINGS, side="right")) - 1
        bottom = max(min(bottom, top + _BAND_PIXELS // (w + 1), h), top + 1)
        if up_to[bottom] > up_to[top]:
            _fill_rows(mask[top:bottom], sides, top)
        top = bottom


def _sides(polygons: Sequence[list[NDArray[np.float64]]], h: int) -> _Sides:
    rings = [ring for polygon in polygons for ring in polygon]
    lengths = np.array([len(ring) for ring in rings], np.int64)
    ends = np.cumsum(lengths)
    start = np.concatenate(rings)
    following = np.arange(1, len(start) + 1)
    following[ends - 1] = ends - lengths  # the last point of a ring is joined to its first
    owner = np.repeat(np.arange(len(polygons)), [sum(map(len, polygon)) for polygon in polygons])
    row = np.clip(np.ceil(start[:, 1] - 0.5), 0, h).astype(np.int64)
    crossing = np.flatnonzero(row != row[following])
    start, end = start[crossing], start[following[crossing]]
    is_down = (start[:, 1] < end[:, 1])[:, None]
    rows = row[crossing], row[following[crossing]]
    return _Sides(
        upper=np.where(is_down, start, end),
        lower=np.where(is_down, end, start),
        owner=owner[crossing],
        first=np.minimum(*rows),
        last=np.maximum(*rows),
    )


def _fill_rows(mask: NDArray[np.uint8], sides: _Sides, top: int) -> None:
    """Draw the rows of the mask from `top` on; `mask` is of these rows only."""
    rows, w = mask.shape
    chosen = np.flatnonzero((sides.first < top + rows) & (sides.last > top))
    begin = np.maximum(sides.first[chosen], top)
    count = np.minimum(sides.last[chosen], top + rows) - begin
    side = np.repeat(chosen, count)
    row = np.arange(len(side)) + np.repeat(begin - np.cumsum(count) + count, count)
    x0, y0, x1, y1 = *sides.upper[side].T, *sides.lower[side].T
    x = x0 + (row + 0.5 - y0) / (y1 - y0) * (x1 - x0)
    column = np.clip(np.ceil(x - 0.5), 0, w).astype(np.int64)
    # In each row of each polygon: inside from the first crossing to the second, and so on.
    crossings = (sides.owner[side] * rows + row - top) * (w + 1) + column
    crossings.sort()
    place = crossings % (rows * (w + 1))
    change = np.zeros(rows * (w + 1), np.int32)
    np.add.at(change, place[::2], 1)
    np.add.at(change, place[1::2], -1)
    depth = np.cumsum(change.reshape(rows, w + 1)[:, :-1], axis=1, dtype=np.int32)
    mask |= (depth > 0).view(np.uint8)
