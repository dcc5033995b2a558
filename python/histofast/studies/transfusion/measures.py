"""Finished runs of a study of transfusion in, what they are worth, how fast and how far they went out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histofast.classify import Run
from histofast.jobs import Job
from histofast.learning import (
    Difference,
    Metric,
    Reached,
    corrected_differences,
    corrected_interval,
    median_steps,
    speed_up,
)
from histofast.studies.filters import Filters, Moved, filters_moved, first_filters
from histofast.studies.likeness import read_likeness
from histofast.studies.pictures import Done
from histofast.studies.transfusion.plan import TransfusionPlan, Trial, Way

SHARE = 0.95  # of the median final value: the threshold, where none is told
RANDOM, PRETRAINED, MEAN_VAR = (Way(kind=kind) for kind in ("random", "pretrained", "mean-var"))

Values = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WayRow:
    """A way of beginning in one trial, over its splits.

    Attributes:
        trial, way: which.
        values: (n,) the study's metric of each split's test pictures; NaN of a run that failed.
        metric: mean of them with its corrected interval.
        second: the same of the second metric.
        gain, second_gain: less random weights on the same splits, after Holm over all rows of the study;
            None of random itself.
        reached: of each split, when the run got to the trial's threshold; None of a run that failed, or
            whose curve is undefined.
        steps: their median; None where there is none of them.
        speed: random's median over this one, paired by split; None of random and without pairs.
    """

    trial: Trial
    way: Way
    values: Values
    metric: Metric
    second: Metric
    gain: Difference | None
    second_gain: Difference | None
    reached: tuple[Reached | None, ...]
    steps: Metric | None
    speed: Metric | None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LikenessRow:
    """How alike two networks are at the layers of one comparison.

    Attributes:
        data, network, what: what was compared.
        layers: (k) of it.
        depths: (k,) share of the network's operations up to each.
        cka: (k,) debiased linear CKA, mean over splits with its corrected interval.
        cca: (k,) mean CCA by the published protocol, the same; NaN where pictures are too few for it.
        means: (splits,) mean CKA over layers; NaN of a split whose comparison failed.
        pictures: compared in each split, at least.
        n: splits.
    """

    data: str
    network: str
    what: str
    layers: tuple[str, ...]
    depths: Values
    cka: tuple[Metric, ...]
    cca: tuple[Metric, ...]
    means: Values
    pictures: int
    n: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FiltersRow:
    """Filters of the first convolution before and after, of one way on the largest training set.

    Attributes:
        trial, way: which.
        moved: of each split.
        before, after: filters of the first split that was trained, for a picture.
    """

    trial: Trial
    way: Way
    moved: tuple[Moved, ...]
    before: Filters
    after: Filters


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Measured:
    """All numbers of a study.

    Attributes:
        rows: of each way in each trial, random first in each.
        thresholds: of each trial; NaN where no run was there to take it from.
        likenesses, filters: what was compared on the largest training sets.
        metric, second: their names.
        curve: metric of validation pictures that steps are counted on.
    """

    rows: tuple[WayRow, ...]
    thresholds: Mapping[Trial, float]
    likenesses: tuple[LikenessRow, ...]
    filters: tuple[FiltersRow, ...]
    metric: str
    second: str
    curve: str

    def row(self, trial: Trial, way: Way) -> WayRow | None:
        """Return the row of a way in a trial, if it was asked."""
        return next((r for r in self.rows if (r.trial, r.way) == (trial, way)), None)

    def of(self, trial: Trial) -> list[WayRow]:
        """Return the rows of a trial."""
        return [row for row in self.rows if row.trial == trial]


def measure(study: TransfusionPlan, done: Done) -> Measured:
    """Measure everything.

    Raises:
        ModelError: files of a run that were changed since.
    """
    metric = study.setting.metric
    second = "auprc" if metric != "auprc" else "auroc"
    curve = study.threshold[0] if study.threshold is not None else metric
    values = {key: done.values(work, metric) for key, work in study.work.items()}
    others = {key: done.values(work, second) for key, work in study.work.items()}
    share = study.setting.test_share
    gains, second_gains = _gains(values, test_share=share), _gains(others, test_share=share)
    runs = {key: [done.run(job) for job in work] for key, work in study.work.items()}
    thresholds = {
        trial: _threshold(
            study, {way: found for (t, way), found in runs.items() if t == trial}, curve
        )
        for trial in study.trials
    }
    reached = {key: _reached(found, thresholds[key[0]], curve) for key, found in runs.items()}
    return Measured(
        rows=tuple(
            WayRow(
                trial=trial,
                way=way,
                values=values[trial, way],
                metric=corrected_interval(values[trial, way], test_share=share, of=metric),
                second=corrected_interval(others[trial, way], test_share=share, of=second),
                gain=gains.get((trial, way)),
                second_gain=second_gains.get((trial, way)),
                reached=reached[trial, way],
                steps=_median(reached[trial, way]),
                speed=None
                if way == RANDOM
                else faster(reached[trial, RANDOM], reached[trial, way]),
            )
            for trial, way in study.work
        ),
        thresholds=thresholds,
        likenesses=tuple(
            like
            for key, work in study.likenesses.items()
            if (like := _likeness(study, *key, work=work)) is not None
        ),
        filters=tuple(
            row
            for trial in study.largest
            for way in study.ways_of(trial.network)
            if (row := _filters(study, trial, way, runs[trial, way])) is not None
        ),
        metric=metric,
        second=second,
        curve=curve,
    )


def threshold_of(finals: Sequence[float], *, share: float = SHARE) -> float:
    """Return a share of the median of final values; NaN of none."""
    known = [value for value in finals if not math.isnan(value)]
    return share * float(np.median(known)) if known else math.nan


def faster(base: Sequence[Reached | None], other: Sequence[Reached | None]) -> Metric | None:
    """Return the ratio of median steps over the splits that both have; None where there are none."""
    pairs = [(a, b) for a, b in zip(base, other, strict=True) if a is not None and b is not None]
    if not pairs:
        return None
    return speed_up([a for a, _ in pairs], [b for _, b in pairs], paired=True)


def _gains(
    values: Mapping[tuple[Trial, Way], Values], *, test_share: float
) -> dict[tuple[Trial, Way], Difference]:
    pairs = {
        (trial, way): (of, values[trial, RANDOM])
        for (trial, way), of in values.items()
        if way != RANDOM
    }
    return corrected_differences(pairs, test_share=test_share)


def _threshold(
    study: TransfusionPlan, runs: Mapping[Way, Sequence[Run | None]], curve: str
) -> float:
    """Return a trial's threshold: that of the user, or by rule from validation pictures alone."""
    if study.threshold is not None:
        return study.threshold[1]
    return threshold_of(
        [
            float(run.log()[f"validation_{curve}"][-1])
            for way in (RANDOM, PRETRAINED)
            for run in runs.get(way, ())
            if run is not None
        ]
    )


def _reached(
    runs: Sequence[Run | None], threshold: float, curve: str
) -> tuple[Reached | None, ...]:
    if math.isnan(threshold):
        return (None,) * len(runs)
    return tuple(None if run is None else run.steps_to(threshold, metric=curve) for run in runs)


def _median(reached: Sequence[Reached | None]) -> Metric | None:
    known = [one for one in reached if one is not None]
    return median_steps(known) if known else None


def _likeness(
    study: TransfusionPlan, data: str, network: str, what: str, *, work: Sequence[Job]
) -> LikenessRow | None:
    each = [read_likeness(job).get(what) for job in work]
    found = [one for one in each if one is not None]
    if not found:
        return None
    layers = found[0].layers
    share = study.setting.test_share
    return LikenessRow(
        data=data,
        network=network,
        what=what,
        layers=layers,
        depths=np.array([study.depth(network, layer) for layer in layers]),
        cka=tuple(
            corrected_interval(of, test_share=share) for of in np.array([x.cka for x in found]).T
        ),
        cca=tuple(
            corrected_interval(of, test_share=share) for of in np.array([x.cca for x in found]).T
        ),
        means=np.array([np.nan if one is None else one.cka.mean() for one in each]),
        pictures=min(one.n for one in found),
        n=len(found),
    )


def _filters(
    study: TransfusionPlan, trial: Trial, way: Way, runs: Sequence[Run | None]
) -> FiltersRow | None:
    pairs = [
        (first_filters(study.asked(trial, way, split).begin()), first_filters(run.network()))
        for split, run in zip(study.setting.splits, runs, strict=True)
        if run is not None
    ]
    if not pairs:
        return None
    return FiltersRow(
        trial=trial,
        way=way,
        moved=tuple(filters_moved(before, after) for before, after in pairs),
        before=pairs[0][0],
        after=pairs[0][1],
    )
