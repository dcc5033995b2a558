"""Class activation maps of pictures as an answer: words, pictures beside their null, tables."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from histofast._words import count, counted, joined
from histofast.explain.cam.definitions import NAMES, Method
from histofast.explain.cam.labels import ByLabels
from histofast.explain.cam.pictures import Explained
from histofast.explain.cam.scores import spread
from histofast.explain.cam.tables import groups_of, tables_of
from histofast.explain.cam.worth import UNCHANGED, Criterion, Measured, Source, null_of
from histofast.explain.maps import tinted
from histofast.learning import LEAST_GROUPS, Difference, Metric
from histofast.report import (
    Answer,
    Axis,
    Chart,
    Figure,
    Panel,
    Picture,
    Point,
    Rule,
    Series,
    after_holm,
    finding_of,
    interval,
    number,
    percent,
    strip,
)

_SIDE_PX = 160  # of a picture on the page, at least
_ALPHA = 0.5


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
            "What is shown by numbers is shown of this one network, on other groups like these: another run may differ.",
        ),
        figures=tuple(_figures(found)),
        tables=tuple(tables_of(found)),
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
    if found.by_labels is not None:
        yield from _found_by_labels(found, found.by_labels)
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
    networks = f"{count(measured.draws, 'network')} without weights"
    for method in found.methods:
        left = measured.left[method]
        if math.isnan(left.value):
            continue
        told = f"{NAMES[method]} of the network and of {networks}"
        if method in unchanged:
            yield (
                f"{told} order the places of a picture alike (mean rank correlation {with_interval(left)}): these maps "
                "hardly depend on what was learnt."
            )
        else:
            yield f"{told} have a mean rank correlation of {with_interval(left)}."
    compared = {by: measured.compared(by) for by in measured.criteria}
    for by, differences in compared.items():
        for method in found.methods:
            yield from _verdicts(NAMES[method], differences, _BY[by], draws=measured.draws)
    if measured.area is not None:
        for method, source in zip(found.methods, _methods(measured), strict=True):
            mass = measured.worth(source, "mass").metric
            yield (
                f"{with_interval(mass, share=True)} of {NAMES[method]} lies on the masks, which cover "
                f"{percent(measured.area)} of the pictures."
            )


_BY: Mapping[Criterion, str] = {
    "deletion": "By deletion (mean probability as the highest places are blanked first, less is better)",
    "insertion": "By insertion (mean probability as the highest places are shown first, more is better)",
    "mass": "By the share on the masks",
}


def _methods(measured: Measured) -> list[Source]:
    return [source for source in measured.sources if not source.is_null]


def _verdicts(
    name: str, differences: Mapping[tuple[str, str], Difference], what: str, *, draws: int
) -> Iterator[str]:
    """Say what a method is shown to be better, or worse, than, and what it is not told from."""
    parts: dict[str, list[str]] = {words: [] for words in _VERDICTS.values()}
    for (one, other), difference in differences.items():
        words = _VERDICTS.get(finding_of(difference))
        if one == name and words is not None:
            parts[words].append(_against(one, other, difference, draws))
    said = [f"{words} {joined(names)}" for words, names in parts.items() if names]
    if said:
        yield f"{what}, {name} {'; it '.join(said)}."


_VERDICTS: Mapping[str, str] = {
    "better": "is shown to be better than",
    "worse": "is shown to be worse than",
    "not shown": "is not told from",
    "no interval": f"has no interval, for fewer than {LEAST_GROUPS} groups, against",
}


def _against(name: str, other: str, difference: Difference, draws: int) -> str:
    """Return what a method is held against, and the difference."""
    if other != null_of(name):
        return f"{other} ({after_holm(difference)})"
    nearest = f"nearest of {draws} draws, " if draws > 1 else ""
    return f"weights drawn anew ({nearest}{after_holm(difference)})"


def _found_by_labels(found: Explained, told: ByLabels) -> Iterator[str]:
    if told.why_not:
        yield f"Maps are not held against labels: {told.why_not}."
        return
    for method in found.methods:
        name = NAMES[method]
        own, anew = told.scores[name], told.anew[name]
        yield (
            f"By the mean of its {name}, a picture labelled {told.class_} is above another of its "
            f"{found.images.group_kind} with chance {number(own.auroc)} ({interval(own.low, own.high)}); with "
            f"weights drawn anew {number(min(anew))} to {number(max(anew))} in {count(len(anew), 'draw')}."
        )
        yield from _verdicts(name, told.differences, "By that chance", draws=len(anew))


def with_interval(metric: Metric, *, share: bool = False) -> str:
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


# --- Charts and words --------------------------------------------------------------------------


def _changes(found: Explained, measured: Measured) -> Chart:
    parts = tuple(change.part for change in measured.changes)
    return Chart(
        title="Maps of a network that loses its weights, part by part from the output down",
        caption=f"{count(measured.pictures, 'picture')} of {groups_of(found, measured)}, one draw of weights. A map that "
        f"stays near 1 does not show what was learnt; one above {UNCHANGED} at the end, as the mean of "
        f"{count(measured.draws, 'draw')}, is named.",
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
                        tip=f"{NAMES[method]}, {change.part}: {with_interval(change.left[method])}",
                    )
                    for place, change in enumerate(measured.changes)
                ),
            )
            for k, method in enumerate(found.methods)
        ),
        rules=(Rule(name="no agreement", value=0.0, faint=True),),
        interval=f"95 % interval over {found.images.group_kind}s",
    )


def _method(found: Explained) -> dict[str, str]:
    return {
        "maps": _said(found.methods),
        "layer": f"{found.layer} of {found.architecture}",
        "null": f"the same network with all weights drawn anew, for the same classes; seeds from {found.seed}, "
        f"{found.random_seeds} of them where maps are measured, the first where they are shown",
        **{f"note {k}": note for k, note in enumerate(found.notes, 1)},
    }
