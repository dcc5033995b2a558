"""A study of transfusion as figures: values, blocks, likeness and filters."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from histofast._words import count
from histofast.learning import Metric
from histofast.report import Axis, Chart, Figure, Panel, Picture, Point, Rule, Series, number
from histofast.studies.filters import filter_grid
from histofast.studies.transfusion.measures import PRETRAINED, RANDOM, FiltersRow, Measured, WayRow
from histofast.studies.transfusion.plan import NULL, TransfusionPlan, Trial, Way

_LEVEL = "95 % interval"
_IN_TABLE = "A table below has the numbers."
_NONE = Metric(value=math.nan, low=math.nan, high=math.nan)
_APART = 0.5  # places that the sizes of one start are spread over


def figures_of(study: TransfusionPlan, measured: Measured) -> tuple[Figure, ...]:
    """Return all figures that there are numbers for."""
    sheets = {
        "values": _values(study, measured),
        "blocks": _blocks(study, measured),
        "likeness": _likeness(study, measured),
        "movement": _movement(measured),
        "filters": _pictures(measured),
    }
    return tuple(
        Figure(name=name, panels=tuple(panels), stacked=True)
        for name, panels in sheets.items()
        if panels
    )


def _places(study: TransfusionPlan) -> list[tuple[str, str, list[Trial]]]:
    """Return each data set and network with its trials."""
    found: dict[tuple[str, str], list[Trial]] = {}
    for trial in study.trials:
        found.setdefault((trial.data, trial.network), []).append(trial)
    return [(*place, trials) for place, trials in found.items()]


def _values(study: TransfusionPlan, measured: Measured) -> list[Panel]:
    panels: list[Panel] = []
    for data, network, trials in _places(study):
        ways = study.ways_of(network)
        series = []
        for k, trial in enumerate(trials):
            aside = _APART * ((k + 0.5) / len(trials) - 0.5)
            points = tuple(
                _point(i + aside, row.metric, f"{row.trial}, {row.way}")
                for i, way in enumerate(ways)
                if (row := measured.row(trial, way)) is not None
            )
            series.append(Series(name=_size(trial), points=points, look=k, line="none"))
        if any(point.is_defined for one in series for point in one.points):
            panels.append(
                Chart(
                    title=f"{data}, {network}: {measured.metric} by start",
                    caption=f"Mean of {count(len(study.setting.splits), 'split')}, of test pictures; the "
                    "null is random, the first row.",
                    alt=f"Chart of {measured.metric} for {count(len(ways), 'start')}. {_IN_TABLE}",
                    places=Axis(names=tuple(map(str, ways))),
                    values=Axis(label=measured.metric),
                    series=tuple(series),
                    sideways=True,
                    interval=_LEVEL,
                )
            )
    return panels


def _blocks(study: TransfusionPlan, measured: Measured) -> list[Panel]:
    panels: list[Panel] = []
    for data, network, trials in _places(study):
        ways = [way for way in study.ways_of(network) if way.kind == "transfuse"]
        if not ways:
            continue
        row_of = [RANDOM, *ways, *([PRETRAINED] if PRETRAINED in study.ways_of(network) else [])]
        names = ("none", *(way.layer for way in ways), *(["all"] if PRETRAINED in row_of else []))
        for label, title, null, read in (
            (f"gain of {measured.metric}", "gain", 0.0, _gain_of),
            ("times faster than random", "speed", 1.0, _speed_of),
        ):
            series = tuple(
                Series(
                    name=_size(trial),
                    look=k,
                    points=tuple(
                        _point(float(i), read(measured.row(trial, way), null), f"{trial}, {way}")
                        for i, way in enumerate(row_of)
                    ),
                )
                for k, trial in enumerate(trials)
            )
            if any(p.is_defined for one in series for p in one.points[1:]):
                panels.append(
                    Chart(
                        title=f"{data}, {network}: {title} by the last block taken",
                        caption="Weights up to and with a block are pretrained, the rest is random. "
                        "Intervals are of single comparisons; the table has them adjusted."
                        if title == "gain"
                        else "Ratio of median steps to the threshold, which is common to a training set; "
                        "a gap: one of both does not get there.",
                        alt=f"Chart of {label} by the last pretrained block. {_IN_TABLE}",
                        places=Axis(label="last pretrained block", names=names),
                        values=Axis(label=label),
                        series=series,
                        rules=(Rule(name="random", value=null),),
                        interval=_LEVEL,
                    )
                )
    return panels


def _gain_of(row: WayRow | None, null: float) -> Metric:
    if row is None:
        return _NONE
    if row.gain is None:
        return Metric(value=null, low=math.nan, high=math.nan)
    return Metric(value=row.gain.value, low=row.gain.low, high=row.gain.high)


def _speed_of(row: WayRow | None, null: float) -> Metric:
    if row is None:
        return _NONE
    if row.way == RANDOM:
        return Metric(value=null, low=math.nan, high=math.nan)
    speed = row.speed or _NONE
    if math.isinf(speed.value) or speed.value == 0:
        return _NONE
    if math.isinf(speed.high) or speed.low == 0:
        return Metric(value=speed.value, low=math.nan, high=math.nan)
    return speed


def _likeness(study: TransfusionPlan, measured: Measured) -> list[Panel]:
    panels: list[Panel] = []
    for data, network, _ in _places(study):
        rows = [row for row in measured.likenesses if (row.data, row.network) == (data, network)]
        for label, note in (
            ("CKA", "Debiased linear CKA of whole maps."),
            (
                "mean CCA",
                "Mean CCA by the published protocol, not 0 by chance; layers of too few places have none.",
            ),
        ):
            looks = iter(range(len(rows)))
            series = tuple(
                Series(
                    name=row.what,
                    look="null" if row.what == NULL else next(looks),
                    dashed=row.what == NULL,
                    points=tuple(
                        _point(depth, metric, f"{row.what}, {layer}")
                        for depth, metric, layer in zip(
                            row.depths,
                            row.cka if label == "CKA" else row.cca,
                            row.layers,
                            strict=True,
                        )
                    ),
                )
                for row in rows
            )
            if any(point.is_defined for one in series for point in one.points):
                panels.append(
                    Chart(
                        title=f"{data}, {network}: {label} by layer",
                        caption=f"{note} At least {min(row.pictures for row in rows)} test pictures in "
                        f"each of {count(max(row.n for row in rows), 'split')}; the null is two random "
                        "networks that never trained.",
                        alt=f"Chart of {label} against depth. {_IN_TABLE}",
                        places=Axis(
                            label="depth: share of the network's operations",
                            form="share",
                            low=0,
                            high=1,
                        ),
                        values=Axis(label=label),
                        series=series,
                        interval=f"{_LEVEL} over splits",
                    )
                )
    return panels


def _movement(measured: Measured) -> list[Panel]:
    panels: list[Panel] = []
    for trial, rows in _by_trial(measured.filters).items():
        points = []
        for i, row in enumerate(rows):
            distances = np.concatenate([one.distance for one in row.moved])
            low, middle, high = np.nanpercentile(distances, [25, 50, 75])
            points.append(_point(float(i), Metric(value=middle, low=low, high=high), str(row.way)))
        random = [p for p, row in zip(points, rows, strict=True) if row.way == RANDOM]
        n = len(rows[0].before)
        panels.append(
            Chart(
                title=f"{trial}: how far first filters moved",
                caption="Length of what training added to each filter of the first convolution over its "
                f"length before: median and quartiles of {n} filters in each of "
                f"{count(len(rows[0].moved), 'split')}. The null is random.",
                alt=f"Chart of relative movement of filters for {count(len(rows), 'start')}. {_IN_TABLE}",
                places=Axis(names=tuple(str(row.way) for row in rows)),
                values=Axis(label="relative movement", low=0.0),
                series=(Series(name="", points=tuple(points), line="none"),),
                rules=tuple(Rule(name="random, median", value=p.value, faint=True) for p in random),
                sideways=True,
                interval="quartiles of filters",
            )
        )
    return panels


def _pictures(measured: Measured) -> list[Panel]:
    return [
        Picture(
            title=f"{row.trial}, {row.way}: first filters",
            caption="Above at the start, below as trained, in the same order; each on a scale of its own, "
            "grey is 0. First split that was trained.",
            alt=f"{count(len(row.before), 'filter')} of the first convolution before and after training.",
            pixels=filter_grid(row.before, row.after),
        )
        for row in measured.filters
        if row.way in (RANDOM, PRETRAINED, Way(kind="gabor"))
    ]


def _by_trial(rows: Iterable[FiltersRow]) -> dict[Trial, list[FiltersRow]]:
    found: dict[Trial, list[FiltersRow]] = {}
    for row in rows:
        found.setdefault(row.trial, []).append(row)
    return found


def _point(place: float, metric: Metric, tip: str) -> Point:
    bounds = (
        ""
        if math.isnan(metric.low + metric.high)
        else f" ({number(metric.low)} to {number(metric.high)})"
    )
    return Point(
        place=float(place),
        value=float(metric.value),
        low=float(metric.low),
        high=float(metric.high),
        tip=f"{tip}: {number(metric.value)}{bounds}",
    )


def _size(trial: Trial) -> str:
    return "all training pictures" if trial.size is None else f"{trial.size:,} pictures"
