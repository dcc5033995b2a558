"""Class activation maps of pictures as an answer: words, pictures beside their null, tables."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from histofast._words import count, counted
from histofast.explain.cam.definitions import NAMES, Method
from histofast.explain.cam.pictures import Explained
from histofast.explain.maps import tinted
from histofast.report import Answer, Cell, Column, Figure, Panel, Picture, Table, strip

_SIDE_PX = 160  # of a picture on the page, at least
_ALPHA = 0.5
_ROWS = 100


def answer_of(found: Explained, *, command: str = "") -> Answer:
    """Return all that is on the page, and in the folder."""
    panels = tuple(_panels(found))
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
        figures=(Figure(name="pictures", panels=panels, stacked=True),) if panels else (),
        tables=(_table(found),),
        commands=(("These maps", command),) if command else (),
        method=_method(found),
    )


def _basis(found: Explained) -> str:
    h, w = next(iter(found.maps.values())).shape[2:]
    return (
        f"{count(len(found.images), 'picture')} of {found.px} px, layer {found.layer} of "
        f"{found.architecture} with {h} x {w} places"
    )


def _findings(found: Explained) -> Iterator[str]:
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


# --- Pictures ----------------------------------------------------------------------------------


def _panels(found: Explained) -> Iterator[Panel]:
    heads = ["picture"]
    for method in found.methods:
        heads += [NAMES[method], "weights drawn anew"]
    for row, pixels in found.thumbs.items():
        for c, number in enumerate(found.shown_class[row].tolist()):
            share = found.probabilities[row, number]
            name = found.images.names[row]
            tiles = [enlarged(pixels)]
            for method in found.methods:
                tiles += [over(pixels, maps[method][row, c]) for maps in (found.maps, found.null)]
            yield Picture(
                pixels=strip(tiles),
                heads=tuple(heads),
                title=name,
                caption=f"For {found.classes[number]}, which the network gives {100 * share:.0f} %.",
                alt=f"{name}, and on it {_said(found.methods)} for {found.classes[number]}, each beside the "
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


def spread(cam: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Return (h, w) values as (*shape) pixels, each that of the place it lies in."""
    rows, columns = (
        np.arange(side) * places // side for side, places in zip(shape, cam.shape, strict=True)
    )
    found: NDArray[np.float32] = cam[rows[:, np.newaxis], columns]
    return found


# --- Tables and words --------------------------------------------------------------------------


def _table(found: Explained) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for i, name in enumerate(found.images.names):
        for c, number in enumerate(found.shown_class[i].tolist()):
            sums = [float(found.maps[m][i, c].mean()) for m in found.methods]
            null = [float(found.null[m][i, c].mean()) for m in found.methods]
            rows.append(
                (
                    name,
                    found.images.groups[i],
                    found.classes[number],
                    float(found.probabilities[i, number]),
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
