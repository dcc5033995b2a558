"""A comparison as one HTML page that needs nothing beside itself.

Positions are CSS pixels at full size; the page shrinks the drawings on narrow screens, and lets
them scroll where names would become too small to read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from histofast import _core
from histofast.report.findings import (
    Pair,
    basis_of,
    count,
    describe_comparison,
    is_one_set,
    number,
    pairs_of,
    percent,
    title_of,
    word_for_blanks,
    words_of,
)
from histofast.report.pages import data_url, render, undash
from histofast.report.style import LONGEST, bottom_of, color_of, ink_on, shorten
from histofast.similarity import Comparison

_LEAST_FONT = 8.0  # px; below this a drawing scrolls instead of shrinking
_LONGEST_PAIR = 2 * LONGEST  # letters; a pair of encoders has two names
_STOPS = 11  # of the colour bar's gradient


def comparison_page(comparison: Comparison) -> str:
    """Return an HTML page that shows all of a comparison, and says in words what it found.

    The page opens offline and holds the numbers as JSON and CSV to download. The same comparison
    gives the same page.
    """
    pairs = pairs_of(comparison)
    return render(
        "comparison.html",
        c=comparison,
        one_set=is_one_set(comparison),
        title=title_of(comparison),
        blank=word_for_blanks(comparison),
        basis=basis_of(comparison),
        findings=describe_comparison(comparison),
        heatmap=_heatmap(comparison),
        diagonal=_diagonal(comparison, pairs) if pairs else None,
        pairs=pairs,
        findings_of=[words_of(pair.verdict, one_set=is_one_set(comparison)) for pair in pairs],
        confidence=percent(comparison.confidence),
        has_interval=any(pair.low is not None for pair in pairs),
        has_permuted=any(pair.permuted is not None for pair in pairs),
        has_random=any(pair.random is not None for pair in pairs),
        predictions=[(undash(key), value) for key, value in comparison.predictions.items()],
        convention=[(undash(key), value) for key, value in comparison.convention.items()],
        version=_core.version,
        json_url=data_url("application/json", comparison.to_json()),
        csv_url=data_url("text/csv", comparison.to_csv()),
    )


# --- The heat map ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Label:
    """A name on an axis: `text` may be shortened, `full` is not."""

    x: float
    y: float
    text: str
    full: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Cell:
    x: float
    y: float
    fill: str
    title: str
    text: str
    ink: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Heatmap:
    width: float
    height: float
    least_width: float
    middle_x: float
    middle_y: float
    cell: float
    font: float
    cells: list[_Cell]
    outlines: list[tuple[float, float]]
    rows: list[_Label]
    columns: list[_Label]
    stops: list[tuple[float, str]]
    marks: list[tuple[float, str]]
    undefined: int
    alt: str


def _heatmap(comparison: Comparison) -> _Heatmap:
    matrix = comparison.matrix
    la, lb = matrix.shape
    cell = float(min(max(round(420 / max(la, lb)), 13), 46))
    font = min(12.0, cell - 2.5)
    left = 26 + _text_width(comparison.names_a, font)
    top = 4.0
    lowest = bottom_of(*matrix.ravel().tolist())
    word, paired = word_for_blanks(comparison), set(map(tuple, comparison.pairs.tolist()))
    cells = []
    for i, a in enumerate(comparison.names_a):
        for j, b in enumerate(comparison.names_b):
            value = float(matrix[i, j])
            share = 0.0 if math.isnan(value) else (value - lowest) / (1 - lowest)
            blank = "undefined" if (i, j) in paired else word
            said = blank if math.isnan(value) else number(value)
            short = f"{value:.2f}".replace("-0.00", "0.00")
            cells.append(
                _Cell(
                    x=left + j * cell,
                    y=top + i * cell,
                    fill="url(#undefined)" if math.isnan(value) else color_of(share),
                    title=f"{a} / {b}: {said}",
                    text="" if math.isnan(value) or cell < 34 else short,
                    ink=ink_on(share),
                )
            )
    marks = sorted({lowest, 0.0, 0.25, 0.5, 0.75, 1.0})
    width = left + lb * cell + 4
    return _Heatmap(
        width=width,
        height=top + la * cell + 30 + _text_width(comparison.names_b, font),
        least_width=width * _LEAST_FONT / font,
        middle_x=left + lb * cell / 2,
        middle_y=top + la * cell / 2,
        cell=cell,
        font=font,
        cells=cells,
        outlines=[
            (left + j * cell, top + i * cell)
            for i, j in comparison.pairs.tolist()
            if not is_one_set(comparison)
        ],
        rows=[
            _Label(x=left - 5, y=top + (i + 0.5) * cell, text=shorten(name), full=name)
            for i, name in enumerate(comparison.names_a)
        ],
        columns=[
            _Label(x=left + (j + 0.5) * cell, y=top + la * cell + 5, text=shorten(name), full=name)
            for j, name in enumerate(comparison.names_b)
        ],
        stops=[(100 * k / (_STOPS - 1), color_of(k / (_STOPS - 1))) for k in range(_STOPS)],
        marks=[
            (100 * (mark - lowest) / (1 - lowest), f"{mark:.2f}")
            for mark in marks
            if mark in (lowest, 1.0) or (mark - lowest) / (1 - lowest) > 0.1
        ],
        undefined=sum(math.isnan(value) for value in matrix.ravel().tolist()),
        alt=f"Heat map of {comparison.measure}, {la} rows by {lb} columns. The numbers are in the "
        "CSV at the end of the page.",
    )


def _text_width(names: Iterable[str], font: float, longest: int = LONGEST) -> float:
    return 0.6 * font * max((len(shorten(name, longest)) for name in names), default=0)


# --- The diagonal ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Line:
    """One line of the chart: its pieces between gaps, and its points with what they say."""

    kind: str
    name: str
    pieces: list[str]
    points: list[tuple[float, float, str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Diagonal:
    width: float
    height: float
    least_width: float
    left: float
    right: float
    top: float
    bottom: float
    step: float
    font: float
    marks: list[tuple[float, str]]
    labels: list[_Label]
    lines: list[_Line]
    bands: list[str]
    whiskers: list[tuple[float, float, float]]
    undefined: list[float]
    alt: str


def _diagonal(comparison: Comparison, pairs: Sequence[Pair]) -> _Diagonal:
    k = len(pairs)
    step = min(max(440 / k, 14.0), 70.0)
    font = min(12.0, step - 2.5)
    left, top, height = 44.0, 10.0, 260.0
    right, bottom = left + k * step, top + height
    drawn = [
        value
        for pair in pairs
        for value in (pair.value, pair.low, pair.high, pair.permuted, pair.random)
        if value is not None and not math.isnan(value)
    ]
    lowest, highest = bottom_of(*drawn), max([1.0, *drawn])

    def x(i: int) -> float:
        return left + (i + 0.5) * step

    def y(value: float) -> float:
        return bottom - (value - lowest) / (highest - lowest) * height

    def line(kind: str, name: str, values: Sequence[float | None]) -> _Line:
        points = [
            (x(i), y(value), f"{pairs[i].name}, {name}: {number(value)}")
            for i, value in enumerate(values)
            if value is not None and not math.isnan(value)
        ]
        runs = [] if is_one_set(comparison) else _runs(values)  # pairs of encoders have no order
        pieces = [" ".join(f"{x(i):.1f},{y(value):.1f}" for i, value in run) for run in runs]
        return _Line(kind=kind, name=name, pieces=pieces, points=points)

    ends = [
        None if pair.low is None or pair.high is None or math.isnan(pair.value) else pair
        for pair in pairs
    ]
    lows = [None if pair is None else pair.low for pair in ends]
    bands = []
    for run in [] if is_one_set(comparison) else _runs(lows):
        down = [(x(i), y(pairs[i].least)) for i, _ in run]
        up = [(x(i), y(pairs[i].most)) for i, _ in reversed(run)]
        bands.append(" ".join(f"{px:.1f},{py:.1f}" for px, py in down + up))
    lines = [
        line("random", "random initialisation", [pair.random for pair in pairs]),
        line("permuted", "images shuffled", [pair.permuted for pair in pairs]),
        line("value", comparison.measure, [pair.value for pair in pairs]),
    ]
    marks = [m / 4 for m in range(math.ceil(4 * lowest), math.floor(4 * highest) + 1)]
    width = right + 8
    return _Diagonal(
        width=width,
        height=bottom + 14 + _text_width([pair.name for pair in pairs], font, _LONGEST_PAIR),
        least_width=width * _LEAST_FONT / font,
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        step=step,
        font=font,
        marks=[(y(mark), f"{mark:.2f}") for mark in marks],
        labels=[
            _Label(x=x(i), y=bottom + 6, text=shorten(pair.name, _LONGEST_PAIR), full=pair.name)
            for i, pair in enumerate(pairs)
        ],
        lines=[entry for entry in lines if entry.points],
        bands=bands,
        whiskers=[
            (x(i), y(pair.least), y(pair.most)) for i, pair in enumerate(ends) if pair is not None
        ],
        undefined=[x(i) for i, pair in enumerate(pairs) if math.isnan(pair.value)],
        alt=f"Chart of {comparison.measure} in {count(k, 'place', 'places')}, with what is known "
        "of interval and nulls. The table below it has the numbers.",
    )


def _runs(values: Sequence[float | None]) -> list[list[tuple[int, float]]]:
    """Return the pieces of a line between gaps, as (position, value)."""
    runs: list[list[tuple[int, float]]] = [[]]
    for i, value in enumerate(values):
        if value is None or math.isnan(value):
            runs.append([])
        else:
            runs[-1].append((i, value))
    return [run for run in runs if run]
