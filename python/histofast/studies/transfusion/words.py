"""What a study of transfusion found, in words: fixed rules, so that equal numbers give equal sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from histofast._words import count, joined, listed
from histofast.learning import Difference, Metric
from histofast.report import interval, number, percent, signed
from histofast.studies.pictures import Done
from histofast.studies.transfusion.claims import Claim, Verdict, marginal
from histofast.studies.transfusion.measures import (
    MEAN_VAR,
    PRETRAINED,
    RANDOM,
    FiltersRow,
    LikenessRow,
    Measured,
    WayRow,
)
from histofast.studies.transfusion.plan import NULL, TransfusionPlan, Trial

_FEWEST = 5  # runs that an interval of speed-ups needs, see `learning.speed_up`
_FEW = 10  # splits; intervals of fewer are wide
_LOOKS = 20  # fewer looks at a curve say little of when it was where


def describe(
    study: TransfusionPlan, measured: Measured, claims: Sequence[Claim], done: Done
) -> tuple[str, ...]:
    """Return what was found, as sentences."""
    return (
        *(line for trial in study.trials for line in _of_trial(measured, claims, trial)),
        *_likeness(measured),
        *_filters(measured),
        *_claims(claims),
        *_few(study),
        *_failed(done),
        *_without_weights(study),
    )


def finding_of(row: WayRow) -> str:
    """Return what the numbers say of a way, in a few words."""
    if math.isnan(row.metric.value):
        return "no run finished"
    if row.gain is None:
        return "held against"
    return told(row.gain, "random")


def told(difference: Difference, other: str) -> str:
    """Return what a difference shows."""
    if math.isnan(difference.low_adjusted + difference.high_adjusted):
        return f"no interval against {other}"
    if not difference.is_shown:
        return f"not told from {other}"
    return f"shown to be {'above' if difference.value > 0 else 'below'} {other}"


def times(speed: Metric | None) -> str:
    """Return a ratio of steps with its interval."""
    if speed is None or math.isnan(speed.value):
        return "not known"
    if math.isinf(speed.value):
        text = "only this one gets there"
    elif speed.value == 0:
        text = "only random gets there"
    else:
        text = f"{speed.value:.2f} times"
    if math.isnan(speed.low + speed.high):
        return text
    high = "no upper bound" if math.isinf(speed.high) else f"{speed.high:.2f}"
    return f"{text} ({speed.low:.2f} to {high})"


def steps_told(row: WayRow) -> str:
    """Return the median of steps, and how many runs got there."""
    known = [one for one in row.reached if one is not None]
    if row.steps is None or not known:
        return "no curve"
    there = f"{sum(one.is_reached for one in known)} of {len(known)} there"
    if math.isinf(row.steps.value):
        return f"over {max(one.steps for one in known):,.0f} ({there})"
    return f"{row.steps.value:,.0f} ({there})"


def features_or_scale(measured: Measured, claims: Sequence[Claim], trial: Trial) -> str:
    """Return whether the gain of pretrained weights is their features or their scale, by rule.

    There must be a gain: in the metric of test pictures, or in speed. It is features where pretrained is
    shown to be above mean-var, which has the scale of pretrained weights and none of their features. It is
    scale as far as is told where mean-var is shown to gain too. Otherwise it is not told.
    """
    pretrained, scale = (measured.row(trial, way) for way in (PRETRAINED, MEAN_VAR))
    if pretrained is None or scale is None:
        return ""
    if not (_gains(pretrained) or _is_faster(pretrained)):
        return (
            "no gain of pretrained weights is shown, so whether it is features or scale is not told"
        )
    held = next(c for c in claims if c.key == "features" and c.where == str(trial))
    if held.verdict == "shows":
        return (
            "features: pretrained is shown to be above mean-var, which has the scale of its weights and "
            f"none of its features ({_bounded(held)})"
        )
    if _gains(scale) or _is_faster(scale):
        return (
            "scale, as far as is told: mean-var, which has no features, is shown to gain too, and "
            f"pretrained is not shown to be above it ({_bounded(held)})"
        )
    return (
        "whether it is features or scale is not told: mean-var is neither shown to gain nor shown to be "
        f"below pretrained ({_bounded(held)})"
    )


def verdicts(claims: Sequence[Claim], verdict: Verdict) -> tuple[str, ...]:
    """Return the claims that have a verdict anywhere, each once, and in how many places of all."""
    found = []
    for said in dict.fromkeys(claim.said for claim in claims):
        all_of = [claim.verdict for claim in claims if claim.said == said]
        n = all_of.count(verdict)
        if n:
            found.append(said if n == len(all_of) else f"{said} ({n} of {len(all_of)})")
    return tuple(found)


def basis_of(study: TransfusionPlan) -> str:
    """Return on what it was measured."""
    sets = [
        f"{name} ({count(len(images), 'picture')} of {count(len(set(images.groups)), images.group_kind)})"
        if images.group_kind != "image"
        else f"{name} ({count(len(images), 'picture')})"
        for name, images in study.setting.sets.items()
    ]
    splits = count(len(study.setting.splits), "split")
    return (
        f"{study.setting.metric} of test pictures of {joined(sets)}, {splits}, "
        f"{study.least_steps:,} steps a run"
    )


# --- Sentences -------------------------------------------------------------------------------------


def _of_trial(measured: Measured, claims: Sequence[Claim], trial: Trial) -> Iterator[str]:
    random, pretrained = (measured.row(trial, way) for way in (RANDOM, PRETRAINED))
    assert random is not None
    if pretrained is not None and pretrained.gain is not None:
        yield (
            f"{trial}: {measured.metric} {number(pretrained.metric.value)} from pretrained and "
            f"{number(random.metric.value)} from random weights, {_difference(pretrained.gain)}: "
            f"{told(pretrained.gain, 'random')}."
        )
        threshold = measured.thresholds[trial]
        if not math.isnan(threshold):
            yield (
                f"{trial}: steps to {measured.curve} {number(threshold)} of validation pictures: "
                f"{steps_told(pretrained)} from pretrained, {steps_told(random)} from random; speed-up: "
                f"{times(pretrained.speed)}."
            )
        division = features_or_scale(measured, claims, trial)
        if division:
            yield f"{trial}: {division}."
        blocks = [row for row in measured.of(trial) if row.way.kind == "transfuse"]
        steps = marginal([*blocks, pretrained]) if blocks else {}
        best = max(steps, key=lambda name: steps[name], default="")
        if len(steps) > 1 and steps[best] > 1:
            yield (
                f"{trial}: of the steps from block to block the one of {best} adds most speed, "
                f"{steps[best]:.2f} times (one number of {len(steps)}, the highest, without an interval)."
            )
        return
    for row in measured.of(trial):
        if row.gain is not None:
            yield (
                f"{trial}: {measured.metric} {number(row.metric.value)} from {row.way} and "
                f"{number(random.metric.value)} from random, {_difference(row.gain)}: "
                f"{told(row.gain, 'random')}."
            )


def _likeness(measured: Measured) -> Iterator[str]:
    by_place: dict[tuple[str, str], dict[str, LikenessRow]] = {}
    for row in measured.likenesses:
        by_place.setdefault((row.data, row.network), {})[row.what] = row
    for (data, network), rows in by_place.items():
        said = [
            f"{number(float(np.nanmean(row.means)))} {what.partition(':')[0]}"
            for what, row in rows.items()
            if what.endswith("start and tuned")
        ]
        if said and NULL in rows:
            yield (
                f"{data}, {network}: CKA of start and tuned network, mean over layers: {joined(said)}; of "
                f"{NULL}, {number(float(np.nanmean(rows[NULL].means)))}. What training leaves as it was is "
                "not told by a value that two random networks have as well."
            )


def _filters(measured: Measured) -> Iterator[str]:
    by_trial: dict[Trial, list[FiltersRow]] = {}
    for row in measured.filters:
        if row.way in (RANDOM, PRETRAINED, MEAN_VAR):
            by_trial.setdefault(row.trial, []).append(row)
    for trial, rows in by_trial.items():
        said = [f"{number(_middle(row))} from {row.way}" for row in rows]
        yield (
            f"{trial}: filters of the first convolution moved by {joined(said)} of their length, in the "
            "median."
        )


def _middle(row: FiltersRow) -> float:
    return float(np.nanmedian(np.concatenate([one.distance for one in row.moved])))


def _claims(claims: Sequence[Claim]) -> Iterator[str]:
    words: dict[Verdict, str] = {
        "shows": "Published, and shown here",
        "the reverse shows": "Published, and the reverse is shown here",
        "does not show": "Published, and not shown here",
        "not told": "Published, and not told here, for the intervals are too wide or there is none",
    }
    for verdict, begin in words.items():
        found = verdicts(claims, verdict)
        if found:
            yield f"{begin}: {'; '.join(found)}."


def _few(study: TransfusionPlan) -> Iterator[str]:
    n = len(study.setting.splits)
    if n < _FEW:
        more = ""
        if n < _FEWEST:
            more = (
                f"; speed-ups have none under {_FEWEST} runs, {count(_FEWEST - n, 'repeat')} more"
            )
        yield (
            f"Intervals are wide: they stand on {count(n, 'split')}, {_FEW} are better, "
            f"{count(_FEW - n, 'repeat')} more{more}."
        )
    looks = study.least_steps // study.every
    if looks < _LOOKS:
        yield (
            f"Curves have {count(looks, 'look')} only, every {count(study.every, 'step')}: when a threshold "
            "was reached is read between two of them, on a straight line."
        )


def _failed(done: Done) -> Iterator[str]:
    if done.failed:
        names = [f"{name} ({why})" for name, why in done.failed.items()]
        yield f"Not done: {listed(names)}. What needs them is left out; the rest stands on fewer splits."


def _without_weights(study: TransfusionPlan) -> Iterator[str]:
    lacking = [name for name in study.network if name not in study.weights]
    if lacking:
        yield (
            f"{joined(lacking)} had no pretrained weights: random starts and Gabor filters only."
        )


# --- Parts of sentences ----------------------------------------------------------------------------


def _gains(row: WayRow) -> bool:
    return row.gain is not None and row.gain.is_shown and row.gain.value > 0


def _is_faster(row: WayRow) -> bool:
    return row.speed is not None and row.speed.low > 1


def _difference(difference: Difference) -> str:
    if math.isnan(difference.low_adjusted + difference.high_adjusted):
        return signed(difference.value)
    return (
        f"{signed(difference.value)} ({percent(difference.confidence)} interval, adjusted, "
        f"{signed(difference.low_adjusted)} to {signed(difference.high_adjusted)})"
    )


def _bounded(claim: Claim) -> str:
    if math.isnan(claim.value):
        return "no value"
    if math.isnan(claim.low + claim.high):
        return f"{signed(claim.value)}, no interval"
    return f"{signed(claim.value)}, {interval(claim.low, claim.high)}"
