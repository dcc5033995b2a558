"""A study of drift as an answer: its charts, its tables, its words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from histofast._words import count
from histofast.learning import Metric, correlate
from histofast.report import (
    Answer,
    Axis,
    Chart,
    Figure,
    Matrix,
    Panel,
    Picture,
    Point,
    Series,
    interval,
    number,
    signed,
)
from histofast.studies.drift.found import LEAST_KERNEL_PX, MEASURES, DriftFound, GainRow
from histofast.studies.drift.published import LAYERS, published_points
from histofast.studies.drift.study import FREEZES, NULL_SEEDS, Drift, Held, Way
from histofast.studies.drift.tables import tables_of
from histofast.studies.drift.words import (
    basis_of,
    describe_drift,
    gain_word,
    limits_of,
    published_words,
)
from histofast.studies.filters import filter_grid

_IN_TABLE = "The tables below have the numbers."
_INTERVAL = "95 % interval"


def answer_of_drift(study: Drift, found: DriftFound) -> Answer:
    """Return all of a study for a page and a folder."""
    published = _published_rows() if study.show_published else ()
    findings = describe_drift(study, found)
    return Answer(
        name=study.name,
        title="What fine-tuning changes",
        question="How far do networks go from the weights they begin with, and do those of several sources end "
        "alike?",
        basis=basis_of(study, found),
        findings=(*findings, published_words(published)) if published else findings,
        limits=limits_of(study, found),
        figures=tuple(_figures(study, found)),
        tables=tuple(tables_of(study, found)),
        commands=(("The study", study.setting.command),) if study.setting.command else (),
        method=_method(study, found),
    )


def _method(study: Drift, found: DriftFound) -> dict[str, str]:
    setting = study.setting
    return {
        "network": study.network,
        "starts": ", ".join(f"{name} = {start}" for name, start in study.begins.items()),
        "metric": f"{setting.metric} of test pictures, more is better",
        "splits": f"{setting.repeats} x {count(setting.folds, 'fold')}, by group"
        if setting.folds
        else f"{setting.repeats}, one of five folds each, by group",
        "CKA": "debiased linear CKA of whole maps, over batches of 64 pictures",
        "CCA": "the published protocol: mean CCA of 64 channels at 10,000 places, 5 repeats; layers as listed, "
        "where the publication has the first one after its ReLU",
        "intervals": "95 %, corrected for folds that share training pictures; findings after Holm over all "
        "comparisons of a table",
        "independent errors": "a b + (1 - a)(1 - b) of the two accuracies",
        "relative gain": "(tuned - random) / random; random is the mean of its seeds, tuned the same way",
        "r": "Pearson's, its interval by drawing data sets again; over points: Fisher's",
        "failed": str(len(found.failed)),
    }


# --- Figures -------------------------------------------------------------------------------------


def _figures(study: Drift, found: DriftFound) -> Iterator[Figure]:
    for d, data in enumerate(study.setting.sets, start=1):
        panels = list(_layer_panels(study, found, data)) if found.layers else []
        if panels:
            yield Figure(
                name=f"layers-{d}",
                panels=tuple(panels),
                title=f"Layers, {data}",
                basis=basis_of(study, found),
                stacked=True,
            )
    panels = list(_gain_panels(study, found))
    if panels:
        yield Figure(name="gain", panels=tuple(panels), title="Gain against similarity")
    if study.show_published:
        yield Figure(
            name="published",
            panels=tuple(_published_panels()),
            title="Gain against similarity, as published",
        )
    pictures = list(_filter_pictures(study, found))
    if pictures:
        yield Figure(name="filters", panels=tuple(pictures), title="First filters", stacked=True)


def _layer_panels(study: Drift, found: DriftFound, data: str) -> Iterator[Panel]:
    names = [*study.source, study.randoms[0]]
    tuned = [Held(kind="tuned", a=a, b=a, freeze=f) for a in names for f in FREEZES]
    ends = [
        held
        for (of, held) in found.alike
        if of == data
        and held.kind in ("ends", "starts")
        and {held.a, held.b} <= set(names if len(study.source) == 1 else study.source)
    ]
    randoms = Held(kind="ends", a=study.randoms[0], b=study.randoms[1])
    where = f", {data}" if len(study.setting.sets) > 1 else ""
    for measure in MEASURES:
        yield from _lines(
            found,
            data,
            measure,
            tuned,
            title=f"How much is left of the start: {measure}{where}",
            caption="A network against the weights that it began with. Dashed: head first.",
        )
        yield from _lines(
            found,
            data,
            measure,
            [*ends, randoms],
            title=f"Do two sources end alike? {measure}{where}",
            caption="Two networks on the same pictures. Dashed: before training.",
        )
    for kinds, title in (
        (("tuned", "random"), "CKA with the own start, and with random weights"),
        (("ends", "starts", "recipes"), "CKA of two networks"),
    ):
        yield _matrix(found, data, kinds, title=f"{title}{where}")


def _lines(
    found: DriftFound, data: str, measure: str, held: Sequence[Held], *, title: str, caption: str
) -> Iterator[Chart]:
    """Return values by layer with their intervals over splits, and the range of random networks."""
    series, looks = [], dict[tuple[str, str], int]()
    for one in held:
        values = found.alike[data, one].values[measure]
        told = [found.interval(values[:, k]) for k in range(len(found.layers))]
        if all(math.isnan(metric.value) for metric in told):
            continue
        series.append(
            Series(
                name=str(Way(start=one.a, freeze=one.freeze)) if one.kind == "tuned" else str(one),
                points=tuple(
                    _point(k, metric, f"{one}, {found.layers[k]}") for k, metric in enumerate(told)
                ),
                look=looks.setdefault((one.a, one.b), len(looks)),
                dashed=one.kind == "starts" or one.freeze == "head-then-all",
            )
        )
    if sum(_is_known(series, k) for k in range(len(found.layers))) < 2:
        return  # no line: the tables have it
    nulls = [found.null(data, measure, k) for k in range(len(found.layers))]
    series.append(
        Series(
            name="random, never trained",
            points=tuple(
                _point(k, Metric(value=v, low=low, high=high), f"random, {found.layers[k]}")
                for k, (v, low, high) in enumerate(nulls)
            ),
            look="random",
            interval="band",
        )
    )
    drawn = [p for s in series for p in s.points if p.is_defined]
    yield Chart(
        title=title,
        caption=f"{caption} Bars: {_INTERVAL} over splits, as far as they are within 0 to 1. Never trained: mean and "
        f"range of {NULL_SEEDS} pairs of random networks.",
        alt=f"Chart of {measure} at {count(len(found.layers), 'layer')}. {_IN_TABLE}",
        places=Axis(names=found.layers),
        values=Axis(label=measure, low=min(0.0, *(p.value for p in drawn)), high=1.0),
        series=tuple(series),
        interval=_INTERVAL,
        blanks=tuple(k for k in range(len(found.layers)) if not _is_known(series, k)),
    )


def _is_known(series: Sequence[Series], place: int) -> bool:
    return any(p.place == place and p.is_defined for s in series for p in s.points)


def _point(place: float, metric: Metric, name: str) -> Point:
    tip = "" if math.isnan(metric.value) else f"{name}: {number(metric.value)}"
    if not math.isnan(metric.value + metric.low + metric.high):
        tip += f" ({interval(metric.low, metric.high)})"
    low, high = np.clip([metric.low, metric.high], min(0.0, metric.value), 1.0).tolist()
    return Point(place=place, value=metric.value, low=low, high=high, tip=tip)


def _matrix(found: DriftFound, data: str, kinds: Sequence[str], *, title: str) -> Matrix:
    held = [one for (of, one) in found.alike if of == data and one.kind in kinds]
    values = [
        tuple(
            found.interval(found.alike[data, one].values["CKA"][:, k]).value
            for k in range(len(found.layers))
        )
        for one in held
    ]
    nulls = tuple(found.null(data, "CKA", k)[0] for k in range(len(found.layers)))
    known = [v for row in (*values, nulls) for v in row if not math.isnan(v)]
    return Matrix(
        title=title,
        caption="Means over splits; the last row is of random networks that were never trained.",
        alt=f"Heat map of CKA, {len(held) + 1} rows by {len(found.layers)} layers. {_IN_TABLE}",
        rows=(*(_short(one) for one in held), "random, never trained"),
        columns=found.layers,
        values=(*values, nulls),
        low=min(0.0, *known) if known else 0.0,
        high=1.0,
        blank="failed, or undefined",
    )


def _short(held: Held) -> str:
    """Return what is compared, short enough for a row of a matrix."""
    return {
        "tuned": f"{held.a}{'' if held.freeze == 'all' else ', head first'}: start",
        "ends": f"{held.a}, {held.b}: tuned",
        "starts": f"{held.a}, {held.b}: starts",
        "recipes": f"{held.a}: head first",
        "random": f"{held.a}: random",
        "null": "",
    }[held.kind]


def _gain_panels(study: Drift, found: DriftFound) -> Iterator[Chart]:
    for k, layer in enumerate(found.layers):
        rows = [r for r in found.gain if (r.layer, r.measure) == (layer, "CKA")]
        series = []
        for look, source in enumerate(study.source):
            points = tuple(
                Point(
                    place=point.similar["CKA"][k],
                    value=point.gain,
                    tip=f"{source} on {point.data}, split {point.split}: gain {signed(point.gain)}",
                )
                for point in found.points
                if point.source == source and not math.isnan(point.similar["CKA"][k] + point.gain)
            )
            if points:
                series.append(Series(name=source, points=points, look=look, line="none"))
        if series:
            yield _scatter(
                f"{layer}: gain against CKA",
                " ".join(_r_words(row) for row in rows),
                f"CKA of start and tuned, {layer}",
                f"relative gain in {study.setting.metric}",
                series,
            )


def _r_words(row: GainRow) -> str:
    r = row.r
    if math.isnan(r.r):
        return f"{row.source}: r undefined, n {r.n}."
    among = "" if math.isnan(r.low) else f" ({interval(r.low, r.high)})"
    return f"{row.source}: r {number(r.r)}{among}, n {r.n} of {count(r.groups, 'set')}, {gain_word(row)}."


def _scatter(title: str, caption: str, label: str, value: str, series: Sequence[Series]) -> Chart:
    return Chart(
        title=title,
        caption=caption,
        alt=f"Scatter of {value} against {label}. {_IN_TABLE}",
        places=Axis(label=label),
        values=Axis(label=value),
        series=tuple(series),
    )


def _published_rows() -> tuple[tuple[str, str, float, float, float], ...]:
    """Return r of the published points with its interval over data sets, by source and layer."""
    rows = []
    for source in dict.fromkeys(p.source for p in published_points()):
        of_source = [p for p in published_points() if p.source == source]
        gain = [(p.auc - p.auc_random) / p.auc_random for p in of_source]
        for k, layer in enumerate(LAYERS):
            found = correlate(
                [p.cca[k] for p in of_source], gain, groups=[p.target for p in of_source]
            )
            rows.append((source, layer, found.r, found.low, found.high))
    return tuple(rows)


def _published_panels() -> Iterator[Chart]:
    rows = _published_rows()
    for k, layer in enumerate(LAYERS):
        series = [
            Series(
                name=source,
                points=tuple(
                    Point(
                        place=p.cca[k],
                        value=(p.auc - p.auc_random) / p.auc_random,
                        tip=f"{source}, {p.target}, fold {p.fold}",
                    )
                    for p in published_points()
                    if p.source == source
                ),
                look=look,
                line="none",
            )
            for look, source in enumerate(dict.fromkeys(row[0] for row in rows))
        ]
        told = [
            f"{source}: r {number(r)} ({interval(low, high)} over data sets), n 35 of 7 sets."
            for source, of, r, low, high in rows
            if of == layer
        ]
        yield _scatter(
            f"Published: {layer}",
            " ".join(told),
            f"CCA of start and tuned, {layer}",
            "relative gain in AUC",
            series,
        )


def _filter_pictures(study: Drift, found: DriftFound) -> Iterator[Picture]:
    shown = {*study.source, study.randoms[0]}
    for row in found.filters:
        if row.shown is None or row.way.freeze != "all" or row.way.start not in shown:
            continue
        before, after = row.shown
        if before.shape[-1] < LEAST_KERNEL_PX or before.shape[1] != 3:
            continue
        yield Picture(
            pixels=filter_grid(before, after),
            title=f"{row.way.start}, {row.data}",
            caption=f"First filters of one split before training, and below them after. Half of them moved by more "
            f"than {number(float(np.nanmedian(row.distance)))} of their length.",
            alt=f"{len(before)} filters of the first convolution of {row.way.start}, before and after training on "
            f"{row.data}.",
        )
