"""What the parts of the study have found, layer by layer."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from histofast.comparison import Alike
from histofast.explain import cam
from histofast.jobs import Job
from histofast.learning import Difference, Metric, paired_differences
from histofast.report import finding_of
from histofast.studies.likeness import START_AND_END, read_likeness
from histofast.studies.pictures import Done
from histofast.studies.reuse.kept import Kept, metric_of, read_kept
from histofast.studies.reuse.parts import NAME, START, TUNED
from histofast.studies.reuse.study import Reuse

NETWORKS = (START, TUNED)

Values = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Told:
    """How well the features of a layer tell a concept.

    Attributes:
        concept, layer, network: of it.
        r2: held out, with its interval over groups; NaN bounds where those are too few.
        null: the highest R2 of all networks with random weights and of all shuffles.
        is_above: whether the interval lies above 0, every random network and every shuffle.
    """

    concept: str
    layer: str
    network: str
    r2: Metric
    null: float
    is_above: bool


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Changed:
    """How much better the tuned network tells a concept in a layer than the start.

    Attributes:
        concept, layer: of it.
        r2: held-out R2 of the tuned network less that of the start, over the same draws of groups.
        finding: "better", "worse" or why neither, after Holm over all concepts and layers.
    """

    concept: str
    layer: str
    r2: Metric
    finding: str


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MapWorth:
    """What maps of a layer of the tuned network are worth on a sample.

    All is in how much lower the probability is, on average over the order, as the highest places are blanked
    first; picture by picture, and after Holm over all layers.

    Attributes:
        random: than in random order, the mean of its draws.
        anew: than by maps of networks with weights drawn anew, the draw that comes nearest.
        darkness: than as the darkest places are blanked first.
        draws: how much lower than in random order it is by maps of each network with weights drawn anew.
        left: rank correlation with the maps of networks without their weights, the mean of draws.
        is_unchanged: whether that is so high that maps do not show what was learnt.
        pictures, groups: of the sample.
        rows: all that was measured, by source.
    """

    random: Difference
    anew: Difference
    darkness: Difference
    draws: tuple[float, ...]
    left: Metric
    is_unchanged: bool
    pictures: int
    groups: int
    rows: tuple[Mapping[str, Any], ...]

    @property
    def is_above(self) -> bool:
        """Whether maps are shown to be better than random order and than weights drawn anew."""
        return finding_of(self.random) == finding_of(self.anew) == "better"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ReuseFound:
    """What was found; a part that failed is not there.

    Attributes:
        layers: that were asked for.
        alike: start and tuned.
        told: of every concept, layer and network.
        changed: of every concept and layer.
        concepts, constant: that vary, and that do not.
        channels: what the part of each layer has left.
        maps: of each layer.
        worths: of each layer.
        links: pages of the parts, relative to the study's.
        failed: name of a part, and why.
    """

    layers: tuple[str, ...]
    alike: Alike | None
    told: tuple[Told, ...]
    changed: tuple[Changed, ...]
    concepts: tuple[str, ...]
    constant: tuple[str, ...]
    channels: Mapping[str, Kept]
    maps: Mapping[str, Kept]
    worths: Mapping[str, MapWorth]
    links: Mapping[str, str]
    failed: Mapping[str, str]

    def above(self, network: str, layer: str) -> tuple[str, ...]:
        """Return the concepts that a layer tells above both nulls."""
        return tuple(
            one.concept
            for one in self.told
            if one.is_above and (one.network, one.layer) == (network, layer)
        )

    def cka(self, layer: str) -> Metric | None:
        """Return CKA of start and tuned, and its interval; None where it is not there."""
        if self.alike is None or layer not in self.alike.layers:
            return None
        k = self.alike.layers.index(layer)
        return Metric(
            value=float(self.alike.cka[k]),
            low=float(self.alike.low[k]),
            high=float(self.alike.high[k]),
        )


def found_of(study: Reuse, done: Done) -> ReuseFound:
    """Read what the parts have left.

    Raises:
        ModelError: a file of theirs was changed since.
    """
    jobs = study.jobs(done.runs)

    def read(job: Job) -> Kept | None:
        return None if job.name in done.failed else read_kept(job)

    def all_of(parts: Mapping[str, Job]) -> dict[str, Kept]:
        return {layer: kept for layer, job in parts.items() if (kept := read(job)) is not None}

    told, maps = read(jobs.concepts), all_of(jobs.maps)
    return ReuseFound(
        layers=study.chosen,
        alike=None
        if jobs.likeness.name in done.failed
        else read_likeness(jobs.likeness)[START_AND_END],
        told=() if told is None else tuple(map(_told, told.numbers["rows"])),
        changed=() if told is None else tuple(map(_changed, told.numbers["changed"])),
        concepts=() if told is None else tuple(told.numbers["concepts"]),
        constant=() if told is None else tuple(told.numbers["constant"]),
        channels=all_of(jobs.channels),
        maps=maps,
        worths=worths_of({layer: kept.numbers for layer, kept in maps.items()}, seed=study.seed),
        links={
            what: link
            for what, job in jobs
            if job.name not in done.failed and (link := _link(job, Path(study.setting.out)))
        },
        failed=dict(done.failed),
    )


def _link(job: Job, out: Path) -> str:
    """Return where a part's own page is; "" where it has none, or none that a page can name."""
    assert job.folder is not None
    page = job.folder / "index.html"
    if not page.exists():
        return ""
    path = os.path.relpath(page, out)
    return quote(path) if not Path(path).is_absolute() else ""


def _told(row: Mapping[str, Any]) -> Told:
    highest = [row[name] for name in ("random_high", "shuffled_high") if row[name] is not None]
    return Told(
        concept=row["concept"],
        layer=row["layer"],
        network=row["network"],
        r2=metric_of({"value": row["r2"], "low": row["low"], "high": row["high"]}),
        null=max(highest),
        is_above=row["above"] == "yes",
    )


def _changed(row: Mapping[str, Any]) -> Changed:
    return Changed(
        concept=row["concept"],
        layer=row["layer"],
        r2=metric_of({"value": row["r2"], "low": row["r2_low"], "high": row["r2_high"]}),
        finding=row["r2_finding"],
    )


_AGAINST = {"random": cam.RANDOM, "anew": cam.null_of(NAME), "darkness": cam.DARKNESS}


def worths_of(of_layers: Mapping[str, Mapping[str, Any]], *, seed: int) -> dict[str, MapWorth]:
    """Hold the maps of every layer against what else there is, all layers told together."""
    if not of_layers:
        return {}
    values = {
        layer: {
            name: np.array(draws, np.float64)  # None is NaN
            for name, draws in numbers["deletion"].items()
        }
        for layer, numbers in of_layers.items()
    }
    first, *others = (numbers["groups"] for numbers in of_layers.values())
    assert all(groups == first for groups in others), "all layers are measured on one sample"
    differences = paired_differences(
        {
            (layer, what): (-known[NAME][0], -_drawn(known, what))
            for layer, known in values.items()
            for what in _AGAINST
        },
        groups=first,
        seed=seed,
    )
    return {
        layer: MapWorth(
            **{what: differences[layer, what] for what in _AGAINST},
            draws=tuple((_drawn(known, "random") - known[_AGAINST["anew"]]).mean(axis=1).tolist()),
            left=metric_of(of_layers[layer]["left"]),
            is_unchanged=of_layers[layer]["is_unchanged"],
            pictures=len(first),
            groups=len(set(first)),
            rows=tuple(of_layers[layer]["rows"]),
        )
        for layer, known in values.items()
    }


def _drawn(known: Mapping[str, Values], what: str) -> Values:
    """Return (n,) or (draws, n) of what maps are held against; of random order the mean of its draws."""
    drawn = known[_AGAINST[what]]
    mean: Values = drawn.mean(axis=0)
    return mean if what == "random" else drawn
