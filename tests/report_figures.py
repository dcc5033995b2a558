"""Figures of every kind that a report draws, for tests and for the pictures they are held against."""

from __future__ import annotations

import numpy as np

from histofast.report import (
    Axis,
    Chart,
    Figure,
    Grid,
    Matrix,
    Picture,
    Point,
    Rule,
    Series,
    Tile,
    curves,
)

NAN = float("nan")


def points(values, *, half=0.05, **more):
    """Points at 0, 1, 2 ... with an interval of `half` around each."""
    return tuple(
        Point(place=k, value=v, low=v - half, high=v + half, tip=f"{k}: {v:.3f}", **more)
        for k, v in enumerate(values)
    )


def log(epochs=4, shift=0.0):
    return [
        {
            "epoch": str(e),
            "train_loss": f"{1 / (e + 1)}",
            "validation_loss": 1 / (e + 1) + shift,
            "auroc": 0.5 + 0.1 * min(e, 2),
        }
        for e in range(epochs)
    ]


NAMES = ("conv1", "layer1", "backbone.stages.3.blocks.11.attention.projection", "fc")
MATRIX = Matrix(
    title="Every layer",
    alt="a heat map",
    rows=NAMES,
    columns=("a", "b", "$c$"),
    values=((0.98, 0.2, 0.31), (0.3, -0.04, 0.5), (0.1, 0.6, NAN), (NAN, 0.7, 1.0)),
    low=-0.04,
    high=1.0,
    row_label="frozen",
    column_label="tuned",
    outlined=((0, 0), (1, 1)),
    outline="the same",
    blank="not compared",
    words={(2, 2): "undefined"},
)
DIAGONAL = Chart(
    title="The same layer",
    alt="a diagonal",
    places=Axis(names=NAMES),
    values=Axis(label="CKA", low=-0.02, high=1.07),
    series=(
        Series(name="CKA", points=points([0.98, 0.7, NAN, 0.4]), interval="band"),
        Series(name="shuffled", points=points([0.02] * 4, half=NAN), look="null"),
        Series(name="random", points=points([0.1, 0.12, 0.2, 0.25], half=NAN), look="random"),
    ),
    interval="95 % interval",
    blanks=(2,),
)
LINES = Chart(
    title="AUROC against depth",
    caption="From pixels to the end.",
    alt="AUROC by depth",
    places=Axis(label="depth", form="share", low=0, high=1),
    values=Axis(label="AUROC"),
    series=tuple(
        Series(
            name=f"net{k}",
            look=k,
            points=tuple(
                Point(
                    place=depth,
                    value=0.6 + 0.3 * depth - 0.08 * k,
                    low=0.5 + 0.3 * depth - 0.08 * k,
                    high=0.68 + 0.3 * depth - 0.08 * k,
                    tip=f"net{k} block{i}",
                    label=f"block{i}",
                    ringed=(k, i) == (0, 2),
                )
                for i, depth in enumerate((0.1, 0.3, 0.42, 0.8, 0.81, 1.0))
            ),
        )
        for k in range(2)
    ),
    rules=(
        Rule(name="baseline: mean pooling", value=0.7, tip="mean pooling: 0.700"),
        Rule(name="chance", value=0.5, faint=True),
    ),
    labels="above",
    ring="knee",
    interval="95 % interval",
)
SPEEDS = Chart(
    title="Speed against depth",
    alt="speed by depth",
    places=Axis(label="depth", form="share", low=0, high=1),
    values=Axis(label="patches per second", scale="auto"),
    series=(
        Series(
            name="net0",
            points=tuple(
                Point(place=d, value=40 / d, tip=f"{40 / d:.0f}/s") for d in (0.1, 0.5, 1)
            ),
        ),
    ),
)
FOREST = Chart(
    title="From the best on",
    alt="a forest",
    places=Axis(names=("uni", "vit", "resnet", "mean pooling", "diverged (undefined)")),
    values=Axis(label="AUROC"),
    series=(
        Series(name="networks", line="none", points=points([0.9, 0.89, 0.8])),
        Series(
            name="baselines",
            line="none",
            look="null",
            points=(Point(place=3, value=0.7, low=0.6, high=0.8), Point(place=4, value=NAN)),
        ),
    ),
    rules=(Rule(name="chance", value=0.5, faint=True),),
    sideways=True,
    separators=(2.5,),
    interval="95 % interval",
)
SCATTER = Chart(
    title="AUROC against speed",
    alt="a scatter",
    places=Axis(label="patches per second", scale="auto"),
    values=Axis(label="AUROC"),
    series=(
        Series(
            name="networks",
            line="none",
            points=tuple(
                Point(
                    place=p, value=v, low=v - 0.05, high=v + 0.04, label=name, ringed=name == "vit"
                )
                for p, v, name in ((12, 0.9, "uni"), (480, 0.89, "vit"), (100, 0.8, "resnet"))
            ),
        ),
    ),
    labels="right",
    ring="choice",
)
BARS = Chart(
    alt="bars",
    places=Axis(names=("one", "two", "three")),
    values=Axis(label="patches per second"),
    series=(
        Series(
            name="",
            mark="bar",
            points=tuple(
                Point(place=k, value=v, note=f"{v:.1f}, with a note behind it", tip=f"bar {k}")
                for k, v in enumerate((100.0, 80.0, 12.0))
            ),
        ),
    ),
    sideways=True,
)
STEPS = Chart(
    alt="steps",
    places=Axis(label="steps", form="whole"),
    values=Axis(label="share that got there", form="share", low=0, high=1),
    series=tuple(
        Series(
            name=name,
            look=k,
            line="steps",
            mark="none",
            points=tuple(Point(place=apart * i, value=v) for i, v in enumerate((0, 0.3, 0.6, 0.9))),
        )
        for k, (name, apart) in enumerate((("pretrained", 10), ("random", 25)))
    ),
)
MAP = Chart(
    alt="a map",
    places=Axis(label="t-SNE, no scale"),
    values=Axis(),
    series=tuple(
        Series(
            name=name,
            look=k,
            line="none",
            mark="dot",
            points=tuple(
                Point(place=20 * k + 5 * np.cos(i), value=40 + 9 * np.sin(2 * i)) for i in range(40)
            ),
        )
        for k, name in enumerate(("one set", "another"))
    ),
    is_map=True,
)


def picture(h=60, w=90, **more):
    """A picture in which no two pixels need be alike."""
    pixels = np.random.default_rng(0).integers(0, 256, (h, w, 3), np.uint8)
    return Picture(pixels=pixels, alt="noise", **more)


GRID = Grid(
    title="One and nine",
    alt="a large picture beside small ones",
    tiles=(
        Tile(pixels=picture(32, 32).pixels, row=0, column=0, side=3, tip="found"),
        *(
            Tile(
                pixels=np.full((8, 8, 3), 25 * k, np.uint8),
                row=k // 3,
                column=3 + k % 3,
                tip=f"p{k}: 0.{k}",
            )
            for k in range(9)
        ),
    ),
)


FIGURES = {
    figure.name: figure
    for figure in (
        Figure(name="matrix", panels=(MATRIX, DIAGONAL), title="a and $b", basis="64 images"),
        Figure(name="depth", panels=(LINES, SPEEDS), title="Where to cut", stacked=True),
        Figure(name="networks", panels=(FOREST, SCATTER), title="Which", basis="AUROC"),
        Figure(name="bars", panels=(BARS,), title="2 threads"),
        Figure(name="steps", panels=(STEPS,)),
        Figure(name="map", panels=(MAP,)),
        Figure(
            name="picture",
            panels=(picture(ticks=((0.0, "low"), (1.0, "high")), opacity=0.5, um_per_px=8.0),),
            title="slide",
        ),
        Figure(name="pictures", panels=(GRID, STEPS), title="channel"),
        curves([log(), log(7, 0.1), log(1)], metric="auroc", title="attention"),
    )
}
