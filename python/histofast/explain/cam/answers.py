"""Class activation maps of pictures as an answer: words, pictures beside their null, tables."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from histofast._words import count, counted
from histofast.explain.cam.definitions import NAMES, Method
from histofast.explain.cam.pictures import Explained
from histofast.explain.cam.scores import STEPS, spread
from histofast.explain.cam.worth import DARKNESS, UNCHANGED, Measured
from histofast.explain.maps import tinted
from histofast.learning import Metric
from histofast.report import (
    Answer,
    Axis,
    Cell,
    Chart,
    Column,
    Figure,
    Panel,
    Picture,
    Point,
    Rule,
    Series,
    Table,
    interval,
    number,
    percent,
    strip,
)

_SIDE_PX = 160  # of a picture on the page, at least
_ALPHA = 0.5
_ROWS = 100


def answer_of(found: Explained, *, command: str = "") -> Answer:
    """Return all that is on the page, and in the folder."""
    return Answer(
        name="cam",
        title="Where the network finds its classes",
        question=(
            "Which places of a picture does what it says of that picture follow from, and would a "
            "network that has learnt nothing show the same?"
        ),
        basis=_basis(found),
        findings=tuple(_findings(found)),
        limits=(
            "A map says where the output of this network comes from, not where the disease is.",
            "Each map is coloured from 0 to its own highest value: colours of two maps are not to be compared.",
        ),
        figures=tuple(_figures(found)),
        tables=(*_tables(found), _table(found)),
        commands=(("These maps", command),) if command else (),
        method=_method(found),
    )


def _figures(found: Explained) -> Iterator[Figure]:
    if found.measured is not None:
        yield Figure(name="randomisation", panels=(_changes(found, found.measured),))
    panels = tuple(_panels(found))
    if panels:
        yield Figure(name="pictures", panels=panels, stacked=True)


def _basis(found: Explained) -> str:
    h, w = next(iter(found.maps.values())).shape[2:]
    return (
        f"{count(len(found.images), 'picture')} of {found.px} px, layer {found.layer} of "
        f"{found.architecture} with {h} x {w} places"
    )


def _findings(found: Explained) -> Iterator[str]:
    if found.measured is not None:
        yield from _found_by_measures(found, found.measured)
    for method in found.methods if found.by_labels else ():
        name = found.classes[int(found.shown_class[0, 0])]
        own, anew, dark = (
            found.by_labels[key]
            for key in (NAMES[method], f"{NAMES[method]}, weights drawn anew", DARKNESS)
        )
        yield (
            f"By the mean of its {NAMES[method]}, a picture labelled {name} is above another of its "
            f"{found.images.group_kind} with chance {number(own.auroc)} ({interval(own.low, own.high)}); "
            f"with weights drawn anew {number(anew.auroc)} ({interval(anew.low, anew.high)}), by its "
            f"darkness {number(dark.auroc)} ({interval(dark.low, dark.high)})."
        )
    for method in found.methods:
        empty = int((found.maps[method].max(axis=(2, 3)) == 0).any(axis=1).sum())
        if empty:
            yield (
                f"{NAMES[method]} is 0 everywhere in {count(empty, 'picture')} of {len(found.images)}: "
                "nothing there speaks for the class."
            )
    if found.unreadable:
        names = [name for name, _ in found.unreadable]
        yield f"Pictures that cannot be read were left out: {counted(names)}."


def _found_by_measures(found: Explained, measured: Measured) -> Iterator[str]:
    unchanged = measured.unchanged()
    for method in found.methods:
        left = measured.changes[-1].left[method]
        if math.isnan(left.value):
            continue
        told = f"{NAMES[method]} of the network and of one without its weights"
        if method in unchanged:
            yield (
                f"{told} order the places of a picture alike (rank correlation {_with(left)}): these maps "
                "hardly depend on what was learnt."
            )
        else:
            yield f"{told} have a rank correlation of {_with(left)}."
    worths = {worth.name: worth for worth in measured.worths}
    for method in found.methods:
        own = worths[NAMES[method]]
        yield (
            f"As the places that {NAMES[method]} shows are blanked first, the probability is "
            f"{_with(own.less)} below that of random order, on average over the order"
            f"{_verdict(own.less, 'lower')}; as they are shown first, {_with(own.more)} above"
            f"{_verdict(own.more, 'higher')}."
        )
        if own.mass is not None and measured.area is not None:
            yield (
                f"{_with(own.mass, share=True)} of {NAMES[method]} lies on the masks, which cover "
                f"{percent(measured.area)} of the pictures."
            )


def _verdict(metric: Metric, what: str) -> str:
    return "" if metric.low > 0 else f", which is not shown to be {what}"


def _with(metric: Metric, *, share: bool = False) -> str:
    """Return a value and its interval in words."""
    write = percent if share else number
    if math.isnan(metric.low):
        return write(metric.value)
    return f"{write(metric.value)} ({write(metric.low)} to {write(metric.high)})"


# --- Pictures ----------------------------------------------------------------------------------


def _panels(found: Explained) -> Iterator[Panel]:
    heads = ["picture"]
    for method in found.methods:
        heads += [NAMES[method], "weights drawn anew"]
    for row, pixels in found.thumbs.items():
        for c, k in enumerate(found.shown_class[row].tolist()):
            share = found.probabilities[row, k]
            name = found.images.names[row]
            tiles = [enlarged(pixels)]
            for method in found.methods:
                tiles += [over(pixels, maps[method][row, c]) for maps in (found.maps, found.null)]
            yield Picture(
                pixels=strip(tiles),
                heads=tuple(heads),
                title=name,
                caption=f"For {found.classes[k]}, which the network gives {100 * share:.0f} %.",
                alt=f"{name}, and on it {_said(found.methods)} for {found.classes[k]}, each beside the "
                "same of a network with weights drawn anew",
            )


def _said(methods: tuple[Method, ...]) -> str:
    return " and ".join(NAMES[method] for method in methods)


def enlarged(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a picture with each pixel repeated, so that a small one can be looked at."""
    times = -(-_SIDE_PX // len(pixels))
    return pixels.repeat(times, 0).repeat(times, 1)


def over(pixels: NDArray[np.uint8], cam: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Lay a map over its picture, from 0 to its highest value; each place as large as it is."""
    large = enlarged(pixels)
    highest = cam.max()
    shares = cam / highest if highest > 0 else cam
    return tinted(large, spread(shares, large.shape[:2]), alpha=_ALPHA)


# --- Tables and words --------------------------------------------------------------------------


def _changes(found: Explained, measured: Measured) -> Chart:
    parts = tuple(change.part for change in measured.changes)
    return Chart(
        title="Maps of a network that loses its weights, part by part from the output down",
        caption=f"{count(measured.pictures, 'picture')} of {count(measured.groups, found.images.group_kind)}. A map "
        f"that stays near 1 does not show what was learnt; one above {UNCHANGED} at the end is named.",
        alt="Rank correlation of maps with those of the whole network, by the last part that lost its weights",
        places=Axis(label="last part without its weights", names=parts),
        values=Axis(label="rank correlation with the whole network's map", high=1.0),
        series=tuple(
            Series(
                name=NAMES[method],
                look=k,
                points=tuple(
                    Point(
                        place=place + 0.08 * k,
                        value=change.left[method].value,
                        low=change.left[method].low,
                        high=change.left[method].high,
                        tip=f"{NAMES[method]}, {change.part}: {_with(change.left[method])}",
                    )
                    for place, change in enumerate(measured.changes)
                ),
            )
            for k, method in enumerate(found.methods)
        ),
        rules=(Rule(name="no agreement", value=0.0, faint=True),),
        interval=f"95 % interval over {found.images.group_kind}s",
    )


def _tables(found: Explained) -> Iterator[Table]:
    if found.measured is not None:
        yield _table_of_measures(found.measured)
    if found.by_labels:
        yield Table(
            name="labels",
            title=f"Which pictures are labelled {found.classes[int(found.shown_class[0, 0])]}",
            caption="Chance that a labelled picture has a higher mean than another one of the same "
            f"{found.images.group_kind}.",
            columns=(
                Column(title="source", names=("source",)),
                Column(title="AUROC", names=("auroc",), form="number"),
                Column(title="95 % interval", names=("low", "high"), form="interval"),
            ),
            rows=tuple(
                (name, each.auroc, (each.low, each.high)) for name, each in found.by_labels.items()
            ),
        )


def _table_of_measures(measured: Measured) -> Table:
    has_masks = measured.area is not None
    rows: list[tuple[Cell, ...]] = []
    for worth in measured.worths:
        metrics = [worth.deletion, worth.insertion, *([worth.mass] if worth.mass else [])]
        cells: list[Cell] = [worth.name]
        for metric in metrics:
            cells += [metric.value, (metric.low, metric.high)]
        rows.append(tuple(cells))
    asked = [
        ("deletion", "deletion (lower is better)"),
        ("insertion", "insertion (higher is better)"),
    ]
    asked += [("mass", "share on the masks")] * has_masks
    return Table(
        name="worth",
        title="What the maps are worth",
        caption=f"Mean probability of the class as the highest places are blanked, or shown, first, in {STEPS} "
        f"steps; means of {count(measured.pictures, 'picture')}, intervals over {count(measured.groups, 'group')}.",
        columns=(
            Column(title="source", names=("source",)),
            *(
                column
                for name, title in asked
                for column in (
                    Column(title=title, names=(name,), form="number"),
                    Column(title="95 %", names=(f"{name}_low", f"{name}_high"), form="interval"),
                )
            ),
        ),
        rows=tuple(rows),
        aside=frozenset(k for k, worth in enumerate(measured.worths) if worth.is_null),
    )


def _table(found: Explained) -> Table:
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


def _method(found: Explained) -> dict[str, str]:
    return {
        "maps": _said(found.methods),
        "layer": f"{found.layer} of {found.architecture}",
        "null": f"the same network with all weights drawn anew (seed {found.seed}), for the same classes",
        **{f"note {k}": note for k, note in enumerate(found.notes, 1)},
    }
