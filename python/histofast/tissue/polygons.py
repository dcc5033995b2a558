"""Polygons of a GeoJSON to a mask; its points."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from histofast._words import clipped, count, printable

AREAS_REVISION = 2  # of which areas of a GeoJSON are one
_FARTHEST_PX = 1 << 40  # far beyond any slide, and rows are still counted exactly
_DEEPEST = 8  # collections and features in each other
_MOST_CROSSINGS = 1 << 26  # ten seconds; a million annotations of thirty rows each
_BAND_CROSSINGS, _BAND_PIXELS = 1 << 21, 1 << 23  # what is drawn at a time
_SHOWN_CHARACTERS = 60
_WITHOUT_AREA = ("Point", "MultiPoint", "LineString", "MultiLineString")


@dataclass(kw_only=True, slots=True)
class Areas:
    """What a GeoJSON object holds; a polygon is its rings, (k, 2) float64 and not closed.

    Attributes:
        polygons: the areas.
        ignored: areas of classes that QuPath ignores, by their name's last sign (`Ignore*`).
        without_area: how many geometries without an area were passed over: points, lines, and features
            whose geometry is null or has no coordinates.
        missing: how many cores of tissue arrays that are missing were passed over.
    """

    polygons: list[list[NDArray[np.float64]]] = field(default_factory=list)
    ignored: list[list[NDArray[np.float64]]] = field(default_factory=list)
    without_area: int = 0
    missing: int = 0

    @property
    def notes(self) -> tuple[str, ...]:
        """Say what is no part of the mask."""
        told = []
        if self.without_area:
            one, many = "point, line or empty feature", "points, lines or empty features"
            told.append(f"{count(self.without_area, one, many)} of the mask passed over")
        if self.ignored:
            told.append(f"{count(len(self.ignored), 'area')} of classes in * left out of the mask")
        if self.missing:
            told.append(f"{count(self.missing, 'missing core')} of the mask passed over")
        return tuple(told)


class Leaf(NamedTuple):
    """A geometry of a GeoJSON object, or what is there in the place of one.

    Attributes:
        kind: "Point", "Polygon" ...; "empty" where there is none, "missing" for a core that is.
        value: the object.
        where: it is, for messages.
        is_ignored: whether it is of a class that QuPath ignores.
    """

    kind: str
    value: Any
    where: str
    is_ignored: bool


def leaves(geojson: Mapping[str, Any], *, wanted: str) -> Iterator[Leaf]:
    """Yield every geometry in a GeoJSON object, in its order.

    Raises:
        ValueError: it holds something else than `wanted`, as messages call it, and other geometries; names the feature.
    """
    waiting: list[tuple[Any, str, int, bool]] = [(geojson, "geojson", 0, False)]
    while waiting:
        value, where, depth, is_ignored = waiting.pop()
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
            if not inner:
                yield Leaf("empty", value, where, is_ignored)
        elif kind == "Feature":
            geometry, properties = value.get("geometry"), value.get("properties")
            is_ignored = _is_ignored(properties)
            if _is_missing(properties):
                yield Leaf("missing", value, where, is_ignored)
            elif geometry is None:
                yield Leaf("empty", value, where, is_ignored)
            else:
                inner = [(geometry, where)]
        elif kind in ("Polygon", "MultiPolygon", *_WITHOUT_AREA):
            yield Leaf(kind, value, where, is_ignored)
        else:
            got = _shown(value if kind is None else kind)
            raise ValueError(f"{where} must hold {wanted}, got {got}: export them as GeoJSON")
        waiting += [(part, place, depth + 1, is_ignored) for part, place in reversed(inner)]


def read_polygons(geojson: Mapping[str, Any]) -> Areas:
    """Read every polygon in a GeoJSON object.

    Raises:
        ValueError: it holds something else, or a broken ring; names the feature.
    """
    found = Areas()
    for kind, value, where, is_ignored in leaves(geojson, wanted="polygons"):
        if kind == "missing":
            found.missing += 1
        elif kind not in ("Polygon", "MultiPolygon"):
            found.without_area += 1
        else:
            coordinates = _list(value, "coordinates", where)
            found.without_area += not any(coordinates)
            for rings in [coordinates] if kind == "Polygon" else coordinates:
                if not _is_list(rings):
                    raise ValueError(f"{where} must hold lists of rings, got {_shown(rings)}")
                if rings:
                    polygons = found.ignored if is_ignored else found.polygons
                    polygons.append([_ring(ring, where) for ring in rings])
    return found


def read_points(geojson: Mapping[str, Any]) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Read every point in a GeoJSON object: (n, 2) float64 (x, y), and what was passed over in words.

    Points of classes that QuPath ignores (`Ignore*`), areas, lines and empty features are.

    Raises:
        ValueError: it holds something else, a point without two finite numbers, or no point; names the feature.
    """
    found: list[tuple[float, float]] = []
    ignored = others = 0
    for kind, value, where, is_ignored in leaves(geojson, wanted="points"):
        if kind not in ("Point", "MultiPoint"):
            others += 1
            continue
        coordinates = _list(value, "coordinates", where)
        points = [coordinates] if kind == "Point" else coordinates
        for point in points:
            if not _is_point(point) or not all(abs(v) <= _FARTHEST_PX for v in point[:2]):
                raise ValueError(
                    f"{where} must hold points of two finite numbers, level-0 pixels, got "
                    f"{_shown(point) if not _is_point(point) else tuple(point[:2])}"
                )
        ignored += len(points) * is_ignored
        found += [] if is_ignored else [(float(point[0]), float(point[1])) for point in points]
    if not found:
        got = f"{count(others, 'other geometry', 'other geometries')}" if others else "none"
        raise ValueError(f"geojson must hold points, got {got}")
    told = []
    if others:
        told.append(
            f"{count(others, 'area, line or empty feature', 'areas, lines or empty features')} passed over"
        )
    if ignored:
        told.append(f"{count(ignored, 'point')} of classes in * left out")
    return np.array(found, np.float64), tuple(told)


def _is_ignored(properties: Any) -> bool:
    """Whether the class of an object is one that QuPath ignores."""
    told = properties.get("classification") if isinstance(properties, Mapping) else None
    if isinstance(told, Mapping):  # several names are from the general to the particular
        names = told.get("names")
        told = names[-1] if _is_list(names) and names else told.get("name")
    return isinstance(told, str) and told.endswith("*")


def _is_missing(properties: Any) -> bool:
    return isinstance(properties, Mapping) and properties.get("isMissing") is True


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
