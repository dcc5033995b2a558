"""What was published of pretrained weights, held against what was measured: a number and a verdict each."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from histofast.learning import TOLERANCE, Metric, corrected_differences
from histofast.networks import create
from histofast.studies.transfusion.measures import (
    MEAN_VAR,
    PRETRAINED,
    RANDOM,
    Measured,
    Values,
    WayRow,
    faster,
)
from histofast.studies.transfusion.plan import TransfusionPlan, Trial, Way

ALIKE = 1.25  # ratio of steps, and its inverse, that counts as alike

Verdict = Literal["shows", "does not show", "the reverse shows", "not told"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A published claim in one place.

    Attributes:
        key: of the claim.
        said: it, in words.
        where: trial, or data set and network.
        measured: what the number is.
        form: a difference has no effect at 0, a ratio at 1.
        value, low, high: of the number; NaN bounds: there is no interval. A difference's is adjusted for
            the number of differences among the claims, after Holm.
        expected: "more" than no effect, or "alike".
        verdict: by rule from these alone.
        note: what else decided it.
    """

    key: str
    said: str
    where: str
    measured: str
    form: Literal["difference", "ratio"]
    value: float
    low: float
    high: float
    expected: Literal["more", "alike"]
    verdict: Verdict
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Difference:
    key: str
    said: str
    where: str
    measured: str
    values: Values
    others: Values
    expected: Literal["more", "alike"]


def verdict_of(value: Metric, *, form: str, expected: str) -> Verdict:
    """Return what a number says of a claim; without an interval, nothing.

    "more" shows where the interval lies above no effect, the reverse where it lies below, and does not where no
    effect is in it. "alike" shows where the interval lies within 0.05 (of steps, 1.25 times), does not where it
    excludes no effect and is not within, and is not told else.
    """
    none = 0.0 if form == "difference" else 1.0
    low, high = value.low, value.high
    if math.isnan(value.value) or math.isnan(low + high):
        return "not told"  # an infinite bound is one
    if expected == "more":
        return "shows" if low > none else "the reverse shows" if high < none else "does not show"
    within = (-TOLERANCE, TOLERANCE) if form == "difference" else (1 / ALIKE, ALIKE)
    if within[0] < low and high < within[1]:
        return "shows"
    return "does not show" if low > none or high < none else "not told"


def claims_of(study: TransfusionPlan, measured: Measured) -> tuple[Claim, ...]:
    """Return every claim that what was asked can be held against."""
    asked = list(_differences(study, measured))
    found = corrected_differences(
        {i: (one.values, one.others) for i, one in enumerate(asked)},
        test_share=study.setting.test_share,
    )
    differences = []
    for i, one in enumerate(asked):
        told = found[i]
        metric = Metric(value=told.value, low=told.low_adjusted, high=told.high_adjusted)
        differences.append(
            _claim(metric, one.key, one.said, one.where, one.measured, "difference", one.expected)
        )
    return tuple(
        sorted([*differences, *_ratios(study, measured)], key=lambda c: _ORDER.index(c.key))
    )


_ORDER = ("features", "small", "large", "speed", "scale", "first", "gabor", "slim", "size")


def _claim(
    metric: Metric | None,
    key: str,
    said: str,
    where: str,
    measured: str,
    form: Literal["difference", "ratio"],
    expected: Literal["more", "alike"],
    note: str = "",
) -> Claim:
    metric = metric or Metric(value=math.nan, low=math.nan, high=math.nan)
    verdict = verdict_of(metric, form=form, expected=expected)
    if note and verdict == "shows":
        verdict = "does not show"
    return Claim(
        key=key,
        said=said,
        where=where,
        measured=measured,
        form=form,
        value=metric.value,
        low=metric.low,
        high=metric.high,
        expected=expected,
        verdict=verdict,
        note=note,
    )


# --- Differences -----------------------------------------------------------------------------------


def _differences(study: TransfusionPlan, measured: Measured) -> Iterator[_Difference]:
    name = measured.metric
    for trial in study.trials:
        rows = {row.way: row for row in measured.of(trial)}
        if {PRETRAINED, MEAN_VAR} <= rows.keys():
            yield _Difference(
                key="features",
                said="pretrained weights carry more than their scale",
                where=str(trial),
                measured=f"{name} of pretrained less mean-var",
                values=rows[PRETRAINED].values,
                others=rows[MEAN_VAR].values,
                expected="more",
            )
        slim = next((row for way, row in rows.items() if way.kind == "slim"), None)
        if slim is not None and PRETRAINED in rows and trial in study.largest:
            yield _Difference(
                key="slim",
                said="a slim network on pretrained first blocks is as good as a pretrained one",
                where=str(trial),
                measured=f"{name} of {slim.way} less pretrained",
                values=slim.values,
                others=rows[PRETRAINED].values,
                expected="alike",
            )
    yield from _by_size_of_training_set(study, measured)
    yield from _by_size_of_network(study, measured)


def _by_size_of_training_set(study: TransfusionPlan, measured: Measured) -> Iterator[_Difference]:
    name = measured.metric
    for last in study.largest:
        gains = []
        for trial in study.trials:
            row = measured.row(trial, PRETRAINED)
            if (trial.data, trial.network) == (last.data, last.network) and row is not None:
                base = measured.row(trial, RANDOM)
                assert base is not None
                gains.append((trial, row.values - base.values))
        if not gains:
            continue
        yield _Difference(
            key="large",
            said="on many pictures pretrained weights end where random ones do",
            where=str(last),
            measured=f"{name} of pretrained less random",
            values=gains[-1][1],
            others=np.zeros_like(gains[-1][1]),
            expected="alike",
        )
        if len(gains) > 1:
            yield _Difference(
                key="small",
                said="few pictures gain more from pretrained weights than many",
                where=f"{last.data}, {last.network}",
                measured=f"gain at {gains[0][0].size} less gain at {gains[-1][0].size} pictures",
                values=gains[0][1],
                others=gains[-1][1],
                expected="more",
            )


def _by_size_of_network(study: TransfusionPlan, measured: Measured) -> Iterator[_Difference]:
    if len(study.network) < 2:
        return
    sizes = {name: _parameters(name) for name in study.network}
    small, large = min(sizes, key=lambda n: sizes[n]), max(sizes, key=lambda n: sizes[n])
    for data in study.setting.sets:
        found = {
            row.network: row
            for row in measured.likenesses
            if row.data == data and row.what == f"{RANDOM}: start and tuned"
        }
        if {small, large} <= found.keys():
            yield _Difference(
                key="size",
                said="large networks change less from their start than small ones",
                where=data,
                measured=f"mean CKA of random start and tuned, {large} less {small}",
                values=found[large].means,
                others=found[small].means,
                expected="more",
            )


def _parameters(network: str) -> int:
    return sum(parameter.numel() for parameter in create(network).parameters())


# --- Ratios of steps -------------------------------------------------------------------------------


def _ratios(study: TransfusionPlan, measured: Measured) -> Iterator[Claim]:
    for trial in study.trials:
        rows = {row.way: row for row in measured.of(trial)}
        for way, key, said in (
            (PRETRAINED, "speed", "pretrained weights get there in fewer steps than random ones"),
            (MEAN_VAR, "scale", "the scale of pretrained weights alone makes training faster"),
        ):
            if way in rows:
                measure = f"steps of random over steps of {way}"
                yield _claim(rows[way].speed, key, said, str(trial), measure, "ratio", "more")
        if trial in study.largest:
            yield from _of_first_block(trial, rows)


def _of_first_block(trial: Trial, rows: dict[Way, WayRow]) -> Iterator[Claim]:
    blocks = [row for way, row in rows.items() if way.kind == "transfuse"]
    if not blocks:
        return
    first = blocks[0]
    if PRETRAINED in rows:
        steps = marginal([*blocks, rows[PRETRAINED]])
        note = ""
        if steps and max(steps, key=lambda name: steps[name]) != str(first.way):
            largest = max(steps, key=lambda name: steps[name])
            note = f"the largest step in speed is at {largest}, {steps[largest]:.2f} times"
        yield _claim(
            first.speed,
            "first",
            "the first layers bring the largest part of the speed",
            str(trial),
            f"steps of random over steps of {first.way}",
            "ratio",
            "more",
            note,
        )
    gabor = next((row for way, row in rows.items() if way.kind == "gabor"), None)
    if gabor is not None:
        yield _claim(
            faster(first.reached, gabor.reached),
            "gabor",
            "Gabor filters are as good a first layer as pretrained ones",
            str(trial),
            f"steps of {first.way} over steps of gabor",
            "ratio",
            "alike",
        )


def marginal(rows: list[WayRow]) -> dict[str, float]:
    """Return how many times faster each block makes what was faster before it, by the block's way.

    Speed-ups that are not finite, or 0, have no step.
    """
    found: dict[str, float] = {}
    before = 1.0
    for row in rows:
        speed = math.nan if row.speed is None else row.speed.value
        is_known = math.isfinite(speed) and speed > 0
        if is_known and math.isfinite(before):
            found[str(row.way)] = speed / before
        before = speed if is_known else math.nan
    return found
