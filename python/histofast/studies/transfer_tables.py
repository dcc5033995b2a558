"""Tables of a transfer study beside its matrices: lines, scores, likeness, ranks of layers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from histofast.report import Cell, Column, Table
from histofast.studies.transfer_found import TransferFound
from histofast.studies.transfer_ranks import MEASURES, curves_of, of_layers
from histofast.transferability import SCORES

NONE = "— none"  # of an interval


def columns_of(*titles: str) -> list[Column]:
    """Return columns of words, the first of which names the rows."""
    return [Column(title=title, names=(title,)) for title in titles]


def line_tables(found: TransferFound) -> list[Table]:
    """Return how far the loss rises between the networks of two sources; none where no line was asked for."""
    if not found.lines:
        return []
    rows = []
    for pair in found.lines:
        rise = found.mean(found.barriers(pair))
        bounds = None if math.isnan(rise.low + rise.high) else (rise.low, rise.high)
        rows.append((" to ".join(pair.sources), pair.start, pair.target, rise.value, bounds))
    return [
        Table(
            name="barriers",
            title="Between two sources",
            caption="How far the loss of test pictures rises above the line between its two ends, at the highest of 11 "
            "points; never below 0.",
            columns=(
                *columns_of("sources", "start", "target"),
                Column(title="barrier", names=("barrier",), form="number"),
                Column(title="95 % interval", names=("low", "high"), form="interval", missing=NONE),
            ),
            rows=tuple(rows),
        )
    ]


def score_tables(found: TransferFound) -> list[Table]:
    """Return how well scores rank networks, and the scores themselves as a CSV."""
    agreements = found.agreements()
    if not agreements:
        return []
    rows = [
        (
            title,
            one.tau.value,
            None if math.isnan(one.tau.low + one.tau.high) else (one.tau.low, one.tau.high),
            one.p,
            float(one.n_defined),
            *(float(tau) for tau in one.of_targets),
        )
        for title, one in agreements.items()
    ]
    values: list[tuple[Cell, ...]] = [
        (
            str(way),
            way.start,
            way.source,
            way.target,
            found.mean(found.test[way], of=found.metric).value,
            *(found.score(way, name) for name in SCORES),
        )
        for way in found.scores
    ]
    columns = [Column(title="", names=(n,)) for n in ("way", "start", "source", "target")]
    columns += [Column(title="", names=(n,), form="number") for n in (found.metric, *SCORES)]
    return [
        Table(
            name="scores",
            title="What was promised, and what came of it",
            caption="Scores of networks on a target's training pictures before they are trained on it, against "
            f"{found.metric} of test pictures after: Kendall's tau-b of the two orders, mean over targets. p: of no "
            "better than chance, not adjusted for the number of scores. The last row looks at no target.",
            columns=(
                *columns_of("score"),
                Column(title="tau", names=("tau",), form="number"),
                Column(title="95 % interval", names=("low", "high"), form="interval", missing=NONE),
                Column(title="p", names=("p",), form="number"),
                Column(title="targets", names=("targets",), form="whole"),
                *(
                    Column(title=f"on {name}", names=(f"tau_{name}",), form="number")
                    for name in found.sets
                ),
            ),
            rows=tuple(rows),
        ),
        beside("scores_of_networks", columns, values),
    ]


def likeness_tables(found: TransferFound) -> list[Table]:
    """Return CKA of start and end as a CSV; the page has the charts."""
    rows = [
        (
            str(way),
            way.start,
            way.source,
            way.target,
            layer,
            metric.value,
            (metric.low, metric.high),
        )
        for way in found.likenesses
        for layer, metric in found.cka(way).items()
    ]
    columns = [Column(title="", names=(n,)) for n in ("way", "start", "source", "target", "layer")]
    columns.append(Column(title="", names=("cka",), form="number"))
    columns.append(Column(title="", names=("low", "high"), form="interval"))
    return [beside("likeness", columns, rows)] if rows else []


def rank_tables(found: TransferFound) -> list[Table]:
    """Return ranks of layers as CSVs: their mean at every epoch, and of each layer at start and end."""
    if not found.ranks:
        return []
    rows: list[tuple[Cell, ...]] = []
    layers: list[tuple[Cell, ...]] = []
    for way, runs in found.ranks.items():
        told = (str(way), way.start, way.source, way.merge, way.target)
        for epoch, values in enumerate(curves_of([runs]).swapaxes(0, 1)):
            n = float(np.isfinite(values[:, 0]).sum())
            means = [found.mean(values[:, k]) for k in range(len(MEASURES))]
            bounds = [cell for one in means for cell in (one.value, (one.low, one.high))]
            rows.append((*told, float(epoch), n, *bounds))
        layers += [
            (*told, layer, float(n), *first.tolist(), *last.tolist())
            for layer, n, first, last in of_layers(runs)
        ]
    of_way = [Column(title="", names=(n,)) for n in ("way", "start", "source", "merge", "target")]
    whole = [Column(title="", names=(name,), form="whole") for name in ("epoch", "splits")]
    values = [
        column
        for name in MEASURES
        for column in (
            Column(title="", names=(name,), form="number"),
            Column(title="", names=(f"{name}_low", f"{name}_high"), form="interval"),
        )
    ]
    ends = [
        Column(title="", names=(f"{name}_{end}",), form="number")
        for end in ("start", "end")
        for name in MEASURES
    ]
    return [
        beside("ranks", [*of_way, *whole, *values], rows),
        beside(
            "ranks_of_layers",
            [*of_way, Column(title="", names=("layer",)), whole[1], *ends],
            layers,
        ),
    ]


def beside(name: str, columns: list[Column], rows: Sequence[tuple[Cell, ...]]) -> Table:
    """Return a table that is a CSV only."""
    return Table(name=name, columns=tuple(columns), rows=tuple(rows), shown=0)
