"""The matrices and charts of a transfer study."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from histofast._words import count
from histofast.learning import Metric
from histofast.report import Axis, Chart, Figure, Matrix, Point, Series, interval, number
from histofast.studies.transfer_found import Pair, TransferFound, Way
from histofast.studies.transfer_ranks import BY_SOURCE, MEASURES, curves_to
from histofast.studies.transfer_words import shown_of

_LEAST_SCALE = 0.02  # of colours of differences: noise is not to look like a finding


# --- Matrices ------------------------------------------------------------------------------------


def matrices(found: TransferFound) -> Figure:
    """Return what sources change, and the values themselves, a pair of matrices for each start."""
    panels = [
        panel for start in found.starts for panel in (_changes(found, start), _values(found, start))
    ]
    return Figure(name="matrix", panels=tuple(panels), title="What one data set teaches another")


def _changes(found: TransferFound, start: str) -> Matrix:
    cells = found.against_direct(start)
    sets = list(found.sets)
    sizes = [
        abs(one.value)
        for name in found.starts
        for one in found.against_direct(name).values()
        if not math.isnan(one.value)
    ]
    most = max(_LEAST_SCALE, *sizes, 0.0)
    shown = [(sets.index(way.source), sets.index(way.target)) for way in shown_of(cells)]
    return Matrix(
        title=f"From {start}: change by a source",
        caption=f"{found.metric} less that of the target trained directly from {start}, on the same splits "
        f"(n = {found.splits}). On the diagonal the target itself was the source: what as many epochs more do. "
        "Intervals are in the table; 0 is no change.",
        alt=f"Matrix of differences in {found.metric}, source by target. The table below has the numbers.",
        rows=tuple(sets),
        columns=tuple(sets),
        values=_grid(found, {way: one.value for way, one in cells.items()}),
        low=-most,
        high=most,
        form="difference",
        row_label="source",
        column_label="target",
        outlined=tuple(shown),
        outline="shown, after Holm",
    )


def _values(found: TransferFound, start: str) -> Matrix:
    sets = list(found.sets)
    direct = tuple(
        found.mean(found.test[Way(start=start, target=name)], of=found.metric).value
        for name in sets
    )
    ways = (found.cell(start, *pair) for pair in itertools.product(sets, sets))
    grid = _grid(found, {way: found.mean(found.test[way], of=found.metric).value for way in ways})
    every = [
        float(np.nanmean(values))
        for way, values in found.test.items()
        if not (way.merge or way.head) and not np.isnan(values).all()
    ]
    low, high = min(every, default=0.0), max(every, default=1.0)
    return Matrix(
        title=f"From {start}: the values themselves",
        caption=f"Mean {found.metric} of test pictures over {found.splits} splits. The first row is the baseline.",
        alt=f"Matrix of {found.metric}, source by target, with the baseline. The table below has the numbers.",
        rows=("(no source)", *sets),
        columns=tuple(sets),
        values=(direct, *grid),
        low=low,
        high=high if high > low else low + 1.0,
        row_label="source",
        column_label="target",
    )


def _grid(found: TransferFound, values: Mapping[Way, float]) -> tuple[tuple[float, ...], ...]:
    at = {(way.source, way.target): value for way, value in values.items()}
    return tuple(tuple(at[source, target] for target in found.sets) for source in found.sets)


# --- Charts --------------------------------------------------------------------------------------


def cka_figures(found: TransferFound) -> list[Figure]:
    """Return how far each way went from where it began, layer by layer; a panel for a start and target."""
    panels = []
    for start, target in itertools.product(found.starts, found.sets):
        series: list[Series] = []
        layers: tuple[str, ...] = ()
        for k, source in enumerate(["", *found.sets]):
            told = found.cka(Way(start=start, source=source, target=target))
            layers = tuple(told) or layers
            points = [
                _point(k=place, metric=metric, name=f"{source or start}, {layer}")
                for place, (layer, metric) in enumerate(told.items())
            ]
            if points:
                series.append(
                    Series(
                        name=source or f"{start} itself",
                        look="null" if not source else k - 1,
                        points=tuple(points),
                    )
                )
        if series:
            panels.append(
                Chart(
                    title=f"{target}, from {start}: how much stayed",
                    caption=f"Debiased CKA of each block before and after training on {target}, on its test pictures, "
                    f"by what the network was trained on before; mean of {found.splits} splits. 1: as it was.",
                    alt=f"Chart of CKA by layer of networks trained on {target}. The CSV has the numbers.",
                    places=Axis(names=layers),
                    values=Axis(label="CKA", high=1.0),
                    series=tuple(series),
                )
            )
    return [Figure(name="likeness", panels=tuple(panels))] if panels else []


def line_figures(found: TransferFound) -> list[Figure]:
    """Return the loss between the networks of two sources; a panel for a start and target."""
    panels = []
    for start, target in itertools.product(found.starts, found.sets):
        series = [
            _line(found, pair, look=k)
            for k, pair in enumerate(
                pair for pair in found.lines if (pair.start, pair.target) == (start, target)
            )
            if any(line is not None for line in found.lines[pair])
        ]
        if series:
            panels.append(
                Chart(
                    title=f"{target}, from {start}: between two sources",
                    caption="Cross-entropy of test pictures along the straight line between the two networks; "
                    f"statistics of BatchNorms measured anew at every point. Mean of {found.splits} splits; a rise in "
                    "the middle means two valleys.",
                    alt=f"Chart of the loss between two networks trained on {target}.",
                    places=Axis(label="share of the second network"),
                    values=Axis(label="loss"),
                    series=tuple(series),
                )
            )
    return [Figure(name="lines", panels=tuple(panels))] if panels else []


def rank_figures(found: TransferFound) -> list[Figure]:
    """Return ranks of layers over epochs; a panel for a start and measure."""
    panels = []
    for start, (k, measure) in itertools.product(found.starts, enumerate(MEASURES.values())):
        series = [
            _curve(found, values[:, :, k], name=f"{target}, {kind}", look=place, dashed=is_dashed)
            for place, target in enumerate(found.sets if found.ranks else ())
            for kind, values in curves_to(found, start, target).items()
            for is_dashed in [kind == BY_SOURCE]
        ]
        if any(np.isfinite([point.value for point in one.points]).any() for one in series):
            panels.append(
                Chart(
                    title=f"From {start}: {measure} of layers",
                    caption=f"Mean over the convolutions and linear layers of the weights that train, from the start "
                    f"(epoch 0) to the last epoch that all reached; mean of {found.splits} splits, after a source of "
                    f"{count(len(found.sets) - 1, 'source')} as well.",
                    alt=f"Chart of the {measure} of layers by epoch, from {start}. ranks.csv has the numbers.",
                    places=Axis(label="epoch", form="whole"),
                    values=Axis(label=f"{measure}, mean of layers"),
                    series=tuple(series),
                    interval="95 % interval, at the end",
                )
            )
    return [Figure(name="ranks", panels=tuple(panels))] if panels else []


def _curve(
    found: TransferFound, values: NDArray[np.float64], *, name: str, look: int, dashed: bool
) -> Series:
    """Return the mean of (n, epochs) values over splits, with an interval at the last epoch."""
    points = []
    for epoch, of_splits in enumerate(values.T):
        metric = found.mean(of_splits)
        point = _point(k=epoch, metric=metric, name=f"{name}, epoch {epoch}")
        is_last = epoch == values.shape[1] - 1
        points.append(replace(point, low=metric.low, high=metric.high) if is_last else point)
    return Series(name=name, look=look, dashed=dashed, points=tuple(points))


def _line(found: TransferFound, pair: Pair, *, look: int) -> Series:
    known = [line for line in found.lines[pair] if line is not None]
    losses = np.array([line.loss for line in known])
    points = [
        Point(
            place=float(place),
            value=float(losses[:, k].mean()),
            tip=f"{' to '.join(pair.sources)}, {place:.1f}: {number(float(losses[:, k].mean()))}",
        )
        for k, place in enumerate(known[0].at)
    ]
    return Series(name=" to ".join(pair.sources), look=look, points=tuple(points))


def _point(*, k: int, metric: Metric, name: str) -> Point:
    bounds = (
        "" if math.isnan(metric.low + metric.high) else f" ({interval(metric.low, metric.high)})"
    )
    return Point(place=float(k), value=metric.value, tip=f"{name}: {number(metric.value)}{bounds}")
