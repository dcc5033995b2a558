"""A study as an answer: its charts, its table, its words."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

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
    interval,
    number,
    percent,
    round_number,
)
from histofast.studies.rows import Study, StudyRow
from histofast.studies.words import (
    chosen_word,
    describe_study,
    extreme,
    finding_of,
    in_order,
    noun_of,
    study_basis,
)

_DEPTH = Axis(label="depth: share of the network's operations", form="share", low=0.0, high=1.0)
_SPEED = Axis(label="patches per second", scale="auto")
_IN_TABLE = "The table below it has the numbers."


def answer_of(study: Study, *, links: Mapping[str, str] | None = None) -> Answer:
    """Return all of a study for a page and a folder.

    Args:
        study: what to show.
        links: places to read on by their names: paths relative to the page, or web addresses.
    """
    more = "more" if study.higher_is_better else "less"
    return Answer(
        name="study",
        title=study.title,
        question=study.question,
        basis=study_basis(study),
        findings=describe_study(study),
        figures=_figures(study),
        tables=(_table(study),),
        commands=study.commands,
        method={
            "metric": f"{study.metric}, {more} is better",
            **study.convention,
            "slides": str(study.n_slides),
            "patients": str(study.n_patients)
            if study.unit == "patient"
            else "not known: slides count as patients",
            "folds": f"{study.repeats} x {study.folds}" if study.repeats > 1 else str(study.folds),
        },
        links=links or {},
        data=study.to_dict(),
    )


# --- The table ---------------------------------------------------------------------------------


def _table(study: Study) -> Table:
    rows = in_order(study)
    depth = any(row.depth is not None for row in study.candidates)
    versus = any(row.versus is not None for row in rows)
    top, level = extreme(study), percent(study.confidence)
    caption = (
        f"{study.metric} is the mean over folds{' and repeats' * (study.repeats > 1)}. First interval: this "
        f"way of making models, on {study.unit}s like these, with other folds and seeds. Second: these "
        f"very models, other {study.unit}s."
    )
    if versus:
        caption += (
            f" Difference: less that of the {top}, fold by fold on the same folds and seeds, with its "
            f"{level} interval; findings are adjusted for the number of comparisons."
        )
    return Table(
        name="study",
        title="Cut by cut" if study.kind == "truncation" else "Network by network",
        caption="" if study.highest is None else caption,
        columns=_columns(study, depth=depth, versus=versus),
        rows=tuple(_cells(study, row) for row in rows),
        highlighted=frozenset(k for k, row in enumerate(rows) if row.chosen),
        aside=frozenset(k for k, row in enumerate(rows) if row.baseline),
    )


def _columns(study: Study, *, depth: bool, versus: bool) -> tuple[Column, ...]:
    """Columns without a title are in the CSV only."""
    unmeasured = "— not measured"
    return (
        Column(title=noun_of(study, 1), names=("name",)),
        Column(title="network and layer", under=True),
        Column(title="", names=("network",)),
        Column(title="", names=("layer",)),
        Column(title="pooled by" if any(r.pool for r in study.rows) else "", names=("pool",)),
        Column(title=study.metric, names=("value",), form="number"),
        Column(
            title=f"{percent(study.confidence)} interval of the way of training",
            names=("low", "high"),
            form="interval",
            missing="— none",
        ),
        Column(title="", names=("patients_value",), form="number"),
        Column(
            title=f"of these models, over {study.unit}s",
            names=("patients_low", "patients_high"),
            form="interval",
            missing="— none",
        ),
        Column(
            title=f"difference to the {extreme(study)}" if versus else "",
            names=("difference", "difference_low", "difference_high"),
            form="difference",
            missing="— not compared",
        ),
        Column(title="", names=("p_adjusted",), form="number"),
        Column(title="", names=("spread_low", "spread_high"), form="interval"),
        Column(title="finding"),
        Column(title="notes", names=("notes",), under=True),
        Column(title="patches/s", names=("patches_per_s",), form="rate", missing=unmeasured),
        Column(
            title="depth" if depth else "",
            names=("depth",),
            form="share",
            missing="— not known",
        ),
        Column(title="width of features", names=("d",), form="whole"),
        Column(title="encoder's file", names=("size_bytes",), form="bytes", missing="— not known"),
        *(
            Column(title=name.replace("_", " "), names=(name,), form="number", missing=unmeasured)
            for name in study.extras
        ),
        Column(title="", names=("baseline",), form="whole"),
        Column(title="", names=("chosen",), form="whole"),
    )


def _cells(study: Study, row: StudyRow) -> tuple[Cell, ...]:
    versus = row.versus
    difference: Cell = "" if row is study.highest else None
    if versus is not None:
        difference = (versus.value, versus.low, versus.high)
    return (
        row.name,
        ", ".join(text for text in (row.network, row.layer) if text not in row.name),
        row.network,
        row.layer,
        row.pool,
        row.value,
        _bounds(row.method),
        row.patients.value,
        _bounds(row.patients),
        difference,
        None if versus is None else versus.p_adjusted,
        row.spread,
        finding_of(study, row),
        row.notes,
        row.patches_per_s,
        row.depth,
        row.d,
        row.size_bytes,
        *(row.extra.get(name) for name in study.extras),
        int(row.baseline),
        int(row.chosen),
    )


def _bounds(metric: Metric) -> Cell:
    return None if math.isnan(metric.low + metric.high) else (metric.low, metric.high)


# --- Charts ------------------------------------------------------------------------------------


def _figures(study: Study) -> tuple[Figure, ...]:
    if study.highest is None:
        return ()
    panels = _of_cuts(study) if study.kind == "truncation" else _of_networks(study)
    if not panels:
        return ()
    return (
        Figure(
            name="study",
            panels=tuple(panels),
            title=study.title,
            basis=study_basis(study),
            stacked=study.kind == "truncation",
        ),
    )


def _of_cuts(study: Study) -> list[Chart]:
    """Return value and speed against depth, of the rows that have both."""
    placed = [row for row in study.candidates if row.depth is not None]
    valued = [row for row in placed if row.is_defined]
    timed = [row for row in placed if row.patches_per_s is not None]
    charts = []
    if valued:
        charts.append(
            Chart(
                title=f"{study.metric} against depth",
                caption=f"From pixels to the end.{_bars(study, valued)}",
                alt=f"Chart of {study.metric} at {count(len(valued), 'cut', 'cuts')} against "
                f"depth. {_IN_TABLE}",
                places=_DEPTH,
                values=Axis(label=study.metric),
                series=_by_network(study, valued, lambda row: _point(study, row, row.depth)),
                rules=_rules(study, study.baselines),
                labels="above",
                ring=chosen_word(study),
                interval=f"{percent(study.confidence)} interval",
            )
        )
    if timed:
        charts.append(
            Chart(
                title="Speed against depth",
                caption="Measured, not counted: patches per second up to each cut.",
                alt=f"Chart of patches per second at {count(len(timed), 'cut', 'cuts')} against "
                f"depth. {_IN_TABLE}",
                places=_DEPTH,
                values=_SPEED,
                series=_by_network(study, timed, _speed_point),
                labels="above",
                ring=chosen_word(study),
            )
        )
    return charts


def _of_networks(study: Study) -> list[Chart]:
    """Return the rows from the highest on, and value against speed of those that have both."""
    rows = in_order(study)
    charts = [_forest(study, rows)]
    timed = [row for row in rows if row.is_defined and row.patches_per_s is not None]
    if timed:
        untimed = [row for row in study.baselines if row.patches_per_s is None]
        better = "Up" if study.higher_is_better else "Down"
        charts.append(
            Chart(
                title=f"{study.metric} against speed",
                caption=f"{better} and to the right is better.",
                alt=f"Chart of {study.metric} against patches per second. {_IN_TABLE}",
                places=_SPEED,
                values=Axis(label=study.metric),
                series=_by_role(timed, lambda row: _point(study, row, row.patches_per_s)),
                rules=_rules(study, untimed),
                labels="right",
                ring=chosen_word(study),
                interval=f"{percent(study.confidence)} interval",
            )
        )
    return charts


def _forest(study: Study, rows: Sequence[StudyRow]) -> Chart:
    places = {row.name: float(k) for k, row in enumerate(rows)}
    between = 0 < len(study.candidates) < len(rows)
    return Chart(
        title=f"From the {extreme(study)} on",
        caption=_bars(study, rows).strip(),
        alt=f"Chart of {study.metric} of {count(len(rows), 'row', 'rows')} with intervals. "
        f"{_IN_TABLE}",
        places=Axis(
            names=tuple(row.name + ("" if row.is_defined else " (undefined)") for row in rows)
        ),
        values=Axis(label=study.metric),
        series=_by_role(rows, lambda row: _point(study, row, places[row.name])),
        rules=_rules(study, ()),
        sideways=True,
        ring=chosen_word(study),
        interval=f"{percent(study.confidence)} interval",
        separators=(len(study.candidates) - 0.5,) if between else (),
    )


def _bars(study: Study, rows: Sequence[StudyRow]) -> str:
    if not any(row.has_interval for row in rows):
        return ""
    ranges = "; of random networks, their range" * any(row.spread is not None for row in rows)
    return f" Bars: {percent(study.confidence)} interval, the wider of the two{ranges}."


def _by_network(
    study: Study, rows: Sequence[StudyRow], point: Callable[[StudyRow], Point]
) -> tuple[Series, ...]:
    """Return one line per network, and per way of pooling where there are several."""
    ways = dict.fromkeys((row.network, _line_of(row)) for row in study.candidates)
    series = []
    for k, (network, way) in enumerate(ways):
        of_one = sorted(
            (r for r in rows if (r.network, _line_of(r)) == (network, way)),
            key=lambda r: r.depth or 0.0,
        )
        several = sum(each == network for each, _ in ways) > 1
        named = [network] if len(study.networks) > 1 or not several else []
        name = ", ".join([*named, *([way or "as a whole"] if several else [])])
        if of_one:
            series.append(Series(name=name, look=k, points=tuple(map(point, of_one))))
    return tuple(series)


def _line_of(row: StudyRow) -> str:
    """Return what sets the line of a cut apart from others of its network: how tokens become features."""
    return " ".join([row.pool, *row.block.split()[1:]])


def _by_role(rows: Sequence[StudyRow], point: Callable[[StudyRow], Point]) -> tuple[Series, ...]:
    """Return candidates and baselines, without lines."""
    roles: tuple[tuple[str, int | Literal["null"], bool], ...] = (
        ("networks", 0, False),
        ("baselines", "null", True),
    )
    series = []
    for name, look, baseline in roles:
        points = tuple(point(row) for row in rows if row.baseline is baseline)
        if points:
            series.append(Series(name=name, look=look, points=points, line="none"))
    return tuple(series)


def _point(study: Study, row: StudyRow, place: float | None) -> Point:
    tip = f"{row.name}: {study.metric} {number(row.value)}" if row.is_defined else ""
    low, high = row.spread or (row.interval.low, row.interval.high)
    if row.is_defined and not math.isnan(low + high):
        tip += f" ({interval(low, high)})"
    return Point(
        place=place or 0.0,
        value=row.value,
        low=low,
        high=high,
        tip=tip,
        label=row.layer if study.kind == "truncation" else row.name,
        ringed=row.chosen,
    )


def _speed_point(row: StudyRow) -> Point:
    speed = row.patches_per_s or 0.0
    return Point(
        place=row.depth or 0.0,
        value=speed,
        tip=f"{row.name}: {round_number(speed)} patches/s",
        label=row.layer,
        ringed=row.chosen,
    )


def _rules(study: Study, rows: Sequence[StudyRow]) -> tuple[Rule, ...]:
    """Return what is drawn across a chart: baselines without a place of their own, and chance."""
    rules = []
    for row in rows:
        if row.is_defined:
            among = "" if row.spread is None else f" ({interval(*row.spread)})"
            tip = f"{row.name}: {study.metric} {number(row.value)}{among}"
            rules.append(Rule(name=f"baseline: {row.name}{among}", value=row.value, tip=tip))
    if study.chance is not None:
        said = f"chance: {number(study.chance)}"
        rules.append(Rule(name="chance", value=study.chance, tip=said, faint=True))
    return tuple(rules)
