"""What a study of drift found, in words: fixed rules, so that equal numbers give equal sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from histofast._words import count, joined, listed
from histofast.learning import LEAST_GROUPS, Difference
from histofast.report import interval, number, signed
from histofast.studies.drift.found import MEASURES, DriftFound, GainRow
from histofast.studies.drift.study import NULL_SEEDS, Drift, Way

_FEW_SPLITS = 5  # an interval over fewer is rough
_NAMED = 4  # of a list in a sentence


def describe_drift(study: Drift, found: DriftFound) -> tuple[str, ...]:
    """Return what a study found, as sentences; each published claim is one that may fail to show."""
    return (
        *_failed(found),
        *_worth(study, found),
        *_kept(found),
        *_further(found),
        *_predictions(study, found),
        *_gain(found),
        *_head_first(found),
    )


def limits_of(study: Drift, found: DriftFound) -> tuple[str, ...]:
    """Return what must not be concluded."""
    n = len(study.setting.splits)
    said = []
    if n < _FEW_SPLITS:
        said.append(
            f"Every interval is over {count(n, 'split')}: with fewer than {_FEW_SPLITS} they are so wide that most "
            "that there is cannot show. More folds or repeats narrow them."
        )
    said += [
        (
            f"Random weights were trained with {count(study.random_seeds, 'seed')}: their mean is what gains are held "
            f"against, and their spread is not known. A null of random networks wants {NULL_SEEDS}; those never trained "
            f"have {NULL_SEEDS} and are shown with their range."
        ),
        (
            "Similarity says whether two networks hold the same distinctions between pictures, not whether these are "
            "of use. That predictions agree does not say that they rest on the same grounds."
        ),
        (
            "A relative gain is over random weights of the same epochs. With few epochs random weights are far from "
            "their best, and the gain says how fast, not how well, a network learns."
        ),
    ]
    sets = len(study.setting.sets)
    if sets < LEAST_GROUPS:
        said.append(
            f"Gain against similarity stands on {count(sets, 'data set')}. Splits of one set share pictures and are "
            f"no independent points: under {LEAST_GROUPS} sets r has no interval that can be relied on."
        )
    blind = [layer for k, layer in enumerate(found.layers) if _is_blind(found, k)]
    if blind:
        said.append(
            f"CCA by the published protocol is missing at {joined(blind)}: maps of few places need more test "
            "pictures than there are for its 10,000 rows. CKA has all layers."
        )
    return tuple(said)


def _is_blind(found: DriftFound, k: int) -> bool:
    return all(np.isnan(alike.values["CCA"][:, k]).all() for alike in found.alike.values())


def basis_of(study: Drift, found: DriftFound) -> str:
    """Return on what it was measured."""
    sets = joined(list(study.setting.sets))
    shown = max((n for alike in found.alike.values() for n in alike.pictures), default=0)
    return (
        f"{study.network} on {sets}: {count(len(study.setting.splits), 'split')}, {count(len(study.begins), 'start')}, "
        f"layers compared on up to {count(shown, 'test picture')} of each split"
    )


# --- Sentences -----------------------------------------------------------------------------------


def _failed(found: DriftFound) -> list[str]:
    if not found.failed:
        return []
    names = listed(list(found.failed), most=_NAMED)
    return [
        f"{count(len(found.failed), 'job')} failed and {'is' if len(found.failed) == 1 else 'are'} missing below: {names}."
    ]


def _difference(found: Difference) -> str:
    if math.isnan(found.low_adjusted + found.high_adjusted):
        return f"{signed(found.value)}, without an interval"
    return f"{signed(found.value)}, {signed(found.low_adjusted)} to {signed(found.high_adjusted)} after Holm"


def _worth(study: Drift, found: DriftFound) -> list[str]:
    metric, said = study.setting.metric, []
    for (data, way), versus in found.against_random.items():
        if way.freeze != "all":
            continue
        verdict = "is shown" if versus.is_shown else "is not shown"
        what = "gain" if versus.value >= 0 else "loss"
        said.append(
            f"{data}: a {what} in {metric} of {way.start} over random weights {verdict} ({_difference(versus)}, "
            f"n {versus.n})."
        )
    return said


def _by_pair(
    told: dict[str, list[tuple[str, Difference]]],
) -> dict[str, tuple[list[str], list[str], int]]:
    """Return layers where a difference is shown above 0, where below, and of how many."""
    return {
        name: (
            [layer for layer, versus in row if versus.is_shown and versus.value > 0],
            [layer for layer, versus in row if versus.is_shown and versus.value < 0],
            len(row),
        )
        for name, row in told.items()
    }


def _kept(found: DriftFound) -> list[str]:
    told: dict[str, list[tuple[str, Difference]]] = {}
    for (data, held, layer), versus in found.kept.items():
        told.setdefault(f"{data}: {held.a}", []).append((layer, versus))
    said = []
    for name, (more, _, n) in _by_pair(told).items():
        where = f"is shown at {joined(more)}" if more else "is shown at no layer"
        said.append(
            f"{name}, tuned: that more of its own start than of random weights is left {where} (CKA, {n} layers)."
        )
    return said


def _further(found: DriftFound) -> list[str]:
    told: dict[str, list[tuple[str, Difference]]] = {}
    for (data, held, layer), versus in found.further.items():
        if not held.b.startswith("random:"):
            told.setdefault(f"{data}: {held.a} and {held.b}", []).append((layer, versus))
    said = []
    for name, (closer, apart, n) in _by_pair(told).items():
        parts = [
            *([f"further apart at {joined(apart)}"] if apart else []),
            *([f"closer at {joined(closer)}"] if closer else []),
        ]
        if parts:
            said.append(f"{name}: fine-tuning took them {' and '.join(parts)} (CKA, {n} layers).")
        else:
            said.append(
                f"{name}: that fine-tuning takes them further apart, as was published, is not shown at any of {n} layers."
            )
    return said


def _predictions(study: Drift, found: DriftFound) -> list[str]:
    told = set(study.source) if len(study.source) > 1 else {*study.source, study.randoms[0]}
    said = []
    for row in found.predictions:
        if not {row.a, row.b} <= told or np.isnan(row.observed).all():
            continue
        observed, chance, wrong = (
            float(np.nanmean(v)) for v in (row.observed, row.independent, row.published)
        )
        verdict = (
            "they agree more often than independent errors would"
            if row.beyond.is_shown and row.beyond.value > 0
            else "they agree less often than independent errors would"
            if row.beyond.is_shown
            else "agreement beyond independent errors is not shown"
        )
        said.append(
            f"{row.data}: {row.a} and {row.b}, tuned, are both right or both wrong on {number(observed)} of the "
            f"pictures, independent errors of their accuracies give {number(chance)}: {verdict} "
            f"({_difference(row.beyond)}). The published code's baseline, the accuracy of the first twice, would be "
            f"{number(wrong)}."
        )
    return said


def gain_word(row: GainRow) -> str:
    """Return what a correlation says."""
    if math.isnan(row.r.r):
        return "undefined"
    if row.r.groups < LEAST_GROUPS:
        return f"not told from {count(row.r.groups, 'set')}"
    if row.r_adjusted.is_shown:
        return "shown"
    return "not shown"


def _gain(found: DriftFound) -> list[str]:
    said = []
    for source in dict.fromkeys(row.source for row in found.gain):
        rows = [r for r in found.gain if (r.source, r.measure) == (source, MEASURES[0])]
        known = [row.r.r for row in rows if not math.isnan(row.r.r)]
        if not known:
            said.append(
                f"{source}: gain against similarity is undefined: there are under 3 points, or one of them does not vary."
            )
            continue
        n, sets = rows[0].r.n, rows[0].r.groups
        shown = [row.layer for row in rows if gain_word(row) == "shown"]
        between = f"r between {number(min(known))} and {number(max(known))} over the layers"
        points = f"{count(n, 'point')} of {count(sets, 'data set')}"
        if sets < LEAST_GROUPS:
            verdict = f"too few sets to say that gain goes with similarity, or does not ({LEAST_GROUPS} are needed)"
        elif shown:
            verdict = f"shown at {joined(shown)}"
        else:
            verdict = "that gain goes with similarity is not shown at any layer"
        said.append(
            f"{source}: relative gain against CKA of start and tuned, {between}, {points}: {verdict}."
        )
    return said


def _head_first(found: DriftFound) -> list[str]:
    shown = [
        f"{start} on {data} ({_difference(versus)})"
        for (data, start), versus in found.head_first.items()
        if versus.is_shown
    ]
    n = len(found.head_first)
    if shown:
        return [
            f"Training the head first changes the outcome of {joined(shown)}; of {n} comparisons."
        ]
    return [
        f"That training the head first is better or worse than all layers at once is not shown in any of {n} comparisons."
    ]


def published_words(rows: Sequence[tuple[str, str, float, float, float]]) -> str:
    """Return what the published points say when data sets are drawn again: rows of source, layer, r, low, high."""
    shown = [
        f"{source} {layer} ({interval(low, high)})"
        for source, layer, _, low, high in rows
        if low > 0 or high < 0
    ]
    said = (
        f"shown without adjustment at {joined(shown)} only" if shown else "not shown at any layer"
    )
    return f"The published points are 7 data sets of 5 folds. With whole data sets drawn again, r is {said}."


def way_words(way: Way) -> str:
    """Return how a network was made."""
    return "head first, then all" if way.freeze == "head-then-all" else "all at once"
