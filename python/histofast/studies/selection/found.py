"""What became of the parts, measured: each way to come to patches, and differences between ways."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histofast.jobs import Job
from histofast.learning import (
    Difference,
    Metric,
    corrected_differences,
    corrected_interval,
    differences,
    metrics,
    metrics_of_models,
    wider,
)
from histofast.mil import open_run
from histofast.studies.pictures import Done
from histofast.studies.selection.parts import RUN, kept_of, speeds_of
from histofast.studies.selection.study import (
    ATTENTION,
    CHEAP,
    RANDOM,
    WHOLE,
    Arm,
    SelectionStudy,
)
from histofast.studies.setting import CHANCE_OF, CONFIDENCE, METRIC_OF, TITLE_OF

_NONE = Metric(value=math.nan, low=math.nan, high=math.nan)
Predicted = Sequence[
    NDArray[np.float64] | None
]  # of the tested slides of each part; None: it failed


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Row:
    """A way to come to patches, and what models are worth on them.

    Attributes:
        arm: the way.
        method: the metric, mean over folds and repeats, with the interval of this way of making models.
        patients: of these very models, ranks compared within each, with the interval over patients.
        patches: of the expensive encoder, of all slides, mean over parts; of `cheap` those of the cheap one.
        share: of all patches; 1 where all are encoded.
        hours: that both encoders take for all slides; None: not timed.
        parts: folds and repeats that are there.
    """

    arm: Arm
    method: Metric
    patients: Metric
    patches: float
    share: float
    hours: float | None
    parts: int

    @property
    def interval(self) -> Metric:
        """The wider of the two intervals, which is what a sentence may claim."""
        return wider(self.method, self.patients)


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """One way less another, on the same folds and seeds.

    Attributes:
        one, other: the ways.
        difference: of the ways of making models, told together with all others, after Holm.
        patients: of these very models, with the interval over patients.
    """

    one: Arm
    other: Arm
    difference: Difference
    patients: Metric


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SelectionFound:
    """All that was found.

    Attributes:
        rows: of all ways, the cheapest first.
        compared: each share's attention with all patches, and with random ones.
        metric, chance: title of the metric, and what guessing gets.
        slides, patients, unit: what it was measured on.
        patches: of all slides, those of the expensive encoder and of the cheap one.
        speeds: patches per second of both encoders; {}: not timed.
        tolerance: how much less counts as about as good.
        failed: names and reasons of parts that failed.
    """

    rows: tuple[Row, ...]
    compared: tuple[Compared, ...]
    metric: str
    chance: float
    slides: int
    patients: int
    unit: str
    patches: tuple[int, int]
    speeds: Mapping[str, float]
    tolerance: float
    failed: Mapping[str, str]

    def row(self, arm: Arm) -> Row:
        """Return that of a way."""
        return next(row for row in self.rows if row.arm == arm)

    def against(self, keep: float, way: str) -> Compared:
        """Return how attention at a share compares with all patches, or with random ones."""
        return next(
            each for each in self.compared if (each.one.keep, each.other.way) == (keep, way)
        )

    @property
    def enough(self) -> Compared | None:
        """The smallest share that is shown to lose less than the tolerance to all patches; None: none is."""
        for each in self.compared:
            one = each.difference
            is_worse = one.is_shown and one.value < 0
            if each.other.way == WHOLE and one.low > -self.tolerance and not is_worse:
                return each
        return None


def found_of(study: SelectionStudy, done: Done) -> SelectionFound:
    """Measure what was done.

    Raises:
        ModelError: a part whose files were changed since.
    """
    jobs = study.jobs(done.runs)
    predicted = {arm: _predicted(study, done, work) for arm, work in jobs.items()}
    timed = study.speed(done.runs)
    speeds: dict[str, float] = {}
    if timed is not None and timed.name not in done.failed:
        speeds = speeds_of(_folder(timed))
    bags = study.bags[WHOLE]
    rows = tuple(_row(study, arm, jobs[arm], predicted[arm], done, speeds) for arm in study.arms)
    tested = sorted({int(row) for part in study.parts for row in part.fold.test})
    return SelectionFound(
        rows=rows,
        compared=_compared(study, predicted),
        metric=TITLE_OF[METRIC_OF[study.task]],
        chance=CHANCE_OF[METRIC_OF[study.task]],
        slides=len(tested),
        patients=len(set(bags.part(tested).groups)),
        unit=bags.unit,
        patches=(int(bags.sizes.sum()), int(study.bags[CHEAP].sizes.sum())),
        speeds=speeds,
        tolerance=study.tolerance,
        failed=done.failed,
    )


def _folder(job: Job) -> Path:
    assert job.folder is not None
    return job.folder


def _predicted(study: SelectionStudy, done: Done, work: Sequence[Job]) -> Predicted:
    """Return what each model says of the slides that it has not seen."""
    found: list[NDArray[np.float64] | None] = []
    for part, job in zip(study.parts, work, strict=True):
        if job.name in done.failed:
            found.append(None)
            continue
        told = open_run(_folder(job) / RUN).predictions()
        names = study.bags[WHOLE].names
        found.append(np.stack([told[names[row]] for row in part.fold.test]))
    return found


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Stacked:
    """Some parts as rows: targets, groups, and which model scored each."""

    rows: NDArray[np.int64]
    models: list[int]


def _stacked(study: SelectionStudy, parts: Sequence[int]) -> _Stacked:
    tests = [study.parts[i].fold.test for i in parts]
    models = [k for k, test in enumerate(tests) for _ in test]
    return _Stacked(rows=np.concatenate(tests), models=models)


def _values(study: SelectionStudy, predicted: Predicted) -> NDArray[np.float64]:
    """Return the metric of each part; NaN of those that failed."""
    values = np.full(len(study.parts), np.nan)
    there = [i for i, each in enumerate(predicted) if each is not None]
    if there:
        stacked = _stacked(study, there)
        tested = study.bags[WHOLE].part(stacked.rows)
        values[there] = metrics_of_models(
            tested.task,
            tested.targets,
            np.concatenate([predicted[i] for i in there]),
            models=stacked.models,
            classes=tested.classes,
        )[METRIC_OF[study.task]]
    return values


def _row(
    study: SelectionStudy,
    arm: Arm,
    work: Sequence[Job],
    predicted: Predicted,
    done: Done,
    speeds: Mapping[str, float],
) -> Row:
    there = [i for i, each in enumerate(predicted) if each is not None]
    every = {name: int(study.bags[name].sizes.sum()) for name in (CHEAP, WHOLE)}
    patches = float(every[CHEAP if arm.way == CHEAP else WHOLE])
    if arm.way in (ATTENTION, RANDOM):
        kept = [sum(kept_of(_folder(work[i])).values()) for i in there]
        patches = float(np.mean(kept)) if kept else math.nan
    of_patients = _NONE
    if there:
        stacked = _stacked(study, there)
        tested = study.bags[WHOLE].part(stacked.rows)
        of_patients = metrics(
            tested.task,
            tested.targets,
            np.concatenate([predicted[i] for i in there]),
            groups=tested.groups,
            models=stacked.models,
            classes=tested.classes,
            confidence=CONFIDENCE,
            seed=study.config.seed,
        )[METRIC_OF[study.task]]
    values = _values(study, predicted)
    return Row(
        arm=arm,
        method=corrected_interval(
            values,
            test_share=study.test_share,
            confidence=CONFIDENCE,
            of=METRIC_OF[study.task],
        ),
        patients=of_patients,
        patches=patches,
        share=patches / every[CHEAP if arm.way == CHEAP else WHOLE],
        hours=_hours(arm, patches, every, speeds),
        parts=len(there),
    )


def _hours(
    arm: Arm, patches: float, every: Mapping[str, int], speeds: Mapping[str, float]
) -> float | None:
    """Return what encoding takes: all patches by the cheap encoder where it chooses, and what is kept."""
    if not speeds or math.isnan(patches):
        return None
    cheap_s = every[CHEAP] / speeds[CHEAP] if arm.way in (CHEAP, ATTENTION) else 0.0
    costly_s = 0.0 if arm.way == CHEAP else patches / speeds[WHOLE]
    return (cheap_s + costly_s) / 3600


def _compared(study: SelectionStudy, predicted: Mapping[Arm, Predicted]) -> tuple[Compared, ...]:
    """Hold attention at each share against all patches, and against as many random ones."""
    pairs = [
        (Arm(way=ATTENTION, keep=keep), other)
        for keep in study.keep
        for other in (Arm(way=WHOLE), Arm(way=RANDOM, keep=keep))
    ]
    values = {arm: _values(study, predicted[arm]) for arm in study.arms}
    told = corrected_differences(
        {pair: (values[pair[0]], values[pair[1]]) for pair in pairs},
        test_share=study.test_share,
        confidence=CONFIDENCE,
    )
    return tuple(
        Compared(
            one=one,
            other=other,
            difference=told[one, other],
            patients=_of_patients(study, predicted[one], predicted[other]),
        )
        for one, other in pairs
    )


def _of_patients(study: SelectionStudy, ours: Predicted, theirs: Predicted) -> Metric:
    """Return a difference of these very models, on the parts that both have."""
    both = [i for i in range(len(study.parts)) if ours[i] is not None and theirs[i] is not None]
    if not both:
        return _NONE
    stacked = _stacked(study, both)
    tested = study.bags[WHOLE].part(stacked.rows)
    return differences(
        tested.task,
        tested.targets,
        np.concatenate([ours[i] for i in both]),
        np.concatenate([theirs[i] for i in both]),
        groups=tested.groups,
        models=stacked.models,
        classes=tested.classes,
        confidence=CONFIDENCE,
        seed=study.config.seed,
    )[METRIC_OF[study.task]]
