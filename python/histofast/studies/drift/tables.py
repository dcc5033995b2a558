"""The tables of a study of drift: what is tested, and all that was measured for the CSV files."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from histofast.learning import Difference, Metric
from histofast.report import Cell, Column, Table
from histofast.studies.drift.found import MEASURES, DriftFound
from histofast.studies.drift.study import Drift, Trained
from histofast.studies.drift.words import gain_word, way_words

_INTERVAL = "95 % interval"


def tables_of(study: Drift, found: DriftFound) -> Iterator[Table]:
    """Return all tables, those that are for the CSV only last."""
    yield _worth(study, found)
    yield _head_first(found)
    yield _tests(found)
    yield _predictions(found)
    yield _gain(found)
    yield _filters(found)
    yield _layers(found)
    yield _points(study, found)
    yield _runs(study, found)


def _cells(metric: Metric) -> tuple[Cell, Cell]:
    known = not math.isnan(metric.low + metric.high)
    return metric.value, (metric.low, metric.high) if known else None


def _versus(difference: Difference | None) -> tuple[Cell, Cell, Cell]:
    if difference is None:
        return None, None, ""
    known = not math.isnan(difference.low + difference.high)
    cell = (difference.value, difference.low, difference.high) if known else (difference.value,)
    verdict = "shown" if difference.is_shown else "not shown" if known else "no interval"
    return cell, difference.p_adjusted, verdict


_VERSUS = (
    Column(title="", names=("p_adjusted",), form="number"),
    Column(title="finding", names=("finding",)),
)


def _difference_column(title: str) -> Column:
    return Column(
        title=title,
        names=("difference", "difference_low", "difference_high"),
        form="difference",
        missing="— not compared",
    )


def _value_columns(title: str, name: str) -> tuple[Column, Column]:
    return (
        Column(title=title, names=(name,), form="number"),
        Column(
            title=_INTERVAL,
            names=(f"{name}_low", f"{name}_high"),
            form="interval",
            missing="— none",
        ),
    )


def _worth(study: Drift, found: DriftFound) -> Table:
    metric = study.setting.metric
    rows = []
    for (data, way), values in found.worth.items():
        versus = _versus(found.against_random.get((data, way)))
        n = int((~np.isnan(values)).sum())
        rows.append(
            (
                way.start,
                data,
                way_words(way),
                *_cells(found.interval(values, of=metric)),
                n,
                *versus,
            )
        )
    return Table(
        name="worth",
        title="What the networks are worth",
        caption=f"{metric} of test pictures, mean over splits. Difference: to the mean of the random starts that were "
        "tuned the same way, split by split.",
        columns=(
            Column(title="start", names=("start",)),
            Column(title="data", names=("data",), under=True),
            Column(title="trained", names=("trained",)),
            *_value_columns(metric, "value"),
            Column(title="n", names=("n",), form="whole"),
            _difference_column("over random"),
            *_VERSUS,
        ),
        rows=tuple(rows),
        aside=frozenset(k for k, row in enumerate(rows) if row[0] in study.randoms),
    )


def _head_first(found: DriftFound) -> Table:
    rows = [
        (start, data, *_versus(versus), versus.n)
        for (data, start), versus in found.head_first.items()
    ]
    return Table(
        name="head-first",
        title="Head first, or all at once",
        caption="The metric with the head trained first, less that with all layers at once, on the same splits for the "
        "same number of epochs.",
        columns=(
            Column(title="start", names=("start",)),
            Column(title="data", names=("data",), under=True),
            _difference_column("head first less at once"),
            *_VERSUS,
            Column(title="n", names=("n",), form="whole"),
        ),
        rows=tuple(rows),
    )


def _tests(found: DriftFound) -> Table:
    rows = []
    for question, told in (
        ("tuned less starts", found.further),
        ("own start less random", found.kept),
    ):
        for (data, held, layer), versus in told.items():
            pair = held.a if question.startswith("own") else f"{held.a}, {held.b}"
            rows.append((pair, data, question, layer, *_versus(versus), versus.n))
    return Table(
        name="further",
        title="Layer by layer: further apart? Is something left?",
        caption="Differences of CKA on the same pictures. Tuned less starts: below 0, fine-tuning took two networks "
        "further apart. Own start less random: above 0, a tuned network is more like its own start than like random "
        "weights.",
        columns=(
            Column(title="networks", names=("networks",)),
            Column(title="data", names=("data",), under=True),
            Column(title="difference of", names=("question",)),
            Column(title="layer", names=("layer",)),
            _difference_column("CKA"),
            *_VERSUS,
            Column(title="n", names=("n",), form="whole"),
        ),
        rows=tuple(rows),
    )


def _predictions(found: DriftFound) -> Table:
    rows = []
    for row in found.predictions:
        means = [found.interval(v).value for v in (row.independent, row.published, row.kappa)]
        rows.append(
            (
                f"{row.a}, {row.b}",
                row.data,
                *_cells(found.interval(row.observed)),
                *means,
                *_versus(row.beyond),
                row.beyond.n,
            )
        )
    return Table(
        name="predictions",
        title="Are they right and wrong together?",
        caption="Share of test pictures on which two tuned networks are both right or both wrong; what independent "
        "errors of these two accuracies give; kappa of being right, 0 for independent errors. In grey: the baseline of "
        "the published code, which takes the accuracy of the first network for both and is wrong where they differ.",
        columns=(
            Column(title="tuned", names=("networks",)),
            Column(title="data", names=("data",), under=True),
            *_value_columns("observed", "observed"),
            Column(title="independent", names=("independent",), form="number"),
            Column(title="published (wrong)", names=("published_wrong",), form="number"),
            Column(title="kappa", names=("kappa",), form="number"),
            _difference_column("beyond independent"),
            *_VERSUS,
            Column(title="n", names=("n",), form="whole"),
        ),
        rows=tuple(rows),
    )


def _gain(found: DriftFound) -> Table:
    rows = [
        (
            row.source,
            row.measure,
            row.layer,
            row.r.r,
            _bounds(row.r.low, row.r.high),
            _bounds(row.r.low_points, row.r.high_points),
            row.r.n,
            row.r.groups,
            gain_word(row),
        )
        for row in found.gain
    ]
    return Table(
        name="gain",
        title="Does gain go with similarity?",
        caption="Pearson's r of the relative gain and the similarity of start and tuned, over all splits of all data "
        "sets. One interval draws data sets again, the other takes all points for independent; shown where neither holds 0.",
        columns=(
            Column(title="source", names=("source",)),
            Column(title="measure", names=("measure",)),
            Column(title="layer", names=("layer",)),
            Column(title="r", names=("r",), form="number"),
            Column(
                title="interval over data sets",
                names=("r_low", "r_high"),
                form="interval",
                missing="— too few",
            ),
            Column(
                title="as if independent",
                names=("r_low_points", "r_high_points"),
                form="interval",
                missing="— none",
            ),
            Column(title="points", names=("n",), form="whole"),
            Column(title="sets", names=("sets",), form="whole"),
            Column(title="finding", names=("finding",)),
        ),
        rows=tuple(rows),
    )


def _bounds(low: float, high: float) -> Cell:
    return None if math.isnan(low + high) else (low, high)


def _filters(found: DriftFound) -> Table:
    rows = [
        (
            row.way.start,
            row.data,
            way_words(row.way),
            *_cells(found.interval(row.distance)),
            *_cells(found.interval(row.cosine)),
        )
        for row in found.filters
    ]
    return Table(
        name="filters",
        title="How far the first filters moved",
        caption="Median over the filters of the first convolution, mean over splits. Distance: length of what training "
        "added, over the length before. Cosine: 1 where a filter kept its direction.",
        columns=(
            Column(title="start", names=("start",)),
            Column(title="data", names=("data",), under=True),
            Column(title="trained", names=("trained",)),
            *_value_columns("distance", "distance"),
            *_value_columns("cosine", "cosine"),
        ),
        rows=tuple(rows),
    )


def _layers(found: DriftFound) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for (data, held), alike in found.alike.items():
        for k, layer in enumerate(found.layers):
            told = [_cells(found.interval(alike.values[m][:, k])) for m in MEASURES]
            n = int((~np.isnan(alike.values["CKA"][:, k])).sum())
            rows.append(
                (str(held), data, held.kind, layer, *told[0], *told[1], n, max(alike.pictures))
            )
    return Table(
        name="layers",
        title="All that was compared",
        columns=(
            Column(title="networks", names=("networks",)),
            Column(title="data", names=("data",)),
            Column(title="kind", names=("kind",)),
            Column(title="layer", names=("layer",)),
            *_value_columns("CKA", "cka"),
            *_value_columns("CCA", "cca"),
            Column(title="n", names=("n",), form="whole"),
            Column(title="pictures", names=("pictures",), form="whole"),
        ),
        rows=tuple(rows),
        shown=0,
    )


def _points(study: Drift, found: DriftFound) -> Table:
    return Table(
        name="points",
        title="Points of gain and similarity",
        columns=(
            Column(title="source", names=("source",)),
            Column(title="data", names=("data",)),
            Column(title="split", names=("split",), form="whole"),
            Column(title="gain", names=("gain",), form="number"),
            *(
                Column(title=f"{m} {layer}", names=(f"{m.lower()}_{layer}",), form="number")
                for m in MEASURES
                for layer in found.layers
            ),
        ),
        rows=tuple(
            (p.source, p.data, p.split, p.gain, *(v for m in MEASURES for v in p.similar[m]))
            for p in found.points
        ),
        shown=0,
    )


def _runs(study: Drift, found: DriftFound) -> Table:
    rows = [
        (
            one.job.name,
            data,
            way.start,
            way.freeze,
            one.split.seed,
            one.split.fold,
            float(found.worth[data, way][i]),
            found.failed.get(one.job.name, ""),
            _command(study, one),
        )
        for (data, way), made in found.trained.items()
        for i, one in enumerate(made)
    ]
    return Table(
        name="runs",
        title="Runs",
        columns=(
            Column(title="run", names=("run",)),
            Column(title="data", names=("data",)),
            Column(title="start", names=("start",)),
            Column(title="freeze", names=("freeze",)),
            Column(title="seed", names=("seed",), form="whole"),
            Column(title="fold", names=("fold",), form="whole"),
            Column(title=study.setting.metric, names=("value",), form="number"),
            Column(title="failed", names=("failed",)),
            Column(title="command", names=("command",)),
        ),
        rows=tuple(rows),
        shown=0,
    )


def _command(study: Drift, one: Trained) -> str:
    """Return how a run is repeated by itself."""
    assert one.job.folder is not None
    folder = one.job.folder
    return study.setting.command_of(
        one.asked, one.split, Path("again") / folder.name, recipe=folder / "recipe.toml"
    )
