"""The study as an answer: the metric against patches and hours, tables, words."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from histofast._words import count
from histofast.learning import Metric
from histofast.report import (
    Answer,
    Axis,
    Cell,
    Chart,
    Column,
    Figure,
    Point,
    Rule,
    Series,
    Table,
    difference_cells,
    difference_columns,
    percent,
)
from histofast.studies.pictures import failed_tables
from histofast.studies.selection.found import Compared, Row, SelectionFound
from histofast.studies.selection.study import (
    ATTENTION,
    CHEAP,
    RANDOM,
    WHOLE,
    Arm,
    SelectionStudy,
)
from histofast.studies.selection.words import (
    LIMITS,
    basis_of,
    clock,
    describe_selection,
    with_interval,
)
from histofast.studies.setting import CONFIDENCE

_INTERVAL = f"{percent(CONFIDENCE)} interval"


def answer_of_selection(study: SelectionStudy, found: SelectionFound) -> Answer:
    """Return all of a study for a page and a folder."""
    folds = len(study.parts) // study.repeats
    basis = basis_of(found, folds=folds, repeats=study.repeats)
    return Answer(
        name=study.name,
        title="How many patches an expensive encoder must see",
        question="A cheap encoder's trained attention chooses patches of each slide, the expensive one encodes them: "
        f"what does that cost in {found.metric}, and is it better than chance?",
        basis=basis,
        findings=describe_selection(found),
        limits=LIMITS,
        figures=(
            Figure(
                name="selection",
                panels=tuple(_charts(found)),
                title="How many patches an expensive encoder must see",
                basis=basis,
            ),
        ),
        tables=(_rows(found), _differences(found), *failed_tables(found.failed)),
        commands=(("Repeat the study", study.setting.command),) if study.setting.command else (),
        method=_method(study, found),
    )


def _method(study: SelectionStudy, found: SelectionFound) -> dict[str, str]:
    names = {name: study.bags[name].encoder.get("name", "not told") for name in (CHEAP, WHOLE)}
    costly, cheap = found.patches
    return {
        "cheap encoder": f"{names[CHEAP]}, {cheap:,} patches",
        "expensive encoder": f"{names[WHOLE]}, {costly:,} patches",
        "what chooses": f"a run of {study.chooser} on the cheap features of the training slides of each outer fold, "
        f"cross-validated within them ({count(study.config.folds, 'fold')}); attention is the mean over its models that have not seen "
        "a slide, of tested slides over all: no label of a tested slide takes part",
        "attention": f"the share of a slide's patches of the highest attention, rounded half up, at least one, and "
        f"{study.keep_random:g} of the others at random; where the grids differ, by the area that patches share",
        "random": "as many patches of each slide, drawn anew in every fold's repeat",
        "model": f"{study.model}, at most {study.config.epochs} epochs, lr {study.config.lr:g}, on chosen patches in training "
        "and test alike",
        "value": f"mean over folds and repeats of the {found.metric} of the tested {found.unit}s; ranks are compared "
        "only where the same model gave them",
        "interval of the way of training": f"corrected for the {found.unit}s that folds share in training (Nadeau and "
        "Bengio, 2003)",
        f"interval over {found.unit}s": f"1000 bootstrap draws of {found.unit}s, the models as they are",
        "differences": "fold by fold, same folds and seeds, after Holm over all of the table",
        "hours": "patches by patches per second of both encoders, timed here one after the other on made-up patches"
        if found.speeds
        else "not told: name cheap_encoder and costly_encoder",
        "files without coordinates": "rows of the same number are taken to be the same patches",
    }


# --- Charts ------------------------------------------------------------------------------------


def _charts(found: SelectionFound) -> Iterator[Chart]:
    yield _chart(
        found,
        title=f"{found.metric} against the share that is encoded",
        axis=Axis(label="share of patches encoded by the expensive encoder", form="share", low=0.0),
        place=lambda row: row.share,
    )
    if found.speeds:
        longest = max(row.hours or 0.0 for row in found.rows)
        unit, per_hour = ("hours", 1.0) if longest >= 1 else ("minutes", 60.0)
        yield _chart(
            found,
            title=f"{found.metric} against time",
            axis=Axis(label=f"{unit} of encoding, both encoders", low=0.0),
            place=lambda row: None if row.hours is None else per_hour * row.hours,
        )


def _chart(
    found: SelectionFound, *, title: str, axis: Axis, place: Callable[[Row], float | None]
) -> Chart:
    whole, cheap = found.row(Arm(way=WHOLE)), found.row(Arm(way=CHEAP))
    enough = None if found.enough is None else found.enough.one
    series = []
    for way, name, look in (
        (ATTENTION, "by attention", 0),
        (RANDOM, "at random", "random"),
    ):
        rows = [row for row in found.rows if row.arm.way == way]
        points = [_point(row, place(row), ringed=row.arm == enough) for row in rows]
        points.append(_point(whole, place(whole), ringed=False))
        series.append(
            Series(
                name=name,
                points=tuple(point for point in points if point is not None),
                look=look,  # type: ignore[arg-type]
            )
        )
    rules = [Rule(name="all patches", value=whole.method.value, tip=with_interval(whole))]
    rules.append(
        Rule(name="cheap encoder alone", value=cheap.method.value, tip=with_interval(cheap))
    )
    return Chart(
        title=title,
        caption=f"Bars: {_INTERVAL}, the wider of that of the way of training and that over {found.unit}s. The last "
        "point of both lines is all patches.",
        alt=f"{title}, of patches by attention and of random ones. The table has the numbers.",
        places=axis,
        values=Axis(label=found.metric),
        series=tuple(series),
        rules=tuple(rule for rule in rules if not math.isnan(rule.value)),
        ring="the smallest share shown to be about as good as all patches",
        interval=_INTERVAL,
    )


def _point(row: Row, place: float | None, *, ringed: bool) -> Point | None:
    if place is None or math.isnan(place) or math.isnan(row.method.value):
        return None
    return Point(
        place=place,
        value=row.method.value,
        low=row.interval.low,
        high=row.interval.high,
        tip=f"{row.arm}: {with_interval(row)}",
        ringed=ringed,
    )


# --- Tables ------------------------------------------------------------------------------------


def _rows(found: SelectionFound) -> Table:
    columns = [
        Column(title="patches", names=("way",)),
        Column(title="for attention", names=("keep",), missing="—"),
        Column(title=found.metric, names=("value",), form="number"),
        Column(title="its interval", names=("low", "high"), form="interval", missing="— none"),
        Column(
            title=f"over {found.unit}s",
            names=("patients_low", "patients_high"),
            form="interval",
            missing="— none",
        ),
        Column(title="patches encoded", names=("patches",), form="whole"),
        Column(title="of all", names=("share",), form="share"),
        Column(title="time", missing="— not timed"),
        Column(title="", names=("hours",), form="number"),
        Column(title="folds", names=("parts",), form="whole"),
    ]
    enough = None if found.enough is None else found.enough.one
    return Table(
        name="selection",
        title="Way by way",
        caption="Patches of the cheap encoder alone are its own.",
        columns=tuple(columns),
        rows=tuple(_cells(row) for row in found.rows),
        highlighted=frozenset(i for i, row in enumerate(found.rows) if row.arm == enough),
        aside=frozenset(i for i, row in enumerate(found.rows) if row.arm.way == CHEAP),
    )


def _cells(row: Row) -> tuple[Cell, ...]:
    return (
        str(row.arm),
        f"{row.arm.keep:g}" if row.arm.way in (ATTENTION, RANDOM) else None,
        row.method.value,
        _bounds(row.method),
        _bounds(row.patients),
        row.patches,
        row.share,
        None if row.hours is None else clock(row.hours),
        row.hours,
        float(row.parts),
    )


def _bounds(metric: Metric) -> Cell:
    return None if math.isnan(metric.low + metric.high) else (metric.low, metric.high)


def _differences(found: SelectionFound) -> Table:
    columns = [
        Column(title="by attention", names=("keep",)),
        Column(title="less", names=("other",)),
        *difference_columns("difference", "difference"),
        Column(
            title=f"over {found.unit}s, models as they are",
            names=("patients", "patients_low", "patients_high"),
            form="difference",
            missing="—",
        ),
    ]
    return Table(
        name="differences",
        title="Difference by difference",
        caption="On the same folds and seeds; what is found is after Holm over all lines, with intervals in the CSV.",
        columns=tuple(columns),
        rows=tuple(_difference(each) for each in found.compared),
    )


def _difference(each: Compared) -> tuple[Cell, ...]:
    told = each.patients
    return (
        f"{each.one.keep:g}",
        str(each.other),
        *difference_cells(each.difference),
        None if math.isnan(told.value) else (told.value, told.low, told.high),
    )
