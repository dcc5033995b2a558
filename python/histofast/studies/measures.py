"""What the runs of a study are worth: values, intervals of models and of methods, differences.

All candidates were trained on the same folds and seeds, so they are compared fold by fold. Two
intervals answer two questions: how good these models are on patients like these (a bootstrap of
patients), and how good this way of making models is (folds and seeds vary as well: the corrected
resampled interval).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from histofast._words import count
from histofast.learning import (
    Knee,
    Metric,
    against_highest,
    corrected_difference,
    corrected_differences,
    corrected_interval,
    knee,
    metrics,
    metrics_of_models,
)
from histofast.mil import Bags, Run
from histofast.studies.plan import Candidate, Predicted, Trained
from histofast.studies.rows import PoolDifference, StudyRow
from histofast.studies.setting import CONFIDENCE, Setting


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """A row with its values and intervals.

    Attributes:
        row: filled in, but for what comes of comparing it with others.
        values: (m,) the metric in each fold of each repeat, NaN where undefined.
    """

    row: StudyRow
    values: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """All rows of a study, and the choice that follows from them."""

    rows: tuple[StudyRow, ...]
    knee: Knee | None
    pools: tuple[PoolDifference, ...] = ()


def judge(candidates: Sequence[Candidate], trained: Sequence[Trained], setting: Setting) -> Verdict:
    """Measure all candidates, hold them against the highest, and choose the cheapest as good.

    The cheapest: of one network the shallowest, which is cheaper whatever the clock says; of several the
    one with most patches per second where all were measured, else least depth, else smallest.
    """
    test_share = test_share_of(trained[0].bags, trained[0].runs[0])
    measured, nulls, pooled = [], [], []
    for candidate, found in zip(candidates, trained, strict=True):
        predicted = [run.predictions() for run in found.runs]
        row = replace(candidate.row, d=found.bags.d)
        own = _measured(row, found, predicted, setting, test_share)
        if candidate.null:
            nulls.append(replace(own, row=replace(own.row, name=candidate.null)))
            continue
        if found.pooled[0]:
            means = _measured(_pooled_row(row), found, found.pooled, setting, test_share)
            pooled.append(means)
            title = f"{setting.metric_title}, mean pooling"
            own = replace(own, row=replace(own.row, extra={title: means.row.value}))
        measured.append(own)
    rows, chosen = _compared(measured, trained[0].bags, setting, test_share)
    highest = _highest_of(measured)
    rows += _baseline_of_means(pooled, highest, test_share)
    rows += _range_of(nulls)
    return Verdict(rows=tuple(rows), knee=chosen, pools=pools_compared(measured, test_share))


def test_share_of(bags: Bags, run: Run) -> float:
    """Return the share of patients that a fold tests, over all folds the same."""
    if len(run.folds) > 1:
        return 1 / len(run.folds)
    groups = np.array(bags.groups)
    fold = run.folds[0]
    tested = len(set(groups[fold.test]))
    return tested / (tested + len(set(groups[np.r_[fold.train, fold.validation]])))


def _measured(
    row: StudyRow,
    found: Trained,
    predicted: Sequence[Predicted],
    setting: Setting,
    test_share: float,
) -> Measured:
    """Measure what each model says of the slides that it has not seen."""
    bags, rows, models, outputs = found.bags, [], [], []
    for repeat, (run, values) in enumerate(zip(found.runs, predicted, strict=True)):
        for number, fold in enumerate(run.folds):
            rows += fold.test.tolist()
            models += [repeat * len(run.folds) + number] * len(fold.test)
            outputs += [values[bags.names[i]] for i in fold.test]
    tested, stacked = bags.part(rows), np.stack(outputs)
    of_patients = metrics(
        bags.task,
        tested.targets,
        stacked,
        groups=tested.groups,
        models=models,
        classes=bags.classes,
        confidence=CONFIDENCE,
        seed=setting.config.seed,
    )[setting.metric]
    values_of = metrics_of_models(
        bags.task, tested.targets, stacked, models=models, classes=bags.classes
    )[setting.metric]
    of_method = corrected_interval(
        values_of, test_share=test_share, confidence=CONFIDENCE, of=setting.metric
    )
    return Measured(
        row=replace(row, method=of_method, patients=of_patients),
        values=values_of,
    )


def _pooled_row(row: StudyRow) -> StudyRow:
    return replace(row, name=f"mean pooling, {row.name}", baseline=True, patches_per_s=None)


def _highest_of(measured: Sequence[Measured]) -> Measured | None:
    """Return the one that the others are held against: the cheapest of equal ones."""
    defined = _by_cost([m for m in measured if not m.row.baseline and m.row.is_defined])
    return max(defined, key=lambda m: m.row.value, default=None)


def _compared(
    measured: Sequence[Measured], bags: Bags, setting: Setting, test_share: float
) -> tuple[list[StudyRow], Knee | None]:
    """Return the candidates' rows in their order, with differences and the cheapest as good."""
    defined = [m for m in measured if m.row.is_defined]
    if not defined:
        return [m.row for m in measured], None
    cheapest_first = {m.row.name: m.values for m in _by_cost(defined)}
    ranking = against_highest(cheapest_first, test_share=test_share, confidence=CONFIDENCE)
    chosen = knee(ranking, patients=len(set(bags.groups)), tolerance=setting.tolerance)
    rows = []
    for m in measured:
        standing = ranking.standings.get(m.row.name)
        versus = standing.difference if standing is not None else None
        rows.append(replace(m.row, versus=versus, chosen=m.row.name == chosen.name))
    return rows, chosen


def pools_compared(measured: Sequence[Measured], test_share: float) -> tuple[PoolDifference, ...]:
    """Hold ways of pooling a block against its mean, or where that was not tried against the first tried."""
    blocks: dict[tuple[str, str], list[Measured]] = {}
    for m in measured:
        if m.row.pool and m.row.is_defined:
            blocks.setdefault((m.row.network, m.row.block), []).append(m)
    pairs = {}
    for ways in blocks.values():
        against = next((m for m in ways if m.row.pool == "mean"), ways[0])
        for m in ways:
            if m is not against:
                pairs[m.row.name, against.row.name] = (m.values, against.values)
    if not pairs:
        return ()
    found = corrected_differences(pairs, test_share=test_share, confidence=CONFIDENCE)
    return tuple(
        PoolDifference(row=row, other=other, difference=difference)
        for (row, other), difference in found.items()
    )


def _by_cost(measured: Sequence[Measured]) -> list[Measured]:
    rows = [m.row for m in measured]
    of_one_network = len({row.network for row in rows}) == 1
    if of_one_network and all(row.depth is not None for row in rows):
        return sorted(measured, key=lambda m: m.row.depth or 0.0)
    if all(m.row.patches_per_s is not None for m in measured):
        return sorted(measured, key=lambda m: -(m.row.patches_per_s or 0.0))
    if all(m.row.depth is not None for m in measured):
        return sorted(measured, key=lambda m: m.row.depth or 0.0)
    return sorted(measured, key=lambda m: m.row.size_bytes or 0)


def _baseline_of_means(
    pooled: Sequence[Measured], highest: Measured | None, test_share: float
) -> list[StudyRow]:
    """Return the highest of mean pooling as a baseline: attention has to beat that."""
    defined = [m for m in pooled if m.row.is_defined]
    if not defined or highest is None:
        return []
    best = max(defined, key=lambda m: m.row.value)
    versus = corrected_difference(
        best.values, highest.values, test_share=test_share, confidence=CONFIDENCE
    )
    on = best.row.name.removeprefix("mean pooling, ")
    few = f"on {on}" if len(pooled) == 1 else f"the highest of {len(pooled)}: on {on}"
    return [
        replace(best.row, name="mean pooling and logistic regression", notes=few, versus=versus)
    ]


def _range_of(nulls: Sequence[Measured]) -> list[StudyRow]:
    """Return a row for the random networks of each kind: their mean, and their range."""
    kinds: Mapping[str, list[Measured]] = {m.row.name: [] for m in nulls}
    for m in nulls:
        kinds[m.row.name].append(m)
    rows = []
    for seeds in kinds.values():
        values = [m.row.value for m in seeds if m.row.is_defined]
        if not values:
            continue
        nan = float("nan")
        rows.append(
            replace(
                seeds[0].row,
                method=Metric(value=float(np.mean(values)), low=nan, high=nan),
                patients=Metric(value=nan, low=nan, high=nan),
                spread=(min(values), max(values)),
                seeds=len(values),
                notes=f"never trained; mean and range of {count(len(values), 'seed')}",
            )
        )
    return rows
