"""Maps of features of a transfer study: charts, and the tables beside them."""

from __future__ import annotations

import math
from collections.abc import Iterator

from histofast.report import Axis, Cell, Chart, Column, Figure, Point, Series, Table, number
from histofast.studies.maps import DATA_SET, TSNE, FeatureMap, Told
from histofast.studies.transfer_found import Mapped, TransferFound
from histofast.studies.transfer_tables import NONE, beside

_MEANS_NOTHING = {
    True: "Distances between clusters, and their sizes, mean nothing in t-SNE.",
    False: "Distances between clusters, and their sizes, mean little in UMAP.",
}


def map_figures(found: TransferFound) -> list[Figure]:
    """Return each map twice, by data set and by class."""
    panels = [
        _chart(which, one, by=by)
        for which, one in found.maps.items()
        if one is not None
        for by in ("data set", "class")
    ]
    return [Figure(name="maps", panels=tuple(panels))] if panels else []


def map_tables(found: TransferFound) -> list[Table]:
    """Return what neighbours in the features tell, and the places of all pictures as a CSV."""
    if not found.maps:
        return []
    places: list[tuple[Cell, ...]] = [
        (str(which.way), which.method, *each)
        for which, one in found.maps.items()
        if one is not None
        for each in zip(
            one.sets, one.pictures, one.classes, *map(list, one.points.T.tolist()), strict=True
        )
    ]
    named = ("way", "method", "data_set", "picture", "class")
    return [
        _neighbours(found),
        beside(
            "maps",
            [
                *(Column(title="", names=(name,)) for name in named),
                *(Column(title="", names=(name,), form="number") for name in ("x", "y")),
            ],
            places,
        ),
    ]


def told_once(found: TransferFound) -> dict[str, tuple[Told, ...]]:
    """Return what neighbours tell, by way: it does not depend on the method that lays flat."""
    return {str(which.way): one.told for which, one in found.maps.items() if one is not None}


def _neighbours(found: TransferFound) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for way, told in told_once(found).items():
        for one in told:
            bounds = None if math.isnan(one.low + one.high) else (one.low, one.high)
            rows.append(
                (
                    way,
                    _what(one),
                    one.value,
                    bounds,
                    one.chance,
                    one.auroc,
                    float(one.pictures),
                    float(one.groups),
                    one.reason,
                )
            )
    return Table(
        name="neighbours",
        title="What neighbours in the features tell",
        caption="Balanced accuracy of the nearest neighbours in the features themselves, not on the maps: folds by "
        "group, the number of neighbours chosen by other groups; AUROC of the same votes, 0.5 is chance. Test pictures of the first split; intervals are over "
        "their groups, for this one network.",
        columns=(
            Column(title="network", names=("way",)),
            Column(title="told", names=("told",)),
            Column(title="balanced accuracy", names=("balanced_accuracy",), form="number"),
            Column(title="95 % interval", names=("low", "high"), form="interval", missing=NONE),
            Column(title="chance", names=("chance",), form="number"),
            Column(title="AUROC", names=("auroc",), form="number"),
            Column(title="pictures", names=("pictures",), form="whole"),
            Column(title="groups", names=("groups",), form="whole"),
            Column(title="why not", names=("reason",)),
        ),
        rows=tuple(rows),
    )


def _what(told: Told) -> str:
    return DATA_SET if told.what == DATA_SET else f"class in {told.what}"


def _chart(which: Mapped, one: FeatureMap, *, by: str) -> Chart:
    kinds = [
        name if by == "data set" else f"{name}: {kind}"
        for name, kind in zip(one.sets, one.classes, strict=True)
    ]
    series = tuple(
        Series(
            name=kind,
            look=look,
            line="none",
            mark="dot",
            points=tuple(
                Point(place=float(x), value=float(y))
                for (x, y), each in zip(one.points, kinds, strict=True)
                if each == kind
            ),
        )
        for look, kind in enumerate(dict.fromkeys(kinds))
    )
    return Chart(
        title=f"{which.way}, by {by}: {which.method}",
        caption=f"Test pictures of all sets by the pooled features of the network ({which.way}), first split; "
        f"n = {len(kinds)}. {one.how}. {_MEANS_NOTHING[which.method == TSNE]} "
        f"In the features themselves: {'; '.join(_sentences(one, by=by))}.",
        alt=f"Map of {len(kinds)} pictures, coloured by {by}. maps.csv has the places.",
        places=Axis(label=f"{which.way}: {which.method}, no scale"),
        values=Axis(),
        series=series,
        is_map=True,
    )


def _sentences(one: FeatureMap, *, by: str) -> Iterator[str]:
    """Say how well neighbours tell what a map is coloured by."""
    for told in one.told:
        if (told.what == DATA_SET) != (by == "data set"):
            continue
        if math.isnan(told.value):
            yield f"how well neighbours tell the {_what(told)} is not measured"
            continue
        bounds = "" if math.isnan(told.low) else f", {number(told.low)} to {number(told.high)}"
        yield (
            f"neighbours tell the {_what(told)} with balanced accuracy {number(told.value)}{bounds} "
            f"(chance {number(told.chance)})"
        )
