"""`--threshold METRIC=VALUE` of `classify`: read, and answered from the curves of runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from histofast.classify import Folds, Run
    from histofast.learning import Reached

Thresholds = Sequence[tuple[str, float]]  # a metric and its value, in the order asked for


def read_thresholds(texts: Sequence[str], *, task: str) -> Thresholds:
    """Return what each METRIC=VALUE asks for.

    Raises:
        ValueError: no such metric of the task, no number.
    """
    from histofast.learning import check_metric

    found = []
    for text in texts:
        metric, _, number = text.partition("=")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ValueError(
                f"--threshold must be a metric, = and a number, such as auroc=0.8, got {text!r}"
            )
        found.append((check_metric("metric of --threshold", metric, task=task), value))
    return found


def steps_as_json(found: Folds | Run, thresholds: Thresholds) -> list[dict[str, Any]]:
    """Return the steps to each threshold; of folds, of each and their median."""
    from histofast.classify import Run
    from histofast.learning import plain

    rows = []
    for metric, value in thresholds:
        row: dict[str, Any] = {"metric": metric, "threshold": value}
        if isinstance(found, Run):
            row |= _plain(found.steps_to(value, metric=metric))
        else:
            each = found.steps_to(value, metric=metric)
            median = _median(each)
            row["median"] = None if median is None else plain(median)
            row["folds"] = [_plain(one) for one in each]
        rows.append(row)
    return rows


def say_steps(found: Folds | Run, thresholds: Thresholds) -> Iterator[str]:
    """Yield a line on each threshold."""
    from histofast.classify import Run

    for metric, value in thresholds:
        if isinstance(found, Run):
            text = _of_run(found.steps_to(value, metric=metric))
        else:
            text = _of_folds(found.steps_to(value, metric=metric))
        yield f"steps to {metric} {value:g}: {text}"


def _of_run(one: Reached | None) -> str:
    if one is None:
        return "undefined, for the metric is at every evaluation"
    if not one.is_reached:
        return f"not reached in {one.steps:,.0f} steps"
    return f"{one.steps:,.0f}" + " (interpolated)" * (one.steps != round(one.steps))


def _of_folds(each: Sequence[Reached | None]) -> str:
    median = _median(each)
    if median is None:
        return _of_run(None)
    known = [one for one in each if one is not None]
    if math.isfinite(median.value):
        text = f"{median.value:,.0f} in the median"
    else:
        text = f"median not reached in {max(one.steps for one in known):,.0f} steps"
    low, high = (f"{bound:,.0f}" for bound in (median.low, median.high))
    if math.isfinite(median.high):
        text += f" (95 % {low} to {high})"
    elif not math.isnan(median.low):
        text += f" (95 % from {low}, no upper bound)"
    reached = sum(one.is_reached for one in known)
    return f"{text}, reached in {reached} of {len(known)} folds"


def _median(each: Sequence[Reached | None]) -> Any:
    """Return the median over the folds whose metric is defined, None where there is none."""
    from histofast.learning import median_steps

    known = [one for one in each if one is not None]
    return median_steps(known) if known else None


def _plain(one: Reached | None) -> dict[str, Any]:
    return {"steps": None, "is_reached": None} if one is None else asdict(one)
