"""Finished runs and comparisons of a study of drift in, its numbers out; no words.

Everything is told split by split, so that what is held against each other stays paired. A run that failed
leaves NaN.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histofast.classify import Run
from histofast.learning import (
    Correlation,
    Difference,
    Metric,
    corrected_differences,
    corrected_interval,
    correlate,
)
from histofast.similarity import PredictionAgreement, error_consistency, prediction_agreement
from histofast.studies.drift.study import Drift, Held, Likenesses, Trained, Way, Work
from histofast.studies.filters import Filters, filters_moved, first_filters
from histofast.studies.likeness import read_likeness
from histofast.studies.pictures import Done

MEASURES = ("CKA", "CCA")
LEAST_KERNEL_PX = 5  # a smaller filter is no picture

Values = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Alike:
    """How alike two networks are, layer by layer.

    Attributes:
        values: by measure, (n, k) of n splits and k layers.
        pictures, groups: of each split, and whose they are.
    """

    values: Mapping[str, Values]
    pictures: tuple[int, ...]
    groups: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Predictions:
    """How often two tuned networks are both right or both wrong on test pictures, (n,) of n splits.

    Attributes:
        observed: share of the pictures.
        independent: what classifiers of these two accuracies reach whose errors are independent.
        published: what the published code took for that: the accuracy of the first for both.
        kappa: of being right; NaN where it is undefined.
        beyond: observed less independent, adjusted with all others of the study.
    """

    data: str
    a: str
    b: str
    observed: Values
    independent: Values
    published: Values
    kappa: Values
    beyond: Difference


@dataclass(frozen=True, kw_only=True, slots=True)
class GainPoint:
    """A tuned network on one split: what its weights gained, and how alike it is to what it began as.

    Attributes:
        gain: metric less that of random weights, the mean of their seeds, over it.
        similar: by measure, of each layer.
    """

    data: str
    source: str
    split: int
    gain: float
    similar: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True, kw_only=True, slots=True)
class GainRow:
    """How gain and similarity go together over all points of a source, at one layer.

    `r_adjusted` has the interval that is adjusted for the number of rows of its measure.
    """

    source: str
    measure: str
    layer: str
    r: Correlation
    r_adjusted: Correlation


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FilterRow:
    """The first convolution before and after; of each split the median over its filters.

    Attributes:
        distance: (n,) of what was added, over the length before.
        cosine: (n,) of before and after.
        shown: before and after, of the first split whose run is there; None: of none.
    """

    data: str
    way: Way
    distance: Values
    cosine: Values
    shown: tuple[Filters, Filters] | None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DriftFound:
    """All numbers of a study of drift.

    Attributes:
        layers: that were compared; () if all comparisons failed.
        alike: by data set and what was held against what.
        worth: (n,) the metric of test pictures, by data set and way.
        against_random: worth less the mean of the random starts, tuned the same way, after Holm.
        head_first: head first less at once, after Holm.
        further: CKA of two tuned networks less CKA of their starts, by data set, pair and layer.
        kept: CKA of a tuned network with its own start less that with random weights.
        trained: the runs, by data set and way.
        failed: name and reason.
    """

    layers: tuple[str, ...]
    alike: Mapping[tuple[str, Held], Alike]
    worth: Mapping[tuple[str, Way], Values]
    against_random: Mapping[tuple[str, Way], Difference]
    head_first: Mapping[tuple[str, str], Difference]
    further: Mapping[tuple[str, Held, str], Difference]
    kept: Mapping[tuple[str, Held, str], Difference]
    predictions: tuple[Predictions, ...]
    points: tuple[GainPoint, ...]
    gain: tuple[GainRow, ...]
    filters: tuple[FilterRow, ...]
    trained: Work
    failed: Mapping[str, str]
    test_share: float

    def interval(self, values: Values, *, of: str | None = None) -> Metric:
        """Return the mean over splits and the corrected interval of the way of training.

        Of a metric, within its range.
        """
        return corrected_interval(values, test_share=self.test_share, of=of)

    def null(self, data: str, measure: str, k: int) -> tuple[float, float, float]:
        """Return mean, least and most of two random networks that were never trained, at layer k."""
        found = [
            alike.values[measure][:, k]
            for (of, held), alike in self.alike.items()
            if of == data and held.kind == "null"
        ]
        known = np.concatenate(found)
        known = known[~np.isnan(known)]
        if not len(known):
            return math.nan, math.nan, math.nan
        return float(known.mean()), float(known.min()), float(known.max())


def found_of(study: Drift, done: Done) -> DriftFound:
    """Measure what was done."""
    work = study.trained(done.runs)
    likenesses = study.likenesses(done.runs, work)
    layers, alike = _alike(likenesses)
    share = study.setting.test_share
    worth = {
        key: done.values([one.job for one in made], study.setting.metric)
        for key, made in work.items()
    }
    runs = {key: [done.run(one.job) for one in made] for key, made in work.items()}
    points = _points(study, worth, alike, layers)
    return DriftFound(
        layers=layers,
        alike=alike,
        worth=worth,
        against_random=corrected_differences(
            {
                (data, way): (values, random_mean(study, worth, data, way))
                for (data, way), values in worth.items()
                if way.start in study.source
            },
            test_share=share,
        ),
        head_first=corrected_differences(
            {
                (data, start): (
                    worth[data, Way(start=start, freeze="head-then-all")],
                    worth[data, Way(start=start, freeze="all")],
                )
                for data in study.setting.sets
                for start in study.begins
            },
            test_share=share,
        ),
        further=_differences(alike, layers, _ends_and_starts(alike), share),
        kept=_differences(alike, layers, _own_and_random(study, alike), share),
        predictions=_predictions(study, runs, share),
        points=points,
        gain=_gain(study, points, layers),
        filters=_filters(study, work, runs),
        trained=work,
        failed=done.failed,
        test_share=share,
    )


def random_mean(
    study: Drift, worth: Mapping[tuple[str, Way], Values], data: str, way: Way
) -> Values:
    """Return (n,) the mean metric of the random starts, tuned the same way on the same splits."""
    found = [worth[data, Way(start=name, freeze=way.freeze)] for name in study.randoms]
    mean: Values = np.mean(found, axis=0)
    return mean


# --- Layers --------------------------------------------------------------------------------------


def _alike(
    likenesses: Likenesses,
) -> tuple[tuple[str, ...], dict[tuple[str, Held], Alike]]:
    each = {job.name: job for jobs in likenesses.values() for job in jobs}
    read = {name: read_likeness(job) for name, job in each.items()}
    rows = {
        (data, held): [read[job.name].get(str(held)) for job in jobs]
        for (data, held), jobs in likenesses.items()
    }
    layers = next((one.layers for row in rows.values() for one in row if one is not None), ())
    blank = np.full(len(layers), np.nan)
    return layers, {
        key: Alike(
            values={
                "CKA": np.array([blank if one is None else one.cka for one in row]),
                "CCA": np.array([blank if one is None else one.cca for one in row]),
            },
            pictures=tuple(0 if one is None else one.n for one in row),
            groups=tuple(0 if one is None else one.groups for one in row),
        )
        for key, row in rows.items()
    }


Pairs = Mapping[tuple[str, Held], tuple[Alike, Alike]]


def _ends_and_starts(alike: Mapping[tuple[str, Held], Alike]) -> Pairs:
    return {
        (data, held): (found, alike[data, Held(kind="starts", a=held.a, b=held.b)])
        for (data, held), found in alike.items()
        if held.kind == "ends" and (data, Held(kind="starts", a=held.a, b=held.b)) in alike
    }


def _own_and_random(study: Drift, alike: Mapping[tuple[str, Held], Alike]) -> Pairs:
    return {
        (data, held): (
            found,
            next(
                other
                for (of, against), other in alike.items()
                if (of, against.kind, against.a) == (data, "random", held.a)
            ),
        )
        for (data, held), found in alike.items()
        if held.kind == "tuned" and held.freeze == "all" and held.a in study.source
    }


def _differences(
    alike: Mapping[tuple[str, Held], Alike], layers: Sequence[str], pairs: Pairs, share: float
) -> dict[tuple[str, Held, str], Difference]:
    """Return differences of CKA, all of them one family."""
    return corrected_differences(
        {
            (data, held, layer): (one.values["CKA"][:, k], other.values["CKA"][:, k])
            for (data, held), (one, other) in pairs.items()
            for k, layer in enumerate(layers)
        },
        test_share=share,
    )


# --- Predictions ---------------------------------------------------------------------------------


def independent_as_published(found: PredictionAgreement) -> float:
    """Return what the published code took for independent errors: the accuracy of the first, twice."""
    return found.accuracy_a**2 + (1 - found.accuracy_a) ** 2


def _predictions(
    study: Drift, runs: Mapping[tuple[str, Way], Sequence[Run | None]], share: float
) -> tuple[Predictions, ...]:
    found: dict[tuple[str, str, str], list[tuple[float, ...]]] = {}
    for data in study.setting.sets:
        for a, b in itertools.combinations(study.begins, 2):
            pair = (runs[data, Way(start=name, freeze="all")] for name in (a, b))
            found[data, a, b] = [_agreement(one, other) for one, other in zip(*pair, strict=True)]
    columns = {key: np.array(rows, np.float64).T for key, rows in found.items()}
    beyond = corrected_differences(
        {key: (observed, chance) for key, (observed, chance, _, _) in columns.items()},
        test_share=share,
    )
    return tuple(
        Predictions(
            data=key[0],
            a=key[1],
            b=key[2],
            observed=observed,
            independent=chance,
            published=published,
            kappa=kappa,
            beyond=beyond[key],
        )
        for key, (observed, chance, published, kappa) in columns.items()
    )


def _agreement(a: Run | None, b: Run | None) -> tuple[float, ...]:
    """Return observed, independent, as published and kappa of two runs on their test pictures."""
    if a is None or b is None:
        return (math.nan,) * 4
    told_a, told_b = a.predictions(), b.predictions()
    rows = [i for i in a.fold.test if a.names[i] in told_a and a.names[i] in told_b]
    one, other = (np.stack([told[a.names[i]] for i in rows]) for told in (told_a, told_b))
    found = prediction_agreement(one, other, a.targets[rows])
    try:
        kappa = error_consistency(one, other, a.targets[rows])
    except ValueError:  # both always right, or both always wrong
        kappa = math.nan
    return found.observed, found.chance, independent_as_published(found), kappa


# --- Gain against similarity ---------------------------------------------------------------------


def _points(
    study: Drift,
    worth: Mapping[tuple[str, Way], Values],
    alike: Mapping[tuple[str, Held], Alike],
    layers: Sequence[str],
) -> tuple[GainPoint, ...]:
    found = []
    for data in study.setting.sets:
        for source in study.source:
            way = Way(start=source, freeze="all")
            base = random_mean(study, worth, data, way)
            with np.errstate(divide="ignore", invalid="ignore"):
                gain = np.where(base > 0, (worth[data, way] - base) / base, np.nan)
            own = alike[data, Held(kind="tuned", a=source, b=source)]
            found += [
                GainPoint(
                    data=data,
                    source=source,
                    split=i,
                    gain=float(value),
                    similar={m: tuple(own.values[m][i].tolist()) for m in MEASURES},
                )
                for i, value in enumerate(gain)
            ]
    return tuple(found)


def _gain(study: Drift, points: Sequence[GainPoint], layers: Sequence[str]) -> tuple[GainRow, ...]:
    rows = []
    for source in study.source:
        of_source = [point for point in points if point.source == source]
        for measure, (k, layer) in itertools.product(MEASURES, enumerate(layers)):
            similar = [point.similar[measure][k] for point in of_source]
            gain = [point.gain for point in of_source]
            groups = [point.data for point in of_source]
            comparisons = len(study.source) * len(layers)
            rows.append(
                GainRow(
                    source=source,
                    measure=measure,
                    layer=layer,
                    r=correlate(similar, gain, groups=groups),
                    r_adjusted=correlate(
                        similar, gain, groups=groups, confidence=1 - 0.05 / comparisons
                    ),
                )
            )
    return tuple(rows)


# --- First filters -------------------------------------------------------------------------------


def _filters(
    study: Drift, work: Work, runs: Mapping[tuple[str, Way], Sequence[Run | None]]
) -> tuple[FilterRow, ...]:
    rows = []
    begun: dict[tuple[str, int], Filters] = {}

    def before(way: Way, one: Trained) -> Filters:
        key = way.start, one.split.seed  # of what a start draws, the seed of the run decides
        if key not in begun:
            begun[key] = first_filters(one.asked.begin())
        return begun[key]

    for (data, way), made in work.items():
        pairs = [
            None if run is None else (before(way, one), first_filters(run.network()))
            for one, run in zip(made, runs[data, way], strict=True)
        ]
        medians = [(math.nan, math.nan) if pair is None else _medians(*pair) for pair in pairs]
        distance, cosine = np.array(medians, np.float64).T
        rows.append(
            FilterRow(
                data=data,
                way=way,
                distance=distance,
                cosine=cosine,
                shown=next((pair for pair in pairs if pair is not None), None),
            )
        )
    return tuple(rows)


def _medians(before: Filters, after: Filters) -> tuple[float, float]:
    found = filters_moved(before, after)
    return float(np.nanmedian(found.distance)), float(np.nanmedian(found.cosine))
