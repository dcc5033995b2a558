"""Curves of validation metrics in; steps to a threshold, their censored median and ratios of it out.

A run that never gets to the threshold is *censored*: it needs more steps than it had. Medians over seeds
and folds are those of the Kaplan-Meier estimator, which such runs enter with what is known of them. The
threshold is common to all that is compared.

Reference: Kaplan, Meier, 1958, Nonparametric estimation from incomplete observations; Brookmeyer, Crowley,
1982, A confidence interval for the median survival time; Borgan, Liestol, 1990, A note on confidence
intervals and bands for the survival function based on transformations (the log-log scale).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast.learning.scores import Metric

_ROUNDING = 1e-9  # of a share: products of (1 - d / n) miss a half by less
_FEWEST = 5  # runs of each side; the interval of fewer would promise too much

Numbers = Sequence[float] | NDArray[np.number[Any]]
Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reached:
    """When a run got to a threshold, or for how long it did not.

    Attributes:
        steps: to the threshold; where it was not reached, the last step that was looked at.
        is_reached: whether it was; False: censored, more than `steps` are needed.
    """

    steps: float
    is_reached: bool


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class KaplanMeier:
    """The share of runs that are not there yet, with a band for each step by itself.

    Attributes:
        steps: (k,) float64, ascending: where the share falls.
        share: (k,) float64 from each of these steps on; before the first it is 1.
        low, high: (k,) float64 of the band, on the log-log scale with Greenwood's variance; NaN where
            the share is 0, of which there is none.
    """

    steps: Array
    share: Array
    low: Array
    high: Array


def steps_to(
    steps: Numbers, values: Numbers, threshold: float, *, higher_is_better: bool = True
) -> Reached:
    """Return when a curve first gets to a threshold, on the line between two evaluations.

    Args:
        steps: (n,) of the evaluations, ascending.
        values: (n,) of a metric; evaluations where it is NaN are left out.
        threshold: the value asked for.
        higher_is_better: False for metrics in `LOWER_IS_BETTER`.

    Returns:
        The step, a fraction where it lies between two evaluations, the first one where that is there
        already. Where the curve does not get there: its last step, censored. A run that patience ended is
        censored early, so it tells less than one that went on.

    Raises:
        ValueError: other shapes, steps that do not ascend, infinity, no value that is defined.

    Example:
        >>> steps_to([0, 100, 200], [0.5, 0.75, 1.0], 0.875)
        Reached(steps=150.0, is_reached=True)
    """
    at, of = np.asarray(steps, np.float64), np.asarray(values, np.float64)
    if at.ndim != 1 or at.shape != of.shape:
        raise ValueError(f"values must be one for each of steps, {at.shape}, got {of.shape}")
    if not np.isfinite(at).all() or (np.diff(at) <= 0).any():
        raise ValueError("steps must be finite and ascend, got others")
    if np.isinf(of).any() or not math.isfinite(threshold):
        raise ValueError("values and threshold must be finite, got infinity or a NaN threshold")
    known = ~np.isnan(of)
    if not known.any():
        raise ValueError("values must be defined at some step, got NaN at all of them")
    at, of = at[known], of[known]
    sign = 1 if higher_is_better else -1
    there = np.flatnonzero(sign * of >= sign * threshold)
    if not len(there):
        return Reached(steps=float(at[-1]), is_reached=False)
    i = int(there[0])
    if i == 0:
        return Reached(steps=float(at[0]), is_reached=True)
    way = (threshold - of[i - 1]) / (of[i] - of[i - 1])
    return Reached(steps=float(at[i - 1] + way * (at[i] - at[i - 1])), is_reached=True)


def kaplan_meier(found: Sequence[Reached], *, confidence: float = 0.95) -> KaplanMeier:
    """Estimate the share of runs that have not reached a threshold after so many steps.

    S(t) = prod over steps t_i <= t of (1 - d_i / n_i): of n_i runs that had not reached it and were still
    looked at, d_i did.

    Args:
        found: of each run, at least one.
        confidence: of the band at each step.

    Raises:
        ValueError: no runs, or a confidence out of range.
    """
    _check(confidence, found=found)
    from scipy.special import ndtri  # half a second that only the end of a study spends

    at, is_reached = _arrays(found)
    steps = np.unique(at[is_reached])
    events = (at[is_reached] == steps[:, None]).sum(axis=1)
    at_risk = (at >= steps[:, None]).sum(axis=1)
    share: Array = np.cumprod(1 - events / at_risk)
    low, high = np.full((2, len(steps)), np.nan)
    some = at_risk > events  # the share is above 0
    greenwood = np.cumsum(events[some] / (at_risk[some] * (at_risk[some] - events[some])))
    logs = np.log(share[some])
    half = float(ndtri((1 + confidence) / 2)) * np.sqrt(greenwood) / -logs
    low[some], high[some] = np.exp(logs * np.exp(half)), np.exp(logs * np.exp(-half))
    return KaplanMeier(steps=steps, share=share, low=low, high=high)


def median_steps(found: Sequence[Reached], *, confidence: float = 0.95) -> Metric:
    """Return the median of steps to a threshold over runs, some of them censored.

    The middle of the steps at which half of the runs are there: without censoring, the plain median.
    Where just half get there at all, nothing is known of the other side of the middle, and the median is
    not reached. (Some programs give the last step that was reached then, which is too low.)

    The interval is Brookmeyer and Crowley's: the steps at which a half lies within the band of
    `kaplan_meier`. It takes runs as independent, which folds of one data set are not quite.

    Args:
        found: of each run (seed, fold), at least one.
        confidence: of the interval.

    Returns:
        Value and bounds. Value and `high` are infinite where they are not reached, `low` is NaN where the
        band gives none. Under seven runs have no upper bound.

    Raises:
        ValueError: as `kaplan_meier`.

    Example:
        >>> runs = [Reached(steps=s, is_reached=s < 900) for s in (100, 300, 200, 900, 900)]
        >>> median_steps(runs)
        Metric(value=300.0, low=100.0, high=inf)
    """
    curve = kaplan_meier(found, confidence=confidence)
    low = curve.steps[curve.low <= 0.5]
    high = curve.steps[curve.high < 0.5]
    return Metric(
        value=_median(*_arrays(found)),
        low=float(low[0]) if len(low) else math.nan,
        high=float(high[0]) if len(high) else math.inf,
    )


def speed_up(
    base: Sequence[Reached],
    other: Sequence[Reached],
    *,
    paired: bool,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Metric:
    """Return how many times faster one way gets to a threshold: the ratio of censored medians.

    Args:
        base: runs of the way that it is held against.
        other: runs of the way asked about; the ratio is above 1 where it needs fewer steps.
        paired: whether the i-th runs of both are of one seed and fold: they are drawn together.
        confidence: of the interval, percentiles of a bootstrap over runs, which are the same on a log
            scale. Folds of one data set are not quite independent: with few seeds it is too narrow.
        resamples: draws.
        seed: of the draws.

    Returns:
        Value and bounds: inf where only `base` does not reach its median, 0 where only `other` does not,
        NaN where neither does. Draws in which neither does may hide any ratio: they count as 0 in the
        lower bound and as infinity in the upper one. Bounds are NaN where the value is, for under five
        runs on a side, and where the draws do not differ: no spread is no certainty.

    Raises:
        ValueError: no runs; pairs of unequal number; options out of range.

    Determinism: by the seed.

    Example:
        >>> slow = [Reached(steps=s, is_reached=True) for s in (400, 500, 600, 450, 550, 480)]
        >>> fast = [Reached(steps=s.steps / 2, is_reached=True) for s in slow]
        >>> speed_up(slow, fast, paired=True).value
        2.0
    """
    _check(confidence, base=base, other=other)
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    if paired and len(base) != len(other):
        raise ValueError(
            f"other must have a run for each of base, {len(base)}, where paired, got {len(other)}"
        )
    one, two = _arrays(base), _arrays(other)
    value = _ratio(_median(*one), _median(*two))
    if math.isnan(value) or min(len(base), len(other)) < _FEWEST:
        return Metric(value=value, low=math.nan, high=math.nan)
    rng = np.random.default_rng(seed)
    draws = np.empty(resamples)
    for i in range(resamples):
        first = rng.integers(len(base), size=len(base))
        second = first if paired else rng.integers(len(other), size=len(other))
        medians = [
            _median(at[rows], is_in[rows]) for (at, is_in), rows in ((one, first), (two, second))
        ]
        draws[i] = _ratio(*medians)
    tail = (1 - confidence) / 2
    # No value between two draws: one of them may be infinite.
    low = float(np.quantile(np.nan_to_num(draws, nan=0, posinf=np.inf), tail, method="lower"))
    high = float(
        np.quantile(np.nan_to_num(draws, nan=np.inf, posinf=np.inf), 1 - tail, method="higher")
    )
    if (draws == draws[0]).all():
        low = high = math.nan
    return Metric(value=value, low=low, high=high)


# --- How it is done ----------------------------------------------------------------------------


def _arrays(found: Sequence[Reached]) -> tuple[Array, NDArray[np.bool_]]:
    return (
        np.array([run.steps for run in found], np.float64),
        np.array([run.is_reached for run in found], np.bool_),
    )


def _median(at: Array, is_reached: NDArray[np.bool_]) -> float:
    """Return the middle of the steps at which S is a half; infinite where S stays at a half or above."""
    order = np.lexsort((~is_reached, at))  # of equal steps, those that are censored are last
    kept = is_reached[order]
    n = len(at)
    share = np.cumprod(np.where(kept, 1 - 1 / (n - np.arange(n)), 1))
    below = np.flatnonzero(share < 0.5 - _ROUNDING)
    if not len(below):
        return math.inf
    half = np.flatnonzero(share <= 0.5 + _ROUNDING)
    return float((at[order[half[0]]] + at[order[below[0]]]) / 2)


def _ratio(base: float, other: float) -> float:
    if base == other and base in (0, math.inf):
        return math.nan
    return base / other if other else math.inf


def _check(confidence: float, **runs: Sequence[Reached]) -> None:
    for name, found in runs.items():
        if not len(found):
            raise ValueError(f"{name} must have at least one run, got none")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
