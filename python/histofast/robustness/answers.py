"""Robustness of encoders as an answer: the index with its interval and null, the table, the words."""

from __future__ import annotations

import math
from dataclasses import asdict

from histofast._words import count
from histofast.report import (
    Answer,
    Axis,
    Cell,
    Chart,
    Column,
    Figure,
    Point,
    Series,
    Table,
    number,
    percent,
)
from histofast.robustness.dependence import TAIL, Estimate, Robustness
from histofast.robustness.feature_files import RobustnessResult
from histofast.robustness.words import describe_robustness, finding_of

_LIMITS = (
    "A patch has the class of its slide: patches of other tissue on it count as of this class.",
    "What patients of one centre share beside the making of their slides (stage, age) counts as well.",
)


def answer_of(result: RobustnessResult) -> Answer:
    """Return all of it for a page and a folder."""
    some = next(iter(result.encoders.values()))
    levels = ", ".join(f"{name} {n}" for name, n in some.levels.items())
    classes = ", ".join(f"{name} {n}" for name, n in some.classes.items())
    who = f" of {count(some.groups, 'patient')}" if result.unit == "patient" else ""
    basis = f"{count(some.n, 'patch', 'patches')} of {count(result.slides, 'slide')}{who}"
    return Answer(
        name="robustness",
        title=f"Dependence on {result.column}",
        question=f"Is what features of {count(len(result.encoders), 'encoder')} have in common what a "
        f"slide shows, or its {result.column}?",
        basis=basis,
        findings=describe_robustness(result),
        limits=_LIMITS,
        figures=(
            Figure(
                name="robustness",
                panels=(_chart(result, some),),
                title=f"Robustness to {result.column}",
                basis=basis,
            ),
        ),
        tables=(_table(result, some),),
        method={
            "robustness index": f"own neighbours among own and strange, of the {some.k} nearest patches of "
            f"other {result.unit}s by cosine distance; own: of the same class and another {result.column}, "
            "strange: the reverse (PathoROB)",
            "margin": "median over patches of (d_strange - d_own) / (d_strange + d_own), d the mean "
            f"distance of the {some.m} nearest (CRoMa); tail: mean of the lowest {percent(TAIL)}",
            "share of the variance": f"eta squared of {result.column} within classes, rows of length 1",
            f"share of {result.unit}s": "likewise, adjusted for their number (epsilon squared)",
            "shuffled": f"levels dealt anew among {result.unit}s with the same classes",
            "interval": f"{percent(some.confidence)}: bootstrap of {result.unit}s, neighbours as they are "
            f"among all; of the share a jackknife of {result.unit}s",
            f"patches by {result.column}": levels,
            "patches by class": classes,
        },
        data={
            "column": result.column,
            "unit": result.unit,
            "slides": result.slides,
            "notes": list(result.notes),
            "encoders": {name: asdict(found) for name, found in result.encoders.items()},
        },
    )


def _chart(result: RobustnessResult, some: Robustness) -> Chart:
    found = list(result.encoders.items())
    values = tuple(
        Point(
            place=place,
            value=each.index.value,
            low=each.index.low,
            high=each.index.high,
            tip=f"{name}: {number(each.index.value)}",
        )
        for place, (name, each) in enumerate(found)
    )
    nulls = tuple(
        Point(
            place=place,
            value=each.index.shuffled,
            low=each.index.shuffled_low,
            high=each.index.shuffled_high,
            tip=f"{name}, shuffled: {number(each.index.shuffled)}",
        )
        for place, (name, each) in enumerate(found)
        if not math.isnan(each.index.shuffled)
    )
    series = [Series(name="robustness index", points=values, line="none")]
    if nulls:
        shuffled = f"{result.column} dealt anew"
        series.append(Series(name=shuffled, points=nulls, look="null", line="none"))
    share = percent(some.confidence)
    return Chart(
        title="To the right is better",
        caption=f"Bars: {share} interval; of {result.column} dealt anew, where {share} of the shuffles lie.",
        alt=f"Chart of the robustness index of {count(len(found), 'encoder')} beside that of shuffles. "
        "The table below it has the numbers.",
        places=Axis(names=tuple(name for name, _ in found)),
        values=Axis(label="robustness index", low=0.0, high=1.0),
        series=tuple(series),
        sideways=True,
        interval=f"{share} interval",
        blanks=tuple(k for k, point in enumerate(values) if not point.is_defined),
    )


def _table(result: RobustnessResult, some: Robustness) -> Table:
    level = percent(some.confidence)
    columns = [Column(title="encoder", names=("encoder",))]
    for title, name in (
        ("robustness index", "index"),
        ("margin", "margin"),
        (f"share of the variance that is {result.column}", "share"),
    ):
        columns += [
            Column(title=title, names=(name,), form="number"),
            Column(
                title=f"its {level} interval",
                names=(f"{name}_low", f"{name}_high"),
                form="interval",
                missing="— none",
            ),
            Column(
                title="shuffled",
                names=(f"{name}_shuffled_low", f"{name}_shuffled_high"),
                form="interval",
                missing="— none",
            ),
            Column(title="p", names=(f"{name}_p",), form="number", missing="— none"),
        ]
    columns += [
        Column(title="tail of the margin", names=("tail",), form="number"),
        Column(title=f"share that {result.unit}s are", names=("share_of_groups",), form="number"),
        Column(title="patches with neighbours that tell", names=("support",), form="share"),
        Column(title="finding"),
    ]
    return Table(
        name="robustness",
        title="Encoder by encoder",
        columns=tuple(columns),
        rows=tuple(_cells(name, found) for name, found in result.encoders.items()),
    )


def _cells(name: str, found: Robustness) -> tuple[Cell, ...]:
    numbers: list[Cell] = []
    for estimate in (found.index, found.margin, found.share):
        numbers += _of(estimate)
    return (
        name,
        *numbers,
        found.tail,
        found.share_of_groups,
        found.support[0],
        finding_of(found),
    )


def _of(estimate: Estimate) -> list[Cell]:
    def known(*values: float) -> Cell:
        return None if math.isnan(sum(values)) else values if len(values) > 1 else values[0]

    return [
        estimate.value,
        known(estimate.low, estimate.high),
        known(estimate.shuffled_low, estimate.shuffled_high),
        known(estimate.p),
    ]
