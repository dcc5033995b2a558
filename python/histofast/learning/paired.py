"""Values of several sources on the same rows in; by how much one is above another, and what of it is shown, out.

Groups (patients, slides) are drawn again, the same ones for both sides of a difference, so that what is
common to them (a hard slide) cancels. Models are fixed: what is shown holds of these, on other groups.

Reference: Efron, Tibshirani, 1993, An introduction to the bootstrap; Davison, Hinkley, 1997, Bootstrap
methods and their application (p of resamples); Holm, 1979.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast._numbers import whole_number
from histofast._words import count
from histofast.learning.association import LEAST_GROUPS
from histofast.learning.intervals import Difference, multipliers
from histofast.learning.weighted import PANEL, Array, numbered

RESAMPLES = 10_000

_DIGITS = 9  # of the rank of a bound: 0.05 is not a number of the machine


def paired_differences(
    pairs: Mapping[Any, tuple[Array, Array]],
    *,
    groups: Sequence[Any] | NDArray[Any],
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[Any, Difference]:
    """Return how much higher means over rows are than others of the same rows, told together, after Holm.

    Args:
        pairs: by name, (n,) values and (n,) others, or (k, n) others that were drawn k times: then those whose
            mean comes nearest to the values', or is the farthest above it. A row without either is left out.
        groups: (n,) whose each row is.
        resamples, confidence, seed: as in `differences_of_draws`.

    Returns:
        By name; NaN where no row has both, NaN bounds for fewer than 5 groups.

    Raises:
        ValueError: values of other lengths or infinite, options out of range, too few resamples.

    Determinism: by the seed.

    Example:
        >>> slides = np.arange(20) % 10
        >>> values = np.linspace(0, 1, 20)
        >>> found = paired_differences({"a": (values + 0.1, values)}, groups=slides)["a"]
        >>> round(found.value, 2), found.is_shown
        (0.1, True)
    """
    if not pairs:
        return {}
    apart = {name: nearest(*pair, name=str(name)) for name, pair in pairs.items()}
    group_of = numbered("groups", groups, len(next(iter(apart.values()))))
    groups_in_all = int(group_of.max()) + 1
    above, below = {}, {}
    for name, values in apart.items():
        if values.shape != group_of.shape:
            raise ValueError(f"{name} must be of {len(group_of)} rows, got {values.shape}")
        known = ~np.isnan(values)
        above[name], below[name] = (
            np.bincount(group_of[known], each[known], minlength=groups_in_all).astype(np.float64)
            for each in (values, np.ones(len(values)))
        )
    return differences_of_sums(above, below, resamples=resamples, confidence=confidence, seed=seed)


def nearest(values: Array, others: Array, *, name: str = "others") -> Array:
    """Return (n,) `values` less `others`, of (k, n) drawn others less those with the smallest mean difference.

    Raises:
        ValueError: other shapes, infinite values.
    """
    one, other = np.asarray(values, np.float64), np.asarray(others, np.float64)
    if one.ndim != 1 or other.ndim not in (1, 2) or other.shape[-1:] != one.shape:
        raise ValueError(
            f"{name} must be (n,) or (draws, n) as values are (n,), got {other.shape} and {one.shape}"
        )
    if np.isinf(one).any() or np.isinf(other).any():
        raise ValueError(f"{name} must be finite or NaN, got infinity")
    apart: Array = one - np.atleast_2d(other)
    known = ~np.isnan(apart)
    sums, sizes = np.where(known, apart, 0).sum(axis=1), known.sum(axis=1)
    means = np.divide(sums, sizes, out=np.full(len(sums), math.inf), where=sizes > 0)
    found: Array = apart[int(means.argmin())]
    return found


def differences_of_sums(
    above: Mapping[Any, Array],
    below: Mapping[Any, Array],
    *,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[Any, Difference]:
    """Return differences that are one sum over groups by another, told together, after Holm.

    Args:
        above, below: by name, (g,) sums of each group; a group with 0 below has no part in it. A mean over rows
            is their sum over their number, a difference of two R2 that of squared errors over their total.
        resamples, confidence, seed: as in `differences_of_draws`.

    Returns:
        By name; NaN bounds for fewer than 5 groups.

    Raises:
        ValueError: options out of range, too few resamples.
    """
    resamples = whole_number("resamples", resamples, at_least=1)
    names = list(above)
    tops, bottoms = (np.stack([sums[name] for name in names]).T for sums in (above, below))
    parts = [
        _divided(drawn @ tops, drawn @ bottoms)
        for drawn in _drawn(len(tops), resamples=resamples, seed=seed)
    ]
    values = _divided(tops.sum(axis=0), bottoms.sum(axis=0))
    draws = np.concatenate(parts)
    groups = (bottoms > 0).sum(axis=0)
    return differences_of_draws(
        {name: float(values[k]) for k, name in enumerate(names)},
        {
            name: draws[:, k] if groups[k] >= LEAST_GROUPS else draws[:0, k]
            for k, name in enumerate(names)
        },
        units={name: int(groups[k]) for k, name in enumerate(names)},
        confidence=confidence,
    )


def differences_of_draws(
    values: Mapping[Any, float],
    draws: Mapping[Any, Array],
    *,
    units: Mapping[Any, int],
    confidence: float = 0.95,
) -> dict[Any, Difference]:
    """Return differences with intervals from draws of each, told together, after Holm.

    p is two-sided: twice the share of draws on the other side of 0, 0 itself on both, (1 + count) / (1 + draws).
    An interval leaves out as many draws on each side as leave p of its ends at 1 - confidence.

    Args:
        values: the differences by name.
        draws: (r,) of each, where it is drawn again; NaN is left out. (0,): there is no interval.
        units: how many were drawn from.
        confidence: of the intervals.

    Raises:
        ValueError: a confidence out of range, too few draws for so many differences.

    Determinism: exact ranks of the draws.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    known = {name: np.sort(each[~np.isnan(each)]) for name, each in draws.items()}
    told = [each for each in known.values() if len(each)]
    least = math.floor(round(2 * len(told) / (1 - confidence), _DIGITS))
    if any(len(each) < least for each in told):
        raise ValueError(
            f"resamples must be at least {least} to tell {count(len(told), 'difference')} together, got "
            f"{min(map(len, told))}"
        )
    p = np.array([_p(known[name]) for name in values])
    found = {}
    for name, one, times in zip(values, p, multipliers(p), strict=True):
        low, high = _bounds(known[name], 1 - confidence)
        low_adjusted, high_adjusted = _bounds(known[name], (1 - confidence) / times)
        found[name] = Difference(
            value=values[name],
            low=low,
            high=high,
            p=float(one),
            p_adjusted=float(min(one * times, 1.0)),
            low_adjusted=low_adjusted,
            high_adjusted=high_adjusted,
            confidence=confidence,
            n=units[name],
        )
    return found


# --- How it is done ----------------------------------------------------------------------------


def _drawn(g: int, *, resamples: int, seed: int) -> Iterator[Array]:
    """Yield (r, g) how often each group is drawn, some resamples at a time."""
    rng = np.random.default_rng(seed)
    rows = max(1, PANEL // g)
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        yield rng.multinomial(g, np.full(g, 1 / g), size=size).astype(np.float64)


def _divided(above: Array, below: Array) -> Array:
    found: Array = np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)
    return found


def _p(draws: Array) -> float:
    """Return p of no difference, of sorted draws; NaN where there are none."""
    if not len(draws):
        return math.nan
    beyond = min(
        int(np.searchsorted(draws, 0.0, side="right")),  # up to 0
        len(draws) - int(np.searchsorted(draws, 0.0, side="left")),  # from 0
    )
    return min(2 * (1 + beyond) / (1 + len(draws)), 1.0)


def _bounds(draws: Array, alpha: float) -> tuple[float, float]:
    """Return the bounds, of sorted draws, that exclude 0 if and only if p is below alpha."""
    if not len(draws):
        return math.nan, math.nan
    rank = math.ceil(round(alpha * (1 + len(draws)) / 2, _DIGITS)) - 1
    return float(draws[rank - 1]), float(draws[-rank])
