"""Targets and predictions in, metrics with intervals out.

Intervals are percentiles of a bootstrap that draws groups (patients), not slides. A resample is a
weight per row, how often its group was drawn, and every metric here is one of weighted rows: all
resamples are computed at once, and the value itself is the one of equal weights.

Scores of two models are not on one scale, so whatever looks at ranks or at correlation compares rows
of one model only. What is measured against the target itself (Brier, MAE ...) takes all rows together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from histofast._words import did_you_mean
from histofast.learning.weighted import (
    PANEL,
    STATISTICS,
    Array,
    Models,
    Statistic,
    Task,
    numbered,
)

METRICS_OF: Mapping[str, tuple[str, ...]] = {
    "classification": ("auroc", "auprc", "accuracy", "balanced_accuracy", "kappa", "ece", "brier"),
    "multilabel": ("auroc", "auprc", "accuracy", "balanced_accuracy", "ece", "brier"),
    "regression": ("mae", "r2", "pearson", "spearman"),
    "survival": ("c_index",),
}
LOWER_IS_BETTER = frozenset({"loss", "ece", "brier", "mae"})
# What a metric can be; what is not here has no bound.
RANGES: Mapping[str, tuple[float, float]] = {
    **dict.fromkeys(
        ("auroc", "auprc", "accuracy", "balanced_accuracy", "ece", "c_index"), (0.0, 1.0)
    ),
    **dict.fromkeys(("kappa", "pearson", "spearman"), (-1.0, 1.0)),
    "brier": (0.0, 2.0),
    "mae": (0.0, float("inf")),
    "r2": (-float("inf"), 1.0),
}
# A bag that is drawn twice adds to the gap of its bin: draws lie above the value, whose interval has their
# width and its own centre.
_RAISED = frozenset({"ece"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """A metric and its interval; NaN where it is undefined, as AUROC of one class."""

    value: float
    low: float
    high: float


def metrics(
    task: Task,
    targets: NDArray[Any],
    outputs: NDArray[np.floating[Any]],
    *,
    groups: Sequence[Any] | NDArray[Any],
    models: Models = None,
    classes: Sequence[str] = (),
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Metric]:
    """Measure predictions of bags, with bootstrap intervals over groups.

    | task | metrics of all rows | metrics within models |
    |---|---|---|
    | classification | `accuracy`; `balanced_accuracy`, the mean recall; `kappa`, agreement beyond chance (Cohen); `ece`, the gap between confidence and accuracy of the predicted class over 10 bins of equal mass; `brier`, of class 1, or summed over more than two classes | of class 1, or the mean over classes of one against the rest: `auroc`, the share of pairs of a positive and a negative in which the positive scores higher, equal scores counted half; `auprc`, average precision, the mean over models weighted by positives |
    | multilabel | `accuracy`, of all known labels at 0.5, which is high where labels are rare (HistoKT's measure); `balanced_accuracy`, `ece`: the mean over labels of each one's; `brier`, of all known labels | `auroc`, `auprc`: the mean over labels, of those that are defined |
    | regression | `mae`, `r2` | `pearson` and `spearman`, the mean over models weighted by pairs |
    | survival | | `c_index` (Harrell): among pairs of which one is known to have lived longer, the share in which the other had the higher risk, equal risks counted half |

    Within models: only rows that the same model scored are compared. Pearson's correlation is among
    them because it is blind to a model's scale and offset, as ranks are: pooled over folds, the mean
    of the training targets correlates with the test targets negatively, within a fold not at all.

    Args:
        task: "classification", "multilabel", "regression" or "survival".
        targets: (b,) integer classes, (b, c) labels of 0 and 1 and NaN where not known, (b,) values, or
            (b, 2) time and event.
        outputs: (b, c) probabilities, (b,) values, or (b,) risks, the higher the sooner.
        groups: (b,) patient of each row; a bag that several models scored has several rows.
        models: (b,) which model scored each row, such as (repeat, fold) in one string; one model
            scored all when None.
        classes: (c) their names, if known.
        resamples: draws of the bootstrap; 0: no intervals.
        confidence: share of the draws between the bounds.
        seed: of the draws.

    Returns:
        By name. Draws in which a metric is undefined (one class only) are left out of its interval; bounds
        are NaN when the value is, when there is one group, and when no draw defines it. Models within which a
        metric is undefined (a fold with one class) are left out of it. `ece` is above 0 for a calibrated model
        too, the more so the fewer the bags, and its draws, which repeat bags, lie higher still: they are
        centred on the value, so that the interval says how far it varies, not how far from calibrated it is.

    Raises:
        TypeError: arrays of another kind.
        ValueError: no bags, other shapes or lengths, NaN or infinity, rows that are no
            probabilities, classes that have none, options out of range.

    Determinism: by the seed.

    Reference: Harrell et al., 1982, Evaluating the yield of medical tests; Nguyen, O'Connor, 2015,
    for bins of equal mass.

    Example:
        >>> found = metrics("regression", np.arange(4.0), np.arange(4.0) + 1, groups=range(4))
        >>> found["mae"]
        Metric(value=1.0, low=1.0, high=1.0)
    """
    _check_options(task, resamples, confidence)
    return measured(
        STATISTICS[task](targets, outputs, classes, models),
        len(targets),
        groups,
        resamples=resamples,
        confidence=confidence,
        seed=seed,
    )


def differences(
    task: Task,
    targets: NDArray[Any],
    outputs: NDArray[np.floating[Any]],
    others: NDArray[np.floating[Any]],
    *,
    groups: Sequence[Any] | NDArray[Any],
    models: Models = None,
    classes: Sequence[str] = (),
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Metric]:
    """Measure how much better `outputs` are than `others` on the same bags.

    Both are measured on the same draws of patients, so that what is common to them (a hard patient)
    cancels: an interval without 0 says that these models differ. Whether their ways of making differ
    is for `against_highest`: it varies the training too.

    Args, Raises: as `metrics`; `others` as `outputs`, row by row of the same fold.

    Returns:
        By name, the metric of `outputs` less that of `others`.
    """
    _check_options(task, resamples, confidence)
    first = STATISTICS[task](targets, outputs, classes, models)
    second = STATISTICS[task](targets, others, classes, models)

    def less(one: Statistic, other: Statistic) -> Statistic:
        return lambda weights: one(weights) - other(weights)

    return measured(
        {name: less(first[name], second[name]) for name in first},
        len(targets),
        groups,
        resamples=resamples,
        confidence=confidence,
        seed=seed,
    )


def metrics_of_models(
    task: Task,
    targets: NDArray[Any],
    outputs: NDArray[np.floating[Any]],
    *,
    models: Sequence[Any] | NDArray[Any],
    classes: Sequence[str] = (),
) -> dict[str, Array]:
    """Measure what each model scored by itself: the values that `against_highest` takes.

    Args, Raises: as `metrics`.

    Returns:
        By name, (m,) values in the sorted order of the models' names; NaN where undefined.
    """
    _check_options(task, 0, 0.5)
    statistics = STATISTICS[task](targets, outputs, classes, models)
    model_of = numbered("models", models, len(targets))
    weights = (model_of == np.arange(model_of.max() + 1)[:, None]).astype(np.float64)  # (m, b)
    return {name: statistic(weights) for name, statistic in statistics.items()}


def check_metric(name: str, metric: str, *, task: str) -> str:
    """Return what is a metric of a task, or "loss".

    Args:
        name: of the argument, for the message.
        metric: what was asked for.
        task: of which.

    Raises:
        ValueError: it is neither; a close one is offered.
    """
    known = ("loss", *METRICS_OF[task])
    if metric not in known:
        raise ValueError(
            f"{name} must be one of {', '.join(known)}, got {metric!r}{did_you_mean(metric, known)}"
        )
    return metric


def _check_options(task: str, resamples: int, confidence: float) -> None:
    if task not in get_args(Task):
        raise ValueError(f"task must be one of {', '.join(get_args(Task))}, got {task!r}")
    if resamples < 0:
        raise ValueError(f"resamples must be at least 0, got {resamples}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in 0..1, got {confidence}")


def measured(
    statistics: Mapping[str, Statistic],
    b: int,
    groups: Sequence[Any] | NDArray[Any],
    *,
    resamples: int,
    confidence: float,
    seed: int,
) -> dict[str, Metric]:
    group_of = numbered("groups", groups, b)
    count = int(group_of.max()) + 1
    rng = np.random.default_rng(seed)
    values = {name: statistic(np.ones((1, b)))[0] for name, statistic in statistics.items()}
    draws: dict[str, list[Array]] = {name: [] for name in statistics}
    rows = max(1, PANEL // b)
    for start in range(0, resamples if count > 1 else 0, rows):
        size = min(rows, resamples - start)
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=size)
        weights = drawn[:, group_of].astype(np.float64)  # (r, b)
        for name, statistic in statistics.items():
            draws[name].append(statistic(weights))
    return {
        name: _metric(float(value), draws[name], confidence, centred=name in _RAISED)
        for name, value in values.items()
    }


def _metric(
    value: float, draws: Sequence[Array], confidence: float, *, centred: bool = False
) -> Metric:
    found = np.concatenate([*draws, np.zeros(0)])
    found = found[np.isfinite(found)]
    if np.isnan(value) or not found.size:
        return Metric(value=value, low=np.nan, high=np.nan)
    tail = (1 - confidence) / 2
    if centred:
        found = np.clip(found + value - found.mean(), 0, 1)
    low, high = np.quantile(found, [tail, 1 - tail])
    return Metric(value=value, low=float(low), high=float(high))
