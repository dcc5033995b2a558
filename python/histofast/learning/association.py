"""Pairs of numbers in, how they go together out: Pearson's r, what it stands on, its intervals.

Points that share something (folds of one data set) are no independent points: an interval over points
is too narrow then, and one over what they share is the one to go by.

Reference: Fisher, 1921, On the "probable error" of a coefficient of correlation; Field and Welsh, 2007,
Bootstrapping clustered data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast._numbers import whole_number

LEAST_GROUPS = 5  # fewer cannot be resampled to anything
_LEAST_DEFINED = 3
_LEAST_POINTS = 4  # Fisher's standard error is 1 / sqrt(n - 3)
_ROUNDING = 1e-12  # of the values' size: what spreads less does not spread


@dataclass(frozen=True, kw_only=True, slots=True)
class Correlation:
    """Pearson's r of points.

    Attributes:
        r: NaN for under 3 points, since two lie on a line, or where one of the two does not vary.
        n: points that have both numbers.
        groups: that they are of; n where each is its own.
        low, high: interval of r when whole groups are drawn again; NaN for under 5 groups.
        low_points, high_points: Fisher's, as if all points were independent; NaN for under 4 points, and
            for r of 1 or -1.
        confidence: of both.
    """

    r: float
    n: int
    groups: int
    low: float
    high: float
    low_points: float
    high_points: float
    confidence: float

    @property
    def is_shown(self) -> bool:
        """Whether both intervals exclude 0: of few groups, the draws alone promise too much."""
        both = ((self.low, self.high), (self.low_points, self.high_points))
        return all(low > 0 or high < 0 for low, high in both)


def correlate(
    x: Sequence[float] | NDArray[np.floating[Any]],
    y: Sequence[float] | NDArray[np.floating[Any]],
    *,
    groups: Sequence[Any] | None = None,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Correlation:
    """Return Pearson's r of points with its interval over groups and over points.

    Args:
        x, y: (n,) one point each; one with a NaN is left out.
        groups: (n,) what points share, such as their data set; None: nothing.
        confidence: of the intervals.
        resamples: times that groups are drawn again. Draws in which r is undefined are left out.
        seed: of the draws.

    Raises:
        ValueError: numbers or groups of other shapes, infinite ones, options out of range.

    Determinism: by the seed.

    Example:
        >>> found = correlate([1.0, 2, 3, 4, 5], [1.0, 3, 2, 5, 4])
        >>> round(found.r, 2), found.n, found.is_shown
        (0.8, 5, False)
    """
    resamples = whole_number("resamples", resamples, at_least=1)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    one, other = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if one.ndim != 1 or one.shape != other.shape:
        raise ValueError(f"x and y must be of one shape (n,), got {one.shape} and {other.shape}")
    if np.isinf(one).any() or np.isinf(other).any():
        raise ValueError("x and y must be finite or NaN, got infinity")
    told = list(range(len(one))) if groups is None else list(groups)
    if len(told) != len(one):
        raise ValueError(f"groups must have one entry per point, got {len(told)} for {len(one)}")
    kept = ~np.isnan(one + other)
    numbers = {
        group: k
        for k, group in enumerate(dict.fromkeys(g for g, ok in zip(told, kept, strict=True) if ok))
    }
    group_of = np.array([numbers[g] for g, ok in zip(told, kept, strict=True) if ok], np.int64)
    sums = _sums(one[kept], other[kept], group_of, len(numbers))
    n, k = int(kept.sum()), len(numbers)
    r = float(_r(sums.sum(axis=0))) if n >= _LEAST_DEFINED else math.nan
    low = high = math.nan
    if k >= LEAST_GROUPS and not math.isnan(r):
        draws = np.random.default_rng(seed).multinomial(k, np.full(k, 1 / k), size=resamples)
        tails = [(1 - confidence) / 2, (1 + confidence) / 2]
        low, high = (float(v) for v in np.nanquantile(_r(draws @ sums), tails))
    low_points, high_points = _fisher(r, n, confidence)
    return Correlation(
        r=r,
        n=n,
        groups=k,
        low=low,
        high=high,
        low_points=low_points,
        high_points=high_points,
        confidence=confidence,
    )


def _sums(
    x: NDArray[np.float64], y: NDArray[np.float64], group_of: NDArray[np.int64], k: int
) -> NDArray[np.float64]:
    """Return (k, 6) sums of each group that r is made of, of numbers about 0 and of size 1."""
    x, y = (_standardised(values) for values in (x, y))
    terms = (np.ones_like(x), x, y, x * x, y * y, x * y)
    return np.stack([np.bincount(group_of, weights=t, minlength=k) for t in terms], axis=1)


def _standardised(values: NDArray[np.float64]) -> NDArray[np.float64]:
    if len(values) == 0 or np.ptp(values) <= _ROUNDING * float(np.abs(values).max()):
        return np.zeros_like(values)
    found: NDArray[np.float64] = (values - values.mean()) / values.std()
    return found


def _r(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return r of sums (..., 6); NaN where one of the two does not vary."""
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    vary_x, vary_y = n * xx - x * x, n * yy - y * y
    product = np.sqrt(np.maximum(vary_x, 0) * np.maximum(vary_y, 0))
    defined = (vary_x > _ROUNDING * n * n) & (vary_y > _ROUNDING * n * n)
    r = np.divide(n * xy - x * y, product, out=np.full_like(product, np.nan), where=defined)
    bounded: NDArray[np.float64] = np.clip(r, -1, 1)
    return bounded


def _fisher(r: float, n: int, confidence: float) -> tuple[float, float]:
    if math.isnan(r) or n < _LEAST_POINTS or abs(r) >= 1:
        return math.nan, math.nan
    from scipy.special import ndtri

    half = float(ndtri((1 + confidence) / 2)) / math.sqrt(n - 3)
    return math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)
