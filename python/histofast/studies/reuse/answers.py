"""A study of reuse as an answer: layer by layer channels, maps, concepts, and how much changed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from histofast._words import count, joined
from histofast.learning import Metric
from histofast.report import (
    Answer,
    Axis,
    Cell,
    Chart,
    Column,
    Figure,
    Matrix,
    Point,
    Rule,
    Series,
    Table,
    difference_cells,
    difference_columns,
)
from histofast.studies.pictures import failed_tables
from histofast.studies.reuse.found import NETWORKS, MapWorth, ReuseFound
from histofast.studies.reuse.parts import NAME, START
from histofast.studies.reuse.study import Reuse
from histofast.studies.reuse.words import basis_of, describe_reuse, limits_of, with_interval

_INTERVAL = "95 % interval over groups"
_WORTH = ("deletion", "insertion")


def answer_of_reuse(study: Reuse, found: ReuseFound) -> Answer:
    """Return all of a study for a page and a folder."""
    return Answer(
        name=study.name,
        title="What features are reused for",
        question="Layer by layer: what do channels look for, where does the tuned network find its classes, which "
        "concepts do features tell, and how much of it did fine-tuning change?",
        basis=basis_of(study, found),
        findings=describe_reuse(found),
        limits=limits_of(study, found),
        figures=tuple(_figures(found)),
        tables=tuple(_tables(found)),
        commands=(("The study", study.setting.command),) if study.setting.command else (),
        method=_method(study, found),
        links=found.links,
    )


def _method(study: Reuse, found: ReuseFound) -> dict[str, str]:
    return {
        "start": f"{study.weights}",
        "tuned": f"{study.given.tuned}",
        "pictures": f"drawn by seed {study.seed}, resampled to {study.given.px} px as the run was trained",
        "layers": "those that were asked for"
        if study.layers
        else "the last block of each of the last scales",
        "channels": f"{study.channels} of each layer, evenly taken; each searched for {study.steps} steps, by phases of "
        "frequencies under magnitudes and colours of the real pictures",
        "concepts": f"ridge regression of each concept on means of a layer's maps, {study.folds} folds of groups, "
        f"penalty chosen within them; R2 is held out. Nulls: {count(study.permutations, 'shuffle')} of the concepts "
        f"within groups, {count(study.random_seeds, 'network')} with random weights. Above: the interval lies above 0 "
        "and all of them",
        "maps": f"{NAME} of the tuned network, measured on {count(study.sample, 'picture')}. Null: "
        f"{count(study.random_seeds, 'network')} with all weights drawn anew, for the same classes, and as many random "
        "orders. Better: the interval of the difference, picture by picture, to the mean of random orders and to the "
        "draw that comes nearest lies above 0, after Holm over all layers",
        "differences": "of R2 and of maps: both sides on the same draws of groups, the networks fixed",
        "change": "debiased linear CKA of whole maps of start and tuned, over batches of 64 pictures, at most 256",
        "dead": "channels with one value at all places of all pictures",
        "idea": "Graziani, Andrearczyk, Müller, 2019, Visualizing and interpreting feature reuse of pretrained CNNs for "
        "histopathology",
    }


# --- Figures -------------------------------------------------------------------------------------


def _figures(found: ReuseFound) -> Iterator[Figure]:
    if found.alike is not None:
        yield Figure(name="change", panels=(_change(found),), title="How much changed")
    if found.told:
        yield Figure(name="concepts", panels=tuple(_matrices(found)), title="Concepts told")
    if found.worths:
        yield Figure(name="maps", panels=(_worths(found),), title="What maps are worth")
    for k, layer in enumerate(found.layers, 1):
        kept = [parts[layer] for parts in (found.channels, found.maps) if layer in parts]
        panels = tuple(panel for one in kept for panel in one.panels)
        if panels:
            yield Figure(name=f"layer-{k}", panels=panels, title=layer)


def _change(found: ReuseFound) -> Chart:
    points = []
    for place, layer in enumerate(found.layers):
        cka = found.cka(layer)
        if cka is not None:
            points.append(
                Point(
                    place=place,
                    value=cka.value,
                    low=cka.low,
                    high=cka.high,
                    tip=f"{layer}: {with_interval(cka)}",
                )
            )
    return Chart(
        title="How alike start and tuned are",
        caption="1: the pictures lie to each other as before tuning. The lower, the more it changed.",
        alt="CKA of the start and the tuned network by layer. The table of layers has the numbers.",
        places=Axis(names=found.layers),
        values=Axis(label="CKA of start and tuned", high=1.0),
        series=(Series(name="", points=tuple(points)),),
        rules=(Rule(name="unchanged", value=1.0, faint=True),),
        interval=_INTERVAL,
    )


def _matrices(found: ReuseFound) -> Iterator[Matrix]:
    by = {(one.network, one.concept, one.layer): one for one in found.told}
    names = tuple(concept.replace("_", " ") for concept in found.concepts)
    for network in NETWORKS:
        yield Matrix(
            title="At the start" if network == START else "After tuning",
            caption="Held-out R2 of concepts by layer. What is worse than the mean has the lowest colour.",
            alt=f"Held-out R2 of {count(len(names), 'concept')} in each layer of the {network} network. told.csv has the "
            "numbers.",
            rows=names,
            columns=found.layers,
            values=tuple(
                tuple(by[network, concept, layer].r2.value for layer in found.layers)
                for concept in found.concepts
            ),
            low=0.0,
            high=1.0,
            outlined=tuple(
                (i, j)
                for i, concept in enumerate(found.concepts)
                for j, layer in enumerate(found.layers)
                if by[network, concept, layer].is_above
            ),
            outline="above both nulls",
        )
    yield Matrix(
        title="What chance tells",
        caption="The highest R2 of all networks with random weights and of all shuffles of the concepts.",
        alt="The highest held-out R2 of the nulls of each concept in each layer. told.csv has the numbers.",
        rows=names,
        columns=found.layers,
        values=tuple(
            tuple(
                max(by[network, concept, layer].null for network in NETWORKS)
                for layer in found.layers
            )
            for concept in found.concepts
        ),
        low=0.0,
        high=1.0,
    )


def _worths(found: ReuseFound) -> Chart:
    worths = list(found.worths.values())
    return Chart(
        title="What maps of the tuned network are worth",
        caption="As the highest places of a map are blanked first: how far the probability lies below that of random "
        f"order, on average over the order; {count(worths[0].pictures, 'picture')}. Band: "
        f"{count(len(worths[0].draws), 'network')} with weights drawn anew, lowest to highest.",
        alt="How much lower the probability is by layer, of maps and of those of weights drawn anew. The table of "
        "layers has the numbers.",
        places=Axis(names=found.layers),
        values=Axis(label="probability below random order"),
        series=(
            Series(name=NAME, line="none", points=tuple(_points(found, _own))),
            Series(
                name="weights drawn anew",
                look="null",
                interval="band",
                points=tuple(_points(found, _anew)),
            ),
        ),
        rules=(Rule(name="random order", value=0.0, faint=True),),
        interval=f"{_INTERVAL} (bars), range of the null (band)",
    )


def _own(worth: MapWorth) -> Metric:
    return Metric(value=worth.random.value, low=worth.random.low, high=worth.random.high)


def _anew(worth: MapWorth) -> Metric:
    draws = worth.draws
    return Metric(value=float(np.median(draws)), low=min(draws), high=max(draws))


def _points(found: ReuseFound, read: Callable[[MapWorth], Metric]) -> Iterator[Point]:
    for place, layer in enumerate(found.layers):
        if layer in found.worths:
            metric = read(found.worths[layer])
            yield Point(
                place=place,
                value=metric.value,
                low=metric.low,
                high=metric.high,
                tip=f"{layer}: {with_interval(metric)}",
            )


# --- Tables --------------------------------------------------------------------------------------


def _tables(found: ReuseFound) -> Iterator[Table]:
    yield _layers(found)
    if found.told:
        yield _above(found)
        yield _told(found)
        yield _changed_concepts(found)
    if found.channels:
        yield _channels(found)
    if found.worths:
        yield _maps(found)
    yield from failed_tables(found.failed)


def _layers(found: ReuseFound) -> Table:
    return Table(
        name="layers",
        title="Layer by layer",
        caption="Concepts: how many are told above both nulls. Maps: probability below random order as the highest "
        "places are blanked first, of networks with weights drawn anew the lowest and the highest, and less the draw "
        "that comes nearest; after Holm over layers. r: of channels of one number over the same pictures, median. 95 % "
        "intervals over groups.",
        columns=(
            Column(title="layer", names=("layer",)),
            Column(title="CKA of start and tuned", names=("cka",), form="number"),
            Column(title="95 %", names=("cka_low", "cka_high"), form="interval"),
            Column(title="concepts at the start", names=("concepts_start",), form="whole"),
            Column(title="after tuning", names=("concepts_tuned",), form="whole"),
            *difference_columns("maps below random order", "maps"),
            Column(title="drawn anew", names=("null_lowest", "null_highest"), form="interval"),
            *difference_columns("maps less drawn anew", "anew"),
            *difference_columns("maps less darkness", "darkness"),
            Column(title="r of channels", names=("r",), form="number"),
            Column(title="dead at the start", names=("dead_start",), form="whole"),
            Column(title="after tuning", names=("dead_tuned",), form="whole"),
            Column(title="channels", names=("channels",), form="whole"),
        ),
        rows=tuple(_layer(found, layer) for layer in found.layers),
    )


def _layer(found: ReuseFound, layer: str) -> tuple[Cell, ...]:
    cka, worth = found.cka(layer), found.worths.get(layer)
    kept = found.channels.get(layer)
    cells: list[Cell] = [layer]
    cells += [None, None] if cka is None else [cka.value, (cka.low, cka.high)]
    cells += [
        float(len(found.above(network, layer))) if found.told else None for network in NETWORKS
    ]
    cells += [
        *difference_cells(None if worth is None else worth.random),
        None if worth is None else (min(worth.draws), max(worth.draws)),
        *difference_cells(None if worth is None else worth.anew),
        *difference_cells(None if worth is None else worth.darkness),
    ]
    if kept is None:
        return (*cells, None, None, None, None)
    r = kept.numbers["together"]["value"]
    dead = [float(number_of) for number_of in kept.numbers["dead"]]
    return (*cells, math.nan if r is None else r, *dead, float(kept.numbers["channels"]))


def _above(found: ReuseFound) -> Table:
    return Table(
        name="above",
        title="Which concepts are told above both nulls",
        columns=(
            Column(title="layer", names=("layer",)),
            Column(title="at the start", names=("start",)),
            Column(title="after tuning", names=("tuned",)),
        ),
        rows=tuple(
            (
                layer,
                *(
                    joined([name.replace("_", " ") for name in names]) if names else "none"
                    for names in (found.above(network, layer) for network in NETWORKS)
                ),
            )
            for layer in found.layers
        ),
    )


def _told(found: ReuseFound) -> Table:
    return Table(
        name="told",
        shown=0,
        columns=(
            *(Column(title=name, names=(name,)) for name in ("concept", "layer", "network")),
            Column(title="R2", names=("r2", "low", "high"), form="interval"),
            Column(title="null", names=("null",), form="number"),
            Column(title="above", names=("above",)),
        ),
        rows=tuple(
            (
                one.concept,
                one.layer,
                one.network,
                (one.r2.value, one.r2.low, one.r2.high),
                one.null,
                "yes" if one.is_above else "no",
            )
            for one in found.told
        ),
    )


def _changed_concepts(found: ReuseFound) -> Table:
    return Table(
        name="changed",
        title="Concepts told better and worse after tuning",
        caption="Held-out R2 of the tuned network less that of the start, with its own 95 % interval over groups, drawn "
        f"together for both; findings are adjusted for {len(found.changed)} differences, after Holm.",
        columns=(
            Column(title="concept", names=("concept",)),
            Column(title="layer", names=("layer",)),
            Column(title="R2 less R2", names=("r2", "low", "high"), form="difference"),
            Column(title="finding", names=("finding",)),
        ),
        rows=tuple(
            (one.concept, one.layer, (one.r2.value, one.r2.low, one.r2.high), one.finding)
            for one in found.changed
        ),
    )


def _channels(found: ReuseFound) -> Table:
    names = ("channel", "network", "found", "strongest", "mean", "sd_above", "r")
    return Table(
        name="channels",
        shown=0,
        columns=tuple(Column(title=name, names=(name,)) for name in ("layer", *names)),
        rows=tuple(
            (layer, *(row[name] for name in names))
            for layer, kept in found.channels.items()
            for row in kept.numbers["rows"]
        ),
    )


def _maps(found: ReuseFound) -> Table:
    names = [
        f"{by}{part}" for by in _WORTH for part in ("", "_low", "_high", "_lowest", "_highest")
    ]
    return Table(
        name="maps",
        shown=0,
        columns=tuple(Column(title=name, names=(name,)) for name in ("layer", "source", *names)),
        rows=tuple(
            (layer, row["source"], *(row[name] for name in names))
            for layer, worth in found.worths.items()
            for row in worth.rows
        ),
    )
