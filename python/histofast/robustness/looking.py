"""Who is near whom, and of what class and level they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_FIRST = 256  # neighbours that are nearly always enough
_ROUNDING = 64 * np.finfo(np.float64).eps  # a cosine distance below is of equal directions


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Neighbours:
    """All rows by their distance from each, the nearest first.

    Attributes:
        order: (n, n) their numbers; those of the row's own group, itself among them, at the end.
        distances: (n, n) cosine distances in this order, infinite of the own group.
        same_class: (n, n) whether they are of the row's class.
    """

    order: NDArray[np.int32]
    distances: Floats
    same_class: NDArray[np.bool_]

    def looked_at(self, levels: Ints, *, k: int, m: int) -> tuple[Ints, Floats]:
        """Look for own neighbours, of a row's class and another level, and strange ones, the reverse.

        Returns:
            counts: (n, 2) own and strange ones among the k nearest.
            margins: (n,) (d_strange - d_own) / (d_strange + d_own) of the mean distances of the m nearest of
                each; NaN where there are fewer, or where all of them are at 0.
        """
        own, strange = self._typed(levels, np.arange(len(levels)), max(k, _FIRST))
        counts = np.stack([own[:, :k].sum(axis=1), strange[:, :k].sum(axis=1)], axis=1)
        found = self._margins(np.arange(len(levels)), own, strange, m)
        lacking = np.flatnonzero(np.isnan(found))
        if len(lacking) and len(levels) > own.shape[1]:
            typed = self._typed(levels, lacking, len(levels))
            found[lacking] = self._margins(lacking, *typed, m)
        return counts.astype(np.int64), found

    def _typed(
        self, levels: Ints, rows: Ints, depth: int
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        same_level = levels[self.order[rows, :depth]] == levels[rows, None]
        same_class = self.same_class[rows, :depth]
        known = np.isfinite(self.distances[rows, :depth])
        return same_class & ~same_level & known, ~same_class & same_level & known

    def _margins(
        self, rows: Ints, own: NDArray[np.bool_], strange: NDArray[np.bool_], m: int
    ) -> Floats:
        distances = self.distances[rows, : own.shape[1]]
        d_own, d_strange = (_mean_of_first(distances, chosen, m) for chosen in (own, strange))
        both = d_own + d_strange
        both[both == 0] = np.nan
        margins: Floats = (d_strange - d_own) / both
        return margins


def neighbours_of(unit: Floats, classes: Ints, groups: Ints) -> Neighbours:
    """Sort all rows by their cosine distance from each; of equally far ones the first comes first.

    Args:
        unit: (n, d) rows of length 1.
        classes, groups: (n,) of each.
    """
    distances = 1 - unit @ unit.T
    distances[distances <= _ROUNDING] = 0
    distances[groups[:, None] == groups] = np.inf
    order = np.argsort(distances, axis=1, kind="stable").astype(np.int32)
    return Neighbours(
        order=order,
        distances=np.take_along_axis(distances, order, axis=1),
        same_class=classes[order] == classes[:, None],
    )


def median(values: Floats, weights: Floats) -> float:
    """Return the median of values that are there as often as their whole weights say; NaN are left out."""
    defined = ~np.isnan(values)
    values, weights = values[defined], weights[defined]
    order = np.argsort(values, kind="stable")
    ends = np.cumsum(weights[order])
    if not len(ends) or not ends[-1]:
        return float("nan")
    middle = np.searchsorted(ends, [(ends[-1] - 1) // 2, ends[-1] // 2], side="right")
    return float(values[order][middle].mean())


def lower_tail(values: Floats, share: float) -> float:
    """Return the mean of the values up to the quantile of a share; NaN are left out."""
    defined = values[~np.isnan(values)]
    if not len(defined):
        return float("nan")
    return float(defined[defined <= np.quantile(defined, share)].mean())


def _mean_of_first(distances: Floats, chosen: NDArray[np.bool_], m: int) -> Floats:
    """Return the mean of the first m of each row's chosen distances, NaN where there are fewer."""
    first = chosen & (chosen.cumsum(axis=1) <= m)
    sums = np.where(first, distances, 0).sum(axis=1)
    means: Floats = np.where(first.sum(axis=1) == m, sums / m, np.nan)
    return means
