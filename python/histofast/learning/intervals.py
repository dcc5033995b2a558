"""Values of a metric, one per fold and repeat, in; intervals and verdicts on ways of making models out.

Folds share most of their training patients, so their values spread less than those of new patients
would: the corrected variance puts n_test / n_train beside the usual 1 / n. Repeats (other folds, other
seeds) add values, and the term of the patients stays as it is.

Reference: Nadeau, Bengio, 2003, Inference for the generalization error; Bouckaert, Frank, 2004,
Evaluating the replicability of significance tests; Holm, 1979.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast.learning.scores import RANGES, Metric

TOLERANCE = 0.05  # of a knee, in units of the metric

_ROUNDING = 1e-12  # of the values' size: what spreads less does not spread
_MOST_REPEATS = 1000  # that `repeats_needed` tries

Values = Sequence[float] | NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A candidate's metric less that of the one it is held against, on the same folds and seeds.

    Or, of `paired_differences`, on the same rows. Bounds and p are NaN where there is no interval: under 2
    folds, folds that do not differ, fewer than 5 groups.

    Attributes:
        value: mean over folds and repeats, or over rows.
        low, high: interval of this one comparison: the corrected one, or that of draws of groups.
        p: of no difference, two-sided, by the same t, or the same draws.
        p_adjusted: for the number of comparisons, after Holm.
        low_adjusted, high_adjusted: interval that excludes 0 if and only if `p_adjusted` is below
            1 - confidence; for one comparison, `low` and `high`.
        confidence: of both intervals.
        n: folds and repeats that it stands on, or groups that were drawn from.
    """

    value: float
    low: float
    high: float
    p: float
    p_adjusted: float
    low_adjusted: float
    high_adjusted: float
    confidence: float
    n: int

    @property
    def is_shown(self) -> bool:
        """Whether the adjusted interval excludes 0."""
        return self.low_adjusted > 0 or self.high_adjusted < 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """A candidate among several.

    Attributes:
        metric: mean over folds and repeats with its corrected interval.
        n: folds and repeats in which the metric is defined.
        difference: to the highest; None for the highest itself.
    """

    metric: Metric
    n: int
    difference: Difference | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranking:
    """Candidates held against the highest of them.

    Attributes:
        highest: name of the candidate with the highest mean, or the lowest where lower is better; of
            equal ones the first. The largest of several estimates is biased upwards: "highest of
            k", not "best".
        standings: by name, in the order of the candidates.
        higher_is_better: of the metric.
    """

    highest: str
    standings: Mapping[str, Standing]
    higher_is_better: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Knee:
    """The cheapest candidate that is about as good as the highest, if one is known to be.

    Attributes:
        name: of it; the highest itself where all cheaper ones are shown to be worse; None where
            the data cannot tell.
        closest: where `name` is None, the cheaper candidate that needs the fewest patients more.
        patients_needed: about how many patients it needs in all; None where more of them would
            not help, since its mean itself is out of tolerance.
        tolerance: how much less counts as about as good.
    """

    name: str | None
    closest: str | None
    patients_needed: int | None
    tolerance: float


def corrected_interval(
    values: Values, *, test_share: float, confidence: float = 0.95, of: str | None = None
) -> Metric:
    """Return the mean of a metric over folds and repeats, and the interval of the way of training.

    m +- t_{n-1} s sqrt(1 / n + n_test / n_train) with the standard deviation s of the n values.

    Args:
        values: (n,) of each fold of each repeat; NaN (a fold with one class) is left out.
        test_share: patients tested in a fold / all patients, 1 / k for k folds. Those who validate
            count as training.
        confidence: of the interval.
        of: the metric, whose range the bounds do not leave: what it cannot be is no part of where it
            may lie. None: of something without a range.

    Returns:
        Value and bounds; NaN bounds for under 2 values and for values that do not differ: no
        spread is no certainty.

    Raises:
        ValueError: values of another shape or infinite, options out of range.

    Example:
        >>> found = corrected_interval([0.8, 0.7, 0.9, 0.8, 0.7], test_share=1 / 5)
        >>> round(found.low, 2), round(found.value, 2), round(found.high, 2)
        (0.62, 0.78, 0.94)
    """
    _check(test_share, confidence)
    spread = _Spread(_finite("values", values), test_share)
    low, high = spread.interval(1 - confidence)
    least, most = RANGES.get(of or "", (-math.inf, math.inf))
    return Metric(
        value=spread.mean, low=float(np.maximum(low, least)), high=float(np.minimum(high, most))
    )


def corrected_difference(
    values: Values, others: Values, *, test_share: float, confidence: float = 0.95
) -> Difference:
    """Return how much higher `values` are than `others` of the same folds and seeds, one by one.

    Not the overlap of two intervals: what is common to a fold (hard patients) cancels.

    Args:
        values, others: (n,) of each fold of each repeat; a fold without either is left out.
        test_share, confidence: as in `corrected_interval`.

    Raises:
        ValueError: as `corrected_interval`; values of several lengths.
    """
    _check(test_share, confidence)
    return _compared([_pairs("others", values, others, test_share)], confidence)[0]


def corrected_differences(
    pairs: Mapping[Any, tuple[Values, Values]], *, test_share: float, confidence: float = 0.95
) -> dict[Any, Difference]:
    """Return several differences that are told together, adjusted for their number after Holm.

    Args:
        pairs: by name, `values` and `others` of `corrected_difference`. One that has no interval does
            not count among the comparisons.
        test_share, confidence: as in `corrected_interval`.

    Raises:
        ValueError: as `corrected_difference`.
    """
    _check(test_share, confidence)
    spreads = [_pairs(str(name), *pair, test_share) for name, pair in pairs.items()]
    return dict(zip(pairs, _compared(spreads, confidence), strict=True))


def repeats_needed(
    values: Values,
    others: Values,
    *,
    test_share: float,
    comparisons: int = 1,
    confidence: float = 0.95,
) -> int | None:
    """Return about how many folds and repeats would show a difference like this one.

    Its mean and its spread are taken to stay. The term of the patients stays as well, so there are
    differences that no number of repeats shows: more patients would be needed.

    Args:
        values, others, test_share, confidence: as in `corrected_difference`.
        comparisons: that it is one of, after Bonferroni; of several, Holm asks this of the first.

    Returns:
        That many in all, up to 1,000; None where those would not do, or nothing spreads.

    Raises:
        ValueError: as `corrected_difference`; no comparison.
    """
    _check(test_share, confidence)
    if comparisons < 1:
        raise ValueError(f"comparisons must be at least 1, got {comparisons}")
    spread = _pairs("others", values, others, test_share)
    if math.isnan(spread.error):
        return None
    from scipy.special import stdtrit

    shared = test_share / (1 - test_share)
    n = np.arange(2, _MOST_REPEATS + 1)
    deviation = spread.error / math.sqrt(1 / spread.n + shared)
    half = -stdtrit(n - 1, (1 - confidence) / comparisons / 2) * deviation * np.sqrt(1 / n + shared)
    enough = np.flatnonzero(abs(spread.mean) > half)
    return int(n[enough[0]]) if len(enough) else None


def holm(p: Values) -> NDArray[np.float64]:
    """Adjust p values for their number: the smallest times k, the next times k - 1 ...

    Args:
        p: (k,) p values; NaN for a comparison that could not be made, which does not count.

    Returns:
        (k,) adjusted ones, at most 1, in the order of `p`.
    """
    array = np.asarray(p, np.float64)
    return np.minimum(array * multipliers(array), 1)


def against_highest(
    values: Mapping[str, Values],
    *,
    test_share: float,
    confidence: float = 0.95,
    higher_is_better: bool = True,
) -> Ranking:
    """Hold candidates against the highest of them, adjusted for how many there are.

    Args:
        values: by name, (n,) of each fold of each repeat, the folds and seeds of all the same, such
            as `metrics_of_models` returns. The cheapest first, if `knee` is to follow.
        test_share, confidence: as in `corrected_interval`.
        higher_is_better: False for metrics in `LOWER_IS_BETTER`.

    Returns:
        Their means, and the differences of all others to the highest, after Holm.

    Raises:
        ValueError: as `corrected_interval`; no candidates, values of several lengths, no candidate
            with a defined value.
    """
    _check(test_share, confidence)
    if not values:
        raise ValueError("values must have at least one candidate, got none")
    means = {
        name: corrected_interval(v, test_share=test_share, confidence=confidence)
        for name, v in values.items()
    }
    sign = 1 if higher_is_better else -1
    defined = [name for name, metric in means.items() if not math.isnan(metric.value)]
    if not defined:
        raise ValueError(f"values must be defined in some fold, got NaN in all of {len(values)}")
    highest = max(defined, key=lambda name: sign * means[name].value)
    others = [name for name in values if name != highest]
    spreads = [_pairs(name, values[name], values[highest], test_share) for name in others]
    differences = dict(zip(others, _compared(spreads, confidence), strict=True))
    return Ranking(
        highest=highest,
        standings={
            name: Standing(
                metric=metric,
                n=len(_finite(name, values[name])),
                difference=differences.get(name),
            )
            for name, metric in means.items()
        },
        higher_is_better=higher_is_better,
    )


def knee(ranking: Ranking, *, patients: int, tolerance: float = TOLERANCE) -> Knee:
    """Choose the cheapest candidate that is shown to be about as good as the highest.

    That is: the corrected interval of (candidate - highest) lies above -tolerance, and the difference
    is not shown to be negative. Where all cheaper ones are shown to be worse it is the highest itself.

    Patients needed are an approximation: the half width of the interval goes with 1 / sqrt(patients)
    (the standard deviation of the folds does, and n_test / n_train stays), the mean difference stays.

    Args:
        ranking: of `against_highest`, the cheapest candidate first.
        patients: that it stands on.
        tolerance: how much less counts as about as good, in units of the metric, > 0.

    Raises:
        ValueError: a tolerance or a number of patients that is not positive.

    Example:
        >>> folds = {"cheap": [0.80, 0.71, 0.90, 0.79], "dear": [0.81, 0.70, 0.90, 0.80]}
        >>> knee(against_highest(folds, test_share=1 / 4), patients=80).name
        'cheap'
    """
    if not tolerance > 0:
        raise ValueError(f"tolerance must be above 0, got {tolerance}")
    if patients < 1:
        raise ValueError(f"patients must be at least 1, got {patients}")
    undecided: dict[str, float] = {}
    for name, standing in ranking.standings.items():
        if name == ranking.highest:
            break
        if standing.difference is None or math.isnan(standing.difference.value):
            undecided[name] = math.inf
            continue
        gain = standing.difference.value * (1 if ranking.higher_is_better else -1)
        half = (standing.difference.high - standing.difference.low) / 2
        is_worse = standing.difference.is_shown and gain < 0
        if not is_worse and gain - half > -tolerance:
            return Knee(name=name, closest=None, patients_needed=None, tolerance=tolerance)
        if not is_worse:
            within = gain > -tolerance and math.isfinite(half)
            undecided[name] = patients * (half / (gain + tolerance)) ** 2 if within else math.inf
    if not undecided:
        return Knee(name=ranking.highest, closest=None, patients_needed=None, tolerance=tolerance)
    closest = min(undecided, key=lambda name: undecided[name])
    needed = undecided[closest]
    return Knee(
        name=None,
        closest=closest,
        patients_needed=math.ceil(needed) if math.isfinite(needed) else None,
        tolerance=tolerance,
    )


def wider(one: Metric, other: Metric) -> Metric:
    """Return the one with the wider interval; one without an interval is not wider."""
    widths = [m.high - m.low if math.isfinite(m.high - m.low) else -1.0 for m in (one, other)]
    return one if widths[0] >= widths[1] else other


# --- How it is done ----------------------------------------------------------------------------


class _Spread:
    """The mean of (n,) values and its corrected standard error, NaN where there is none."""

    def __init__(self, values: NDArray[np.float64], test_share: float) -> None:
        self.n = len(values)
        self.mean = float(values.mean()) if self.n else math.nan
        self.error = math.nan
        if self.n > 1 and np.ptp(values) > _ROUNDING * max(1.0, float(np.abs(values).max())):
            factor = 1 / self.n + test_share / (1 - test_share)
            self.error = float(values.std(ddof=1)) * math.sqrt(factor)

    @property
    def p(self) -> float:
        if math.isnan(self.error):
            return math.nan
        from scipy.special import stdtr  # half a second that only the end of a study spends

        return 2 * float(stdtr(self.n - 1, -abs(self.mean) / self.error))

    def interval(self, alpha: float) -> tuple[float, float]:
        if math.isnan(self.error):
            return math.nan, math.nan
        from scipy.special import stdtrit

        half = -float(stdtrit(self.n - 1, alpha / 2)) * self.error
        return self.mean - half, self.mean + half


def _compared(spreads: Sequence[_Spread], confidence: float) -> list[Difference]:
    """Return the differences with intervals and p, adjusted for their number."""
    p = np.array([spread.p for spread in spreads])
    found = []
    for spread, times, adjusted in zip(spreads, multipliers(p), holm(p), strict=True):
        low, high = spread.interval(1 - confidence)
        low_adjusted, high_adjusted = spread.interval((1 - confidence) / times)
        found.append(
            Difference(
                value=spread.mean,
                low=low,
                high=high,
                p=spread.p,
                p_adjusted=float(adjusted),
                low_adjusted=low_adjusted,
                high_adjusted=high_adjusted,
                confidence=confidence,
                n=spread.n,
            )
        )
    return found


def multipliers(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """What Holm multiplies each p with, before the cut at 1: k, k - 1, ..., or up to an earlier one.

    An interval at alpha over this excludes 0 if and only if the adjusted p is below alpha.
    """
    times = np.ones(len(p))
    k = int((~np.isnan(p)).sum())
    highest = 0.0
    for rank, i in enumerate(np.argsort(p, kind="stable")[:k]):  # NaN comes last
        highest = max(highest, (k - rank) * p[i])
        times[i] = highest / p[i] if p[i] > 0 else k
    return times


def _finite(name: str, values: Values) -> NDArray[np.float64]:
    array = np.asarray(values, np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name} must be of shape (n,), one per fold, got {array.shape}")
    if np.isinf(array).any():
        raise ValueError(f"{name} must be finite or NaN, got infinity")
    return array[~np.isnan(array)]


def _pairs(name: str, values: Values, others: Values, test_share: float) -> _Spread:
    one, other = np.asarray(values, np.float64), np.asarray(others, np.float64)
    if one.shape != other.shape:
        raise ValueError(
            f"{name} must be of the same folds as what it is held against, "
            f"got {one.shape} and {other.shape}"
        )
    return _Spread(_finite(name, one - other), test_share)


def _check(test_share: float, confidence: float) -> None:
    if not 0 < test_share < 1:
        raise ValueError(f"test_share must be between 0 and 1, got {test_share}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
