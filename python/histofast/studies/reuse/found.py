"""What the parts of the study have found, layer by layer."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from histofast.comparison import Alike
from histofast.jobs import Job
from histofast.learning import Metric
from histofast.studies.likeness import START_AND_END, read_likeness
from histofast.studies.pictures import Done
from histofast.studies.reuse.kept import Kept, metric_of, read_kept
from histofast.studies.reuse.parts import START, TUNED
from histofast.studies.reuse.study import Reuse

NETWORKS = (START, TUNED)


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
class MapWorth:
    """What maps of a layer of the tuned network are worth on a sample.

    Attributes:
        less, null: how much lower than in random order the probability is as their highest places are blanked
            first, on average over the order; of the maps, and of those of the network with weights drawn anew.
        left: rank correlation with the maps of the network without its weights.
        is_unchanged: whether that is so high that maps do not show what was learnt.
        pictures, groups: of the sample.
        rows: all that was measured, by source.
    """

    less: Metric
    null: Metric
    left: Metric
    is_unchanged: bool
    pictures: int
    groups: int
    rows: tuple[Mapping[str, Any], ...]

    @property
    def is_above(self) -> bool:
        """Whether the whole interval lies above 0 and above that of the null."""
        if math.isnan(self.less.low) or math.isnan(self.null.high):
            return False
        return self.less.low > max(0.0, self.null.high)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ReuseFound:
    """What was found; a part that failed is not there.

    Attributes:
        layers: that were asked for.
        alike: start and tuned.
        told: of every concept, layer and network.
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
        concepts=() if told is None else tuple(told.numbers["concepts"]),
        constant=() if told is None else tuple(told.numbers["constant"]),
        channels=all_of(jobs.channels),
        maps=maps,
        worths={layer: _worth(kept.numbers) for layer, kept in maps.items()},
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


def _worth(numbers: Mapping[str, Any]) -> MapWorth:
    rows = numbers["worths"]
    own = next(row for row in rows if not row["is_null"])
    # The null of a method is told right after it.
    null = rows[rows.index(own) + 1]
    return MapWorth(
        less=metric_of(own["less"]),
        null=metric_of(null["less"]),
        left=metric_of(numbers["left"]),
        is_unchanged=numbers["is_unchanged"],
        pictures=numbers["pictures"],
        groups=numbers["groups"],
        rows=tuple(rows),
    )
