"""A comparison as an answer: the matrix, the diagonal with its interval and nulls, the words."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Literal

from histofast._words import count
from histofast.comparison.words import (
    Pair,
    basis_of,
    describe_comparison,
    is_one_set,
    pairs_of,
    title_of,
    word_for_blanks,
    words_of,
)
from histofast.report import (
    Answer,
    Axis,
    Cell,
    Chart,
    Column,
    Figure,
    Matrix,
    Panel,
    Point,
    Series,
    Table,
    number,
    percent,
)
from histofast.similarity import MEASURES, Comparison


def answer_of(comparison: Comparison) -> Answer:
    """Return all of a comparison for a page and a folder."""
    pairs, title = pairs_of(comparison), title_of(comparison)
    measure, basis = comparison.measure, basis_of(comparison)
    panels: list[Panel] = [_matrix(comparison)]
    tables = []
    if pairs:
        panels.append(_diagonal(comparison, pairs))
        tables.append(_table(comparison, pairs))
    if comparison.predictions:
        tables.append(_predictions(comparison))
    return Answer(
        name="comparison",
        title=title,
        basis=f"{measure[:1].upper()}{measure[1:]} on {basis}",
        findings=describe_comparison(comparison),
        figures=(
            Figure(
                name="comparison", panels=tuple(panels), title=f"{title}: {measure}", basis=basis
            ),
        ),
        tables=tuple(tables),
        method={
            "measure": measure,
            **comparison.convention,
            "number of images": str(comparison.n),
            "number of slides or patients": str(comparison.groups),
            "sha256 of the images' ids": comparison.images_sha256,
        },
        data=json.loads(comparison.to_json()),
        files={"comparison.csv": comparison.to_csv()},
    )


def _bottom(*values: float) -> float:
    """Return where a scale begins: 0, or the lowest value there is."""
    return min(0.0, *(value for value in values if not math.isnan(value)), 0.0)


def _matrix(comparison: Comparison) -> Matrix:
    values = comparison.matrix.tolist()
    pairs = [(int(i), int(j)) for i, j in comparison.pairs]
    one_set = is_one_set(comparison)
    outlined = () if one_set else tuple(pairs)
    said = [] if one_set else [f"Rows: layers of {comparison.label_a}."]
    said += [] if one_set else [f"Columns: layers of {comparison.label_b}."]
    said += ["Outlined: the same layer in both."] if outlined else []
    return Matrix(
        title="Each with each" if one_set else "Every layer with every layer",
        caption=" ".join([*said, "Point at a cell to read it."]),
        alt=f"Heat map of {comparison.measure}, {len(values)} rows by {len(values[0])} columns. "
        "The numbers are in the CSV at the end of the page.",
        rows=comparison.names_a,
        columns=comparison.names_b,
        values=tuple(map(tuple, values)),
        low=_bottom(*(value for row in values for value in row)),
        high=1.0,
        row_label="" if one_set else comparison.label_a,
        column_label="" if one_set else comparison.label_b,
        outlined=outlined,
        outline="the same layer in both",
        blank=word_for_blanks(comparison),
        words=dict.fromkeys(pairs, "undefined"),
    )


def _diagonal(comparison: Comparison, pairs: Sequence[Pair]) -> Chart:
    one_set = is_one_set(comparison)
    drawn = [
        value
        for pair in pairs
        for value in (pair.value, pair.low, pair.high, pair.permuted, pair.random)
        if value is not None and not math.isnan(value)
    ]
    has_interval = any(pair.low is not None for pair in pairs)
    said = [] if one_set else ["From pixels to the end."]
    if has_interval:
        said.append(f"{'Bars' if one_set else 'Band'}: {percent(comparison.confidence)} interval.")
    if any(pair.permuted is not None for pair in pairs):
        said.append("Images shuffled: the most that chance gives.")
    if any(pair.random is not None for pair in pairs):
        seeds = max(pair.random_seeds for pair in pairs)
        networks = count(seeds, "network that has", "networks that have")
        said.append(
            f"Random initialisation: the same layer of {comparison.label_a} and of {networks} "
            f"learnt nothing{', the most of them, and the range' if seeds > 1 else ''}."
        )
    return Chart(
        title="Pair by pair" if one_set else "The same layer in both",
        caption=" ".join(said),
        alt=f"Chart of {comparison.measure} in {count(len(pairs), 'place', 'places')}, with what "
        "is known of interval and nulls. The table below it has the numbers.",
        places=Axis(names=tuple(pair.name for pair in pairs)),
        values=Axis(
            label=comparison.measure, low=_bottom(*drawn) - 0.02, high=max([1.0, *drawn]) + 0.02
        ),
        series=tuple(series for series in _lines(comparison, pairs) if _is_known(series)),
        interval=f"{percent(comparison.confidence)} interval" if has_interval else "",
        blanks=tuple(k for k, pair in enumerate(pairs) if math.isnan(pair.value)),
    )


def _lines(comparison: Comparison, pairs: Sequence[Pair]) -> tuple[Series, ...]:
    """Return the values and what they are held against; pairs of encoders have no order."""
    one_set = is_one_set(comparison)

    def points(
        name: str, values: Sequence[float | None], lows: Sequence[float | None] | None = None
    ) -> tuple[Point, ...]:
        """Return what the values are held against; with lows, as the upper end of a range."""
        lows = lows or [None] * len(pairs)
        return tuple(
            Point(
                place=k,
                value=math.nan if value is None else value,
                low=math.nan if low is None else low,
                high=math.nan if low is None or value is None else value,
                tip="" if value is None else f"{pairs[k].name}, {name}: {_range(low, value)}",
            )
            for k, (value, low) in enumerate(zip(values, lows, strict=True))
        )

    found = tuple(
        Point(
            place=k,
            value=pair.value,
            low=math.nan if pair.low is None else pair.low,
            high=math.nan if pair.high is None else pair.high,
            tip=f"{pair.name}, {comparison.measure}: {number(pair.value)}",
        )
        for k, pair in enumerate(pairs)
    )
    line: Literal["none", "straight"] = "none" if one_set else "straight"
    shuffled, random = "images shuffled", "random initialisation"
    return (
        Series(
            name=comparison.measure,
            points=found,
            line=line,
            interval="bars" if one_set else "band",
        ),
        Series(
            name=shuffled,
            points=points(shuffled, [pair.permuted for pair in pairs]),
            look="null",
            line=line,
        ),
        Series(
            name=random,
            points=points(
                random, [pair.random for pair in pairs], [pair.random_least for pair in pairs]
            ),
            look="random",
            line=line,
        ),
    )


def _range(low: float | None, high: float) -> str:
    return number(high) if low is None or low == high else f"{number(low)} to {number(high)}"


def _is_known(series: Series) -> bool:
    return any(point.is_defined for point in series.points)


def _table(comparison: Comparison, pairs: Sequence[Pair]) -> Table:
    one_set = is_one_set(comparison)
    columns = [
        Column(title="pair" if one_set else "layer", names=("name",)),
        Column(title=comparison.measure, names=("similarity",), form="number"),
    ]
    cells: list[list[Cell]] = [[pair.name for pair in pairs], [pair.value for pair in pairs]]
    if any(pair.low is not None for pair in pairs):
        title = f"{percent(comparison.confidence)} interval"
        columns.append(Column(title=title, names=("low", "high"), form="interval"))
        cells.append([None if p.low is None or p.high is None else (p.low, p.high) for p in pairs])
    if any(pair.permuted is not None for pair in pairs):
        columns.append(Column(title="images shuffled", names=("permuted",), form="number"))
        cells.append([pair.permuted for pair in pairs])
    if comparison.permuted_p is not None:
        columns.append(Column(title="p of that", names=("permuted_p",), form="number"))
        cells.append(comparison.permuted_p.tolist())
    if any(pair.random is not None for pair in pairs):
        names = ("random_low", "random_high")
        columns.append(Column(title="random initialisation", names=names, form="interval"))
        cells.append([None if p.random is None else (p.random_least, p.random) for p in pairs])
    columns.append(Column(title="finding", names=("finding",)))
    cells.append([words_of(pair.verdict, one_set=one_set) for pair in pairs])
    unsure = ("chance", "undefined")
    return Table(
        name="pairs" if one_set else "layers",
        title="Pairs in numbers" if one_set else "Layer by layer",
        columns=tuple(columns),
        rows=tuple(zip(*cells, strict=True)),
        aside=frozenset(k for k, pair in enumerate(pairs) if pair.verdict in unsure),
    )


def _predictions(comparison: Comparison) -> Table:
    formulas = {measure.title: measure.formula for measure in MEASURES.values()}
    return Table(
        name="predictions",
        title="Their predictions",
        columns=(
            Column(title="measure", names=("measure",)),
            Column(title="value", names=("value",), form="number"),
            Column(title="formula", names=("formula",)),
        ),
        rows=tuple(
            (title, value, formulas.get(title, ""))
            for title, value in comparison.predictions.items()
        ),
    )
