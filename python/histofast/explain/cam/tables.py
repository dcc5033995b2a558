"""Tables of class activation maps: what they are worth, one against another, what labels tell, each picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from histofast._words import count
from histofast.explain.cam.definitions import NAMES
from histofast.explain.cam.labels import ByLabels
from histofast.explain.cam.pictures import Explained
from histofast.explain.cam.scores import STEPS
from histofast.explain.cam.worth import Criterion, Measured, null_of
from histofast.report import Cell, Column, Table, difference_cells, difference_columns

_ROWS = 100


def groups_of(found: Explained, measured: Measured) -> str:
    """Return of how many groups the pictures are that maps were measured on, in words."""
    return count(len(set(measured.groups)), found.images.group_kind)


def tables_of(found: Explained) -> Iterator[Table]:
    """Yield what was measured, what labels tell, and each picture."""
    if found.measured is not None:
        yield _table_of_worth(found, found.measured)
        yield _table_of_differences(found, found.measured)
    if found.by_labels is not None and not found.by_labels.why_not:
        yield from _tables_of_labels(found, found.by_labels)
    yield _pictures(found)


_TITLES: Mapping[Criterion, str] = {
    "deletion": "deletion (lower is better)",
    "insertion": "insertion (higher is better)",
    "mass": "share on the masks",
}


def _table_of_worth(found: Explained, measured: Measured) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for source in measured.sources:
        cells: list[Cell] = [source.name]
        for by in measured.criteria:
            worth = measured.worth(source, by)
            is_drawn = len(source.values[by]) > 1
            cells += [worth.metric.value, (worth.metric.low, worth.metric.high)]
            cells.append((worth.lowest, worth.highest) if is_drawn else None)
        rows.append(tuple(cells))
    return Table(
        name="worth",
        title="What the maps are worth",
        caption=f"Mean probability of the class as the highest places are blanked, or shown, first, in {STEPS} "
        f"steps; means of {count(measured.pictures, 'picture')}, intervals over {groups_of(found, measured)}. Of what is "
        "drawn, the mean of all draws, and the lowest and the highest of them.",
        columns=(
            Column(title="source", names=("source",)),
            *(
                column
                for by in measured.criteria
                for column in (
                    Column(title=_TITLES[by], names=(by,), form="number"),
                    Column(title="95 %", names=(f"{by}_low", f"{by}_high"), form="interval"),
                    Column(
                        title=count(measured.draws, "draw"),
                        names=(f"{by}_lowest", f"{by}_highest"),
                        form="interval",
                    ),
                )
            ),
        ),
        rows=tuple(rows),
        aside=frozenset(k for k, source in enumerate(measured.sources) if source.is_null),
    )


def _table_of_differences(found: Explained, measured: Measured) -> Table:
    compared = {by: measured.compared(by) for by in measured.criteria}
    pairs = list(compared[measured.criteria[0]])
    return Table(
        name="differences",
        title="One against another",
        caption="How much better the first is, picture by picture, with its own 95 % interval over "
        f"{groups_of(found, measured)}, drawn together for both; findings are adjusted for {len(pairs)} differences of "
        "each column, after Holm. Of weights drawn anew it is the draw that comes nearest, random is the mean of its "
        "draws.",
        columns=(
            Column(title="maps"),
            Column(title="", names=("source",)),
            Column(title="", names=("other",)),
            *(column for by in measured.criteria for column in difference_columns(_BETTER[by], by)),
        ),
        rows=tuple(
            (
                _less(*pair),
                *pair,
                *(
                    cell
                    for by in measured.criteria
                    for cell in difference_cells(compared[by][pair])
                ),
            )
            for pair in pairs
        ),
    )


def _less(name: str, other: str) -> str:
    return f"{name} less {'weights drawn anew' if other == null_of(name) else other}"


_BETTER: Mapping[Criterion, str] = {
    "deletion": "lower by deletion",
    "insertion": "higher by insertion",
    "mass": "more on the masks",
}


def _tables_of_labels(found: Explained, told: ByLabels) -> Iterator[Table]:
    kind = found.images.group_kind
    rows: list[tuple[Cell, ...]] = [
        (name, each.auroc, (each.low, each.high), None) for name, each in told.scores.items()
    ]
    rows += [
        (null_of(name), float(np.mean(each)), None, (min(each), max(each)))
        for name, each in told.anew.items()
    ]
    yield Table(
        name="labels",
        title=f"Which pictures are labelled {told.class_}",
        caption=f"Chance that a labelled picture has a higher mean than another one of the same {kind}; 0.5 tells "
        "nothing. Of weights drawn anew, the mean, the lowest and the highest draw.",
        columns=(
            Column(title="source", names=("source",)),
            Column(title="AUROC", names=("auroc",), form="number"),
            Column(title="95 % interval", names=("low", "high"), form="interval"),
            Column(title="draws", names=("lowest", "highest"), form="interval"),
        ),
        rows=tuple(rows),
        aside=frozenset(range(len(told.scores), len(rows))),
    )
    yield Table(
        name="labels_differences",
        title="One against another, by labels",
        caption=f"AUROC of the first less that of the other, with its own 95 % interval over {kind}s, drawn together for "
        f"both; findings are adjusted for {len(told.differences)} differences, after Holm. Of weights drawn anew it is "
        "the draw with the highest.",
        columns=(
            Column(title="maps"),
            Column(title="", names=("source",)),
            Column(title="", names=("other",)),
            *difference_columns("AUROC", "auroc"),
        ),
        rows=tuple(
            (_less(*pair), *pair, *difference_cells(each))
            for pair, each in told.differences.items()
        ),
    )


def _pictures(found: Explained) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for i, name in enumerate(found.images.names):
        for c, k in enumerate(found.shown_class[i].tolist()):
            sums = [float(found.maps[m][i, c].mean()) for m in found.methods]
            null = [float(found.null[m][i, c].mean()) for m in found.methods]
            rows.append(
                (
                    name,
                    found.images.groups[i],
                    found.classes[k],
                    float(found.probabilities[i, k]),
                    *(value for pair in zip(sums, null, strict=True) for value in pair),
                )
            )
    return Table(
        name="pictures",
        title="Each picture",
        caption="Means of the maps, in units of the output; beside them those of a network with weights drawn anew.",
        columns=(
            Column(title="picture", names=("file",)),
            Column(title="", names=("group",)),
            Column(title="class", names=("class",)),
            Column(title="probability", names=("probability",), form="number"),
            *(
                column
                for method in found.methods
                for column in (
                    Column(title=NAMES[method], names=(f"{method}_mean",), form="rate"),
                    Column(title="anew", names=(f"{method}_mean_null",), form="rate"),
                )
            ),
        ),
        rows=tuple(rows),
        shown=_ROWS,
    )
