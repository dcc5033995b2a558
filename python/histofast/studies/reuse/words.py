"""What was found of reuse, in sentences by fixed rules; the same numbers give the same sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator

from histofast._words import count, joined
from histofast.learning import Metric
from histofast.report import after_holm, finding_of, interval, number, signed
from histofast.studies.reuse.found import NETWORKS, MapWorth, ReuseFound, Told
from histofast.studies.reuse.parts import START
from histofast.studies.reuse.study import Reuse

_NAMED = 6  # of a sentence


def describe_reuse(found: ReuseFound) -> tuple[str, ...]:
    """Return what the numbers say: what changed, concepts, maps, channels, and what is not there."""
    return (
        *_changed(found),
        *_concepts(found),
        *_maps(found),
        *_channels(found),
        *_failed(found),
    )


def with_interval(metric: Metric) -> str:
    """Return a value and its interval in words."""
    if math.isnan(metric.low + metric.high):
        return number(metric.value)
    return f"{number(metric.value)} ({interval(metric.low, metric.high)})"


def _changed(found: ReuseFound) -> Iterator[str]:
    all_of = {layer: cka for layer in found.layers if (cka := found.cka(layer)) is not None}
    known = {layer: cka for layer, cka in all_of.items() if not math.isnan(cka.value)}
    if not known:
        return
    each = [f"{with_interval(cka)} in {layer}" for layer, cka in known.items()]
    yield f"CKA of start and tuned, 1 where fine-tuning changed nothing, is {joined(each)}."
    if len(known) > 1:
        lowest = min(known, key=lambda layer: known[layer].value)
        yield (
            f"It is the lowest in {lowest}. Each interval is of its own layer: whether one layer changed more than "
            "another is not tested."
        )


def _concepts(found: ReuseFound) -> Iterator[str]:
    if not found.told:
        return
    of = count(len(found.concepts), "concept")
    for network in NETWORKS:
        above = {layer: found.above(network, layer) for layer in found.layers}
        if not any(above.values()):
            yield f"{_named(network)}: no layer tells any of {of} above both nulls."
            continue
        each = [f"{len(names)} in {layer}" for layer, names in above.items()]
        yield f"{_named(network)}: of {of}, {joined(each)} are told above both nulls."
        ever = {name for names in above.values() for name in names}
        never = [name for name in found.concepts if name not in ever]
        if never:
            yield f"{_named(network)}: {_spelt(never)} in no layer."
    yield from _gained_and_lost(found)
    best = max((one for one in found.told if one.is_above), key=_margin, default=None)
    if best is not None:
        yield (
            f"Furthest above its nulls, of {len(found.told):,} values, is {_spelt([best.concept])} in {best.layer} of the "
            f"{best.network} network: held-out R2 {with_interval(best.r2)}, where the nulls reach {number(best.null)}."
        )
    if found.constant:
        yield f"Not regressed, for all pictures have one value: {_spelt(found.constant)}."


def _gained_and_lost(found: ReuseFound) -> Iterator[str]:
    """Name what the tuned network tells better or worse, by differences over the same draws of groups."""
    whole = count(len(found.changed), "comparison")
    for verdict in ("better", "worse"):
        names = [
            f"{_spelt([one.concept])} in {one.layer} (R2 {signed_interval(one.r2)})"
            for one in found.changed
            if one.finding == verdict
        ]
        if names:
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            yield (
                f"The tuned network is shown to tell {verdict} than the start, of {whole} after Holm: "
                f"{joined(names[:_NAMED])}{more}."
            )
    if not any(one.finding in ("better", "worse") for one in found.changed):
        yield f"That the tuned network tells any concept better or worse than the start is not shown in {whole}."


def signed_interval(metric: Metric) -> str:
    """Return a difference and its own interval in words."""
    if math.isnan(metric.low + metric.high):
        return signed(metric.value)
    return f"{signed(metric.value)}, {signed(metric.low)} to {signed(metric.high)}"


def _margin(one: Told) -> float:
    return one.r2.value - one.null


def _maps(found: ReuseFound) -> Iterator[str]:
    if not found.worths:
        return
    above = {layer: worth for layer, worth in found.worths.items() if worth.is_above}
    others = {layer: worth for layer, worth in found.worths.items() if layer not in above}
    for layer, worth in above.items():
        yield (
            f"Maps of {layer} find what the tuned network goes by: as their highest places are blanked first the "
            f"probability falls further, by {after_holm(worth.random)}, than in random order, and by "
            f"{after_holm(worth.anew)}, than by {_nearest(worth)}."
        )
    if others:
        each = [
            f"{layer} ({after_holm(worth.random)} less random order; {after_holm(worth.anew)} less drawn anew)"
            for layer, worth in others.items()
        ]
        yield (
            f"Not shown to be better than both random order and {_nearest(next(iter(others.values())))}, by how far the "
            f"probability falls as the highest places are blanked first: maps of {joined(each)}."
        )
    yield from _darkness(found)
    unchanged = [layer for layer, worth in found.worths.items() if worth.is_unchanged]
    if unchanged:
        yield (
            f"Maps of {joined(unchanged)} hardly depend on what was learnt: those of networks without their weights "
            "order the places of a picture alike."
        )


def _nearest(worth: MapWorth) -> str:
    n = len(worth.draws)
    return f"the nearest of {n} networks with weights drawn anew" if n > 1 else "weights drawn anew"


def _darkness(found: ReuseFound) -> Iterator[str]:
    """Say whether maps do more than point at what is dark."""
    words = {
        "better": "better than",
        "worse": "worse than",
        "not shown": "not told from",
        "no interval": "without an interval against",
    }
    for verdict, told in words.items():
        each = [
            f"{layer} ({after_holm(worth.darkness)})"
            for layer, worth in found.worths.items()
            if finding_of(worth.darkness) == verdict
        ]
        if each:
            yield f"Maps {told} the plain darkness of places, by the same score: those of {joined(each)}."


def _channels(found: ReuseFound) -> Iterator[str]:
    if not found.channels:
        return
    r = {
        layer: metric_told
        for layer, kept in found.channels.items()
        if (metric_told := kept.numbers["together"])["value"] is not None
    }
    if r:
        each = [f"{number(told['value'])} in {layer}" for layer, told in r.items()]
        yield (
            f"Over the same pictures, channels of one number in start and tuned go together with a median r of "
            f"{joined(each)}."
        )
    dead = {layer: kept.numbers for layer, kept in found.channels.items()}
    all_of = sum(numbers["channels"] for numbers in dead.values())
    before, after = (sum(numbers["dead"][k] for numbers in dead.values()) for k in (0, 1))
    if before or after:
        yield f"Of {all_of:,} channels {before:,} are dead at the start, and {after:,} after tuning."
    else:
        yield f"None of {all_of:,} channels is dead, at the start or after tuning."


def _failed(found: ReuseFound) -> Iterator[str]:
    if found.failed:
        yield f"Not here, for they failed: {joined(list(found.failed))}. The table at the end says why."


def _named(network: str) -> str:
    return "At the start" if network == START else "After tuning"


def _spelt(names: list[str] | tuple[str, ...]) -> str:
    return joined([name.replace("_", " ") for name in names])


def limits_of(study: Reuse, found: ReuseFound) -> tuple[str, ...]:
    """Return what must not be concluded."""
    said = [
        (
            "This is one start and one run that was tuned from it. What tuning does in general, with other seeds and "
            "pictures, needs several: study drift."
        ),
        (
            "That a layer tells a concept does not say that the network uses it. Concepts are measured of the same "
            "pixels, and some of them go together."
        ),
        (
            f"Each of {len(found.told):,} values of R2 is held against its own nulls; that some of so many are above by "
            "chance is not corrected for."
        ),
        (
            "The channels shown are taken evenly from all, not chosen for what they show. Pictures found are not tissue: "
            "read them beside the real ones only."
        ),
        (
            "Maps are of the tuned network, for the class that it gives most; the start has no classes. Blanked pictures "
            "are unlike any that it was trained on."
        ),
        (
            "CKA says how alike all pictures lie to each other in a layer, not what for; it is of whole maps, R2 of "
            "their means."
        ),
        (
            "Intervals are over groups for these two networks: other groups to regress on, or another run, would move the "
            "values too."
        ),
    ]
    if study.with_trained and study.trained:
        said.append(
            f"{study.trained:,} of the {len(study.opened):,} pictures there are to draw from trained the tuned "
            "network: what it shows of those need not hold for others."
        )
    if study.opened.group_kind == "image":
        said.append(
            "Neither patients nor slides are told: intervals, folds and shuffles are of single pictures, and too "
            "good where pictures come from one slide."
        )
    return tuple(said)


def basis_of(study: Reuse, found: ReuseFound) -> str:
    """Return what it was measured on."""
    images = study.given.images
    kind = images.group_kind
    groups = "" if kind == "image" else f" of {count(len(set(images.groups)), kind)}"
    left = ""
    if study.trained and not study.with_trained:
        left = f"; {study.trained:,} that trained the tuned network are left out"
    return (
        f"{study.given.network}, {count(len(found.layers), 'layer')}; "
        f"{count(len(images), 'picture')}{groups} drawn from {len(study.opened):,}{left}"
    )
