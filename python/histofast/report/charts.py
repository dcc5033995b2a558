"""Figures as what they say, not how they are drawn: values, names and words, nothing of colour."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

NAN = math.nan
NULL, RANDOM = "null", "random"  # looks of what values are held against


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """Along which values, or places, are drawn.

    Attributes:
        label: what it measures; "": nothing is written.
        scale: "auto" is logarithmic where the values are more than 20 times apart.
        form: how its numbers are written; "share" 0.2 as 20 %.
        low, high: where it begins and ends, unless more is drawn; None: a little outside of that.
        names: of places 0, 1, 2 ...; then no numbers are written.
    """

    label: str = ""
    scale: Literal["linear", "log", "auto"] = "linear"
    form: Literal["number", "share", "whole"] = "number"
    low: float | None = None
    high: float | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """A value at a place.

    Attributes:
        place: on the axis of places; the number of a name where that has names, or a little beside it.
        value: NaN leaves a gap.
        low, high: bounds of its interval; NaN: there is none.
        tip: what pointing at it says.
        label: name written beside the chart; "": none.
        note: words behind a bar.
        ringed: whether it is the one that matters.
    """

    place: float
    value: float
    low: float = NAN
    high: float = NAN
    tip: str = ""
    label: str = ""
    note: str = ""
    ringed: bool = False

    @property
    def is_defined(self) -> bool:
        """Whether there is a value."""
        return not math.isnan(self.value)

    @property
    def has_interval(self) -> bool:
        """Whether there is a value with both bounds."""
        return not math.isnan(self.value + self.low + self.high)


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """Points of one colour.

    Attributes:
        name: in the legend; "": it has no entry there.
        points: in the order of the line.
        look: number of a colour and shape; "null" and "random" are what others are held against.
        line: between the points; "steps" keeps a value up to the next point.
        dashed: whether the line is.
        mark: of a point; "dot" is a small one, of many.
        interval: how intervals are drawn.
    """

    name: str
    points: tuple[Point, ...]
    look: int | Literal["null", "random"] = 0
    line: Literal["none", "straight", "steps"] = "straight"
    dashed: bool = False
    mark: Literal["point", "dot", "bar", "none"] = "point"
    interval: Literal["bars", "band"] = "bars"


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """A value across the whole chart: a baseline without a place of its own, or chance (`faint`)."""

    name: str
    value: float
    tip: str = ""
    faint: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """Values at places: lines, forests, scatters, bars.

    Attributes:
        title, caption: above it on a page.
        alt: what it shows, for those who do not see it.
        places, values: the two axes.
        series: in the order of the legend; the first is drawn on top.
        rules: across the chart.
        sideways: places from top to bottom, values to the right.
        labels: where the labels of points go, with a line from each to its point.
        ring: what a ringed point is.
        interval: what an interval is: "95 % interval".
        blanks: places of names that have no value: hatched, and said to be undefined.
        separators: places between two of names where a line parts them.
        is_map: places and values are of one scale that says nothing: only what is near what.
    """

    places: Axis
    values: Axis
    series: tuple[Series, ...]
    alt: str
    title: str = ""
    caption: str = ""
    rules: tuple[Rule, ...] = ()
    sideways: bool = False
    labels: Literal["none", "above", "right"] = "none"
    ring: str = ""
    interval: str = ""
    blanks: tuple[int, ...] = ()
    separators: tuple[float, ...] = ()
    is_map: bool = False

    @property
    def points(self) -> tuple[Point, ...]:
        """Those of all series that have a value."""
        return tuple(p for series in self.series for p in series.points if p.is_defined)


@dataclass(frozen=True, kw_only=True, slots=True)
class Matrix:
    """A value for each pair of a row and a column, as colours.

    Attributes:
        rows, columns: their names.
        values: of each row; NaN: `blank` says why.
        low, high: ends of the scale of colours.
        form: "difference" has signs, and colours that part at the middle of the scale.
        row_label, column_label: what the names are.
        outlined: cells (row, column) that matter, and `outline` says why.
        words: of single blank cells that `blank` is wrong for.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    low: float
    high: float
    alt: str
    form: Literal["number", "difference"] = "number"
    title: str = ""
    caption: str = ""
    row_label: str = ""
    column_label: str = ""
    outlined: tuple[tuple[int, int], ...] = ()
    outline: str = ""
    blank: str = "undefined"
    words: Mapping[tuple[int, int], str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Picture:
    """Pixels, shown as they are, with what their colours mean.

    Attributes:
        pixels: (h, w, 3) uint8 RGB.
        ticks: (place on the bar of colours 0..1, words); empty: there is no bar.
        opacity: of the colours on white, 0..1.
        um_per_px: for a bar of length; None: there is none.
        heads: words above equal parts of its width; empty: there are none.
    """

    pixels: NDArray[np.uint8]
    alt: str
    title: str = ""
    caption: str = ""
    ticks: tuple[tuple[float, str], ...] = ()
    opacity: float = 1.0
    um_per_px: float | None = None
    heads: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Tile:
    """A picture of a grid.

    Attributes:
        pixels: (h, w, 3) uint8 RGB, drawn as a square.
        row, column: place of its upper left corner, in tiles.
        side: how many tiles it is wide and high.
        tip: what pointing at it says.
    """

    pixels: NDArray[np.uint8]
    row: int
    column: int
    side: int = 1
    tip: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """Square pictures in rows and columns, large ones beside small ones.

    Attributes:
        tiles: that do not overlap.
        alt: what it shows, for those who do not see it.
        title, caption: above it on a page.
    """

    tiles: tuple[Tile, ...]
    alt: str
    title: str = ""
    caption: str = ""


Panel = Chart | Matrix | Picture | Grid


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One sheet of panels: the page shows each by itself, the PNG and PDF all of them.

    Attributes:
        name: of its files.
        panels: side by side, or one below the other if `stacked`.
        title, basis: the two lines above the sheet; the page has its own.
    """

    name: str
    panels: tuple[Panel, ...]
    title: str = ""
    basis: str = ""
    stacked: bool = False

    def __post_init__(self) -> None:
        check_name("name of a figure", self.name)
        if not self.panels:
            raise ValueError(f"panels of figure {self.name} must be at least 1, got none")
        for panel in self.panels:
            if isinstance(panel, Chart):
                _check_chart(panel)
            elif isinstance(panel, Matrix):
                _check_matrix(panel)
            elif isinstance(panel, Grid):
                _check_grid(panel)
            else:
                _check_pixels(panel.pixels)


def check_name(what: str, name: str) -> None:
    """Refuse what is no plain name of a file.

    Raises:
        ValueError: anything but letters, digits, - and _ is in it.
    """
    if not name or not all(c.isascii() and (c.isalnum() or c in "-_") for c in name):
        raise ValueError(f"{what} must be of letters, digits, - and _, got {name!r}")


def _check_chart(chart: Chart) -> None:
    numbers: list[Any] = [rule.value for rule in chart.rules]
    for point in chart.points:
        numbers += [point.place, point.value, point.low, point.high]
        if chart.places.names and not -0.5 < point.place < len(chart.places.names) - 0.5:
            last = len(chart.places.names) - 1
            raise ValueError(f"place of a point must be in 0..{last}, got {point.place:g}")
    for number in numbers:
        if math.isinf(number):
            raise ValueError(f"numbers of a chart must be finite or NaN, got {number}")


def _check_matrix(matrix: Matrix) -> None:
    la, lb = len(matrix.rows), len(matrix.columns)
    if len(matrix.values) != la or any(len(row) != lb for row in matrix.values):
        raise ValueError(f"values of a matrix must be {la} rows of {lb} numbers")
    if not matrix.low < matrix.high:
        raise ValueError(f"low must be below high, got {matrix.low:g} and {matrix.high:g}")


def _check_grid(grid: Grid) -> None:
    if not grid.tiles:
        raise ValueError("tiles of a grid must be at least 1, got none")
    taken: set[tuple[int, int]] = set()
    for tile in grid.tiles:
        _check_pixels(tile.pixels)
        if tile.row < 0 or tile.column < 0 or tile.side < 1:
            got = f"row {tile.row}, column {tile.column}, side {tile.side}"
            raise ValueError(
                f"places of tiles must not be negative, and sides at least 1, got {got}"
            )
        places = {
            (tile.row + i, tile.column + j) for i in range(tile.side) for j in range(tile.side)
        }
        if places & taken:
            raise ValueError(f"tiles must not overlap, got two at {min(places & taken)}")
        taken |= places


def _check_pixels(pixels: NDArray[np.uint8]) -> None:
    if pixels.ndim != 3 or pixels.dtype != np.uint8:
        got = f"{pixels.dtype} of shape {pixels.shape}"
        raise ValueError(f"pixels must be (h, w, 3) uint8, got {got}")
