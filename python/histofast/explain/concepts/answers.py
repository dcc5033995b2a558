"""What layers tell of concepts as an answer: R2 by layer between its nulls, tables, words."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from histofast._words import count, joined, listed
from histofast.explain.concepts.explaining import DIRECTIONS, Explained
from histofast.explain.concepts.measures import CONCEPTS
from histofast.explain.concepts.ridge import Regression
from histofast.learning import LEAST_GROUPS
from histofast.report import (
    Answer,
    Axis,
    Cell,
    Chart,
    Column,
    Figure,
    Point,
    Rule,
    Series,
    Table,
    after_holm,
    difference_cells,
    difference_columns,
    finding_of,
    interval,
    number,
)

Float = NDArray[np.float64]
_Best = tuple[str, str, int]  # a concept, the layer that tells it best, its number

_LEVEL, _NAMED = 0.05, 5
_LEAST = -0.25  # where scales end: a model that is worse than the mean is no more than that


def answer_of(found: Explained, *, command: str = "") -> Answer:
    """Return all that is on the page, and in the folder."""
    panels = tuple(_chart(found, k) for k in range(len(found.concepts)))
    return Answer(
        name="concepts",
        title="Which concepts the layers tell",
        question=(
            "How well do the features of each layer tell what can be measured of a picture, on "
            f"{_groups(found)} that trained nothing, and would a network that has learnt nothing tell it "
            "as well?"
        ),
        basis=(
            f"{count(len(found.images), 'picture')} of {found.px} px of "
            f"{count(len(set(found.images.groups)), found.images.group_kind)}, "
            f"{count(len(found.layers), 'layer')} of {found.architecture}"
        ),
        findings=tuple(_findings(found)),
        limits=(
            "That a layer tells a concept does not say that the network uses it: see the sensitivities.",
            f"The best layer of a concept is the highest of {len(found.layers)} on these very pictures.",
            "Intervals are over the groups for these models; other groups to train on would move them too.",
        ),
        figures=(
            Figure(name="r2", panels=panels, stacked=True),
            Figure(name="in-sample", panels=(_artefact(found),)),
        ),
        tables=tuple(_tables(found)),
        commands=(("This page", command),) if command else (),
        method=_method(found),
    )


def _groups(found: Explained) -> str:
    kind = found.images.group_kind
    return "pictures" if kind == "image" else f"{kind}s"


# --- Words --------------------------------------------------------------------------------------


def is_above(regression: Regression, random: tuple[Regression, ...], k: int) -> bool:
    """Whether the interval of a concept's R2 lies above all its nulls, and above 0."""
    nulls = [0.0, *(each.r2[k] for each in random), *regression.permuted[:, k]]
    low = regression.low[k]
    return not math.isnan(low) and low > max(nulls)


def _findings(found: Explained) -> Iterator[str]:
    for name, by_layer in found.found.items():
        told: list[_Best] = []
        other: list[_Best] = []
        for k, concept in enumerate(found.concepts):
            layer = found.layers[int(np.argmax([one.r2[k] for one in by_layer.values()]))]
            is_told = is_above(by_layer[layer], found.random[layer], k)
            (told if is_told else other).append((concept, layer, k))
        if told:
            yield (
                f"The {name} network tells {count(len(told), 'concept')} better than its nulls, interval and "
                f"all, in the layer where it is told best: {_each(found, name, told)}."
            )
        if other:
            yield (
                f"Not shown to be told by the {name} network better than by random weights or after shuffling: "
                f"{_each(found, name, other)}."
            )
        if any(math.isnan(one.low[0]) for one in by_layer.values()):
            yield f"There are fewer than {LEAST_GROUPS} {_groups(found)}: intervals are not known, and nothing is shown."
    if found.changed:
        yield _on_changed(found)
    for concept, value in found.constant.items():
        yield f"{_said(concept)} is {value:g} in every picture: there is nothing to tell, and it is left out."
    yield from _on_artefact(found)
    if found.moved:
        yield from _on_sensitivity(found)


def _each(found: Explained, name: str, which: list[_Best]) -> str:
    """Return concepts with the layer that tells them best, R2 and that of random weights."""
    parts = []
    for concept, layer, k in which:
        of_random = [float(each.r2[k]) for each in found.random[layer]]
        r2 = float(found.found[name][layer].r2[k])
        parts.append(
            f"{_told(concept)} {number(r2)} in {layer} (random {interval(min(of_random), max(of_random))})"
        )
    return joined(parts)


def _on_changed(found: Explained) -> str:
    """Say what the second network tells better and worse than the first."""
    before, after = found.found
    changed = found.changed
    parts = []
    for verdict in ("better", "worse"):
        names = [
            f"{_told(concept)} in {layer} ({after_holm(one)})"
            for (concept, layer), one in changed.items()
            if finding_of(one) == verdict
        ]
        if names:
            rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            parts.append(f"{verdict} {joined(names[:_NAMED])}{rest}")
    whole = count(len(changed), "comparison")
    if not parts:
        return (
            f"No difference in R2 between the {after} and the {before} network is shown in {whole}."
        )
    return f"The {after} network tells, of {whole} with the {before} one: {'; '.join(parts)}."


def _on_artefact(found: Explained) -> Iterator[str]:
    wide = [layer for layer in found.layers if found.random[layer][0].d + 1 >= len(found.images)]
    if wide:
        least = min(float(found.random[layer][0].in_sample.min()) for layer in wide)
        yield (
            f"Least squares on the very pictures it was fitted to gives a random network an R2 of {number(least)} "
            f"in {listed(wide)}, which {'has' if len(wide) == 1 else 'have'} as many features as there are "
            "pictures, or more: such a number counts features, not concepts."
        )


def _on_sensitivity(found: Explained) -> Iterator[str]:
    tests = len(found.concepts) * len(found.moved) * len(DIRECTIONS)
    shown = [
        f"{concept} ({kind}, {layer})"
        for layer, by_kind in found.moved.items()
        for kind, one in by_kind.items()
        for concept, p in zip(found.concepts, one.p.tolist(), strict=True)
        if p * tests < _LEVEL
    ]
    against = f"{count(tests, 'test')}, Bonferroni"
    if shown:
        more = f", and {len(shown) - _NAMED} more" if len(shown) > _NAMED else ""
        yield (
            f"The share of pictures in which the logit of {found.target} rises along a concept is farther from "
            f"one half than along random directions ({against}): {joined(shown[:_NAMED])}{more}."
        )
    else:
        yield (
            f"Along no concept does the logit of {found.target} rise in a share of pictures that random "
            f"directions do not reach ({against})."
        )


def _told(concept: str) -> str:
    return "ASM" if concept == "asm" else concept.replace("_", " ")


def _said(concept: str) -> str:
    text = _told(concept)
    return text[0].upper() + text[1:]


def _bounds(regression: Regression, k: int) -> str:
    low, high = float(regression.low[k]), float(regression.high[k])
    return "" if math.isnan(low) else f" ({interval(low, high)})"


# --- Charts -------------------------------------------------------------------------------------


def _chart(found: Explained, k: int) -> Chart:
    series = []
    for look, (name, by_layer) in enumerate(found.found.items()):
        points = tuple(
            Point(
                place=place,
                value=float(one.r2[k]),
                low=float(one.low[k]),
                high=float(one.high[k]),
                tip=f"{layer}, {name}: {number(one.r2[k])}{_bounds(one, k)}",
            )
            for place, (layer, one) in enumerate(by_layer.items())
        )
        series.append(Series(name=name, points=points, look=look))
    first = next(iter(found.found.values()))
    if len(next(iter(first.values())).permuted):
        values = [first[layer].permuted[:, k] for layer in found.layers]
        series.append(_band("shuffled concepts", values, found, look="null"))
    values = [np.array([each.r2[k] for each in found.random[layer]]) for layer in found.layers]
    series.append(_band("random weights", values, found, look="random"))
    concept = found.concepts[k]
    within = "" if found.images.group_kind == "image" else f" within {found.images.group_kind}s"
    return Chart(
        title=_said(concept),
        caption=f"{CONCEPTS[concept].definition}. Bands: {count(len(found.random[found.layers[0]]), 'network')} "
        f"with random weights, and concepts shuffled{within}, lowest to highest.",
        alt=f"Held-out R2 of {_said(concept)} by layer, with bands of its nulls; the table has the numbers",
        places=Axis(names=found.layers),
        values=Axis(label="held-out R2", low=_LEAST, high=1.0),
        series=tuple(series),
        rules=(Rule(name="the mean", value=0.0, faint=True),),
        interval=f"95 % interval over {_groups(found)} (bars), range of the null (bands)",
    )


def _band(
    name: str, values: list[Float], found: Explained, *, look: Literal["null", "random"]
) -> Series:
    return Series(
        name=name,
        points=tuple(
            Point(
                place=place,
                value=max(float(np.median(each)), _LEAST),
                low=max(float(each.min()), _LEAST),
                high=max(float(each.max()), _LEAST),
                tip=f"{layer}, {name}: {interval(float(each.min()), float(each.max()))}",
            )
            for place, (layer, each) in enumerate(zip(found.layers, values, strict=True))
        ),
        look=look,
        interval="band",
    )


def _artefact(found: Explained) -> Chart:
    """Show once what R2 of the fitted rows is: of random weights, for the first concept."""
    concept, of_random = found.concepts[0], [found.random[layer][0] for layer in found.layers]

    def line(name: str, values: list[float], look: int) -> Series:
        return Series(
            name=name,
            points=tuple(
                Point(
                    place=k,
                    value=max(value, _LEAST),
                    tip=f"{found.layers[k]}, {of_random[k].d:,} features, {name}: {number(value)}",
                )
                for k, value in enumerate(values)
            ),
            look=look,
        )

    return Chart(
        title=f"An artefact: R2 on the fitted pictures, {_said(concept)}, one network with random weights",
        caption="Least squares without a penalty, measured on the pictures it was fitted to, rises with the "
        "number of features whatever they are. Nothing else on this page is measured so.",
        alt="R2 of least squares in sample, and of ridge regression held out, by layer, of random weights",
        places=Axis(names=found.layers),
        values=Axis(label="R2", low=_LEAST, high=1.0),
        series=(
            line("in sample", [float(one.in_sample[0]) for one in of_random], 0),
            line("held out", [float(one.r2[0]) for one in of_random], 1),
        ),
    )


# --- Tables -------------------------------------------------------------------------------------


def _tables(found: Explained) -> Iterator[Table]:
    yield _table_of_r2(found)
    if found.changed:
        yield _table_of_changes(found)
    if found.moved:
        yield _table_of_moves(found)
    yield Table(
        name="concepts",
        title="What was measured",
        columns=(
            Column(title="concept", names=("concept",)),
            Column(title="definition", names=("definition",)),
            Column(title="source", names=("source",)),
            Column(title="lowest and highest", names=("lowest", "highest"), form="interval"),
        ),
        rows=tuple(_measured(found)),
    )
    columns = (*(Column(title="", names=(name,)) for name in ("picture", "group")),)
    values = (Column(title="", names=(name,), form="number") for name in found.concepts)
    yield Table(
        name="values",
        columns=(*columns, *values),
        rows=tuple(
            (name, group, *row)
            for name, group, row in zip(
                found.images.names, found.images.groups, found.values.tolist(), strict=True
            )
        ),
        shown=0,
    )


def _table_of_r2(found: Explained) -> Table:
    return Table(
        name="r2",
        title="Held-out R2 of every concept in every layer",
        caption="Above: the whole interval lies above 0, every network with random weights and every shuffle.",
        columns=(
            Column(title="concept", names=("concept",)),
            Column(title="layer", names=("layer",)),
            Column(title="network", names=("network",)),
            Column(title="R2", names=("r2",), form="number"),
            Column(title="95 % interval", names=("low", "high"), form="interval"),
            Column(title="random weights", names=("random_low", "random_high"), form="interval"),
            Column(title="highest shuffle", names=("shuffled_high",), form="number", missing="-"),
            Column(title="p of shuffles", names=("p",), form="number", missing="-"),
            Column(title="above", names=("above",)),
            Column(title="features", names=("features",), form="whole"),
            Column(title="", names=("in_sample",), form="number"),
            Column(title="", names=("penalty",), form="number"),
        ),
        rows=tuple(_rows(found)),
    )


def _table_of_changes(found: Explained) -> Table:
    before, after = found.found
    changed = found.changed
    return Table(
        name="changed",
        title=f"The {after} network less the {before} one",
        caption=f"Difference of held-out R2, with its own 95 % interval over {_groups(found)}, drawn together for both; "
        f"findings are adjusted for {len(changed)} differences, after Holm.",
        columns=(
            Column(title="concept", names=("concept",)),
            Column(title="layer", names=("layer",)),
            *difference_columns("R2", "r2"),
        ),
        rows=tuple((*key, *difference_cells(one)) for key, one in changed.items()),
    )


def _table_of_moves(found: Explained) -> Table:
    return Table(
        name="sensitivity",
        title=f"How the logit of {found.target} moves along concepts",
        caption="The trained network. TCAV: share of pictures where it rises; p against random "
        "directions, not corrected. Br: R2 x mean / deviation of the derivative.",
        columns=(
            Column(title="concept", names=("concept",)),
            Column(title="layer", names=("layer",)),
            Column(title="direction", names=("direction",)),
            Column(title="TCAV", names=("tcav",), form="share"),
            Column(title="random", names=("random_low", "random_high"), form="interval"),
            Column(title="p", names=("p",), form="number"),
            Column(title="mean", names=("mean",), form="number"),
            Column(title="deviation", names=("deviation",), form="number"),
            Column(title="Br", names=("br",), form="number"),
        ),
        rows=tuple(_moves(found)),
    )


def _rows(found: Explained) -> Iterator[tuple[Cell, ...]]:
    for k, concept in enumerate(found.concepts):
        for layer in found.layers:
            for name, by_layer in found.found.items():
                one, random = by_layer[layer], [each.r2[k] for each in found.random[layer]]
                has = len(one.permuted) > 0
                yield (
                    concept,
                    layer,
                    name,
                    float(one.r2[k]),
                    (float(one.low[k]), float(one.high[k])),
                    (float(min(random)), float(max(random))),
                    float(one.permuted[:, k].max()) if has else None,
                    float(one.p[k]) if has else None,
                    "yes" if is_above(one, found.random[layer], k) else "no",
                    float(one.d),
                    float(one.in_sample[k]),
                    float(one.penalties[k]),
                )


def _moves(found: Explained) -> Iterator[tuple[Cell, ...]]:
    for k, concept in enumerate(found.concepts):
        for layer, by_kind in found.moved.items():
            for kind, one in by_kind.items():
                yield (
                    concept,
                    layer,
                    kind,
                    float(one.tcav[k]),
                    (one.random_low, one.random_high),
                    float(one.p[k]),
                    float(one.mean[k]),
                    float(one.deviation[k]),
                    float(one.relevance[k]),
                )


def _measured(found: Explained) -> Iterator[tuple[Cell, ...]]:
    for k, name in enumerate(found.concepts):
        column = found.values[:, k]
        told = CONCEPTS[name]
        yield name, told.definition, told.source, (float(column.min()), float(column.max()))
    for name, value in found.constant.items():
        yield name, CONCEPTS[name].definition, CONCEPTS[name].source, (value, value)


def _method(found: Explained) -> dict[str, str]:
    within = "over all pictures" if found.images.group_kind == "image" else "within groups"
    told = {
        "features": "means of a layer's maps over the picture",
        "regression": f"ridge, {found.folds} folds of groups, features standardised by the training part, "
        "penalty of each concept chosen by leaving out one of the training folds after the other",
        "R2": "1 - squared errors / squared differences from the mean of the training part, held out",
        "nulls": f"concepts shuffled {within}; networks of random weights, "
        f"{len(found.random[found.layers[0]])} seeds",
        "directions": "filter: the model's weights; pattern: cov(features, concept) / var(concept); unit vectors",
        "seed": str(found.seed),
    }
    if found.moved:
        told["sensitivity"] = (
            f"derivative of the logit of {found.target} when every place of the layer moves along the "
            "direction; random directions are normal in units of each feature's deviation"
        )
    return told
