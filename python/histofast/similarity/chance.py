"""How sure any measure of features is, and what chance reaches: the way that suits each.

What can be resampled by pairs of rows, or by rows, is; of the others groups are left out one at a time,
since a row that is drawn twice is no sample of its own: it would be its own nearest neighbour, and a
correlation that is made stronger.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast.similarity.distances import neighbours_of, overlap, rank_gram
from histofast.similarity.hsic import Kernel
from histofast.similarity.matrix import Features, check_confidence, check_count, check_pair
from histofast.similarity.measures import Measure
from histofast.similarity.uncertainty import (
    Interval,
    PermutationNull,
    block_bootstrap,
    cka_interval,
    interval_of_grams,
    null_of_grams,
    permutation_null,
)

_KERNELS: dict[str, Kernel] = {"cka": "linear", "cka-rbf": "rbf"}
_MIN_ROWS = 4


def interval_of(
    measure: Measure,
    x: Features,
    y: Features,
    *,
    groups: NDArray[Any],
    n_resamples: int = 1000,
    seed: int | np.random.Generator = 0,
    confidence: float = 0.95,
) -> Interval:
    """Return an interval of a measure of features, over groups of rows.

    Of CKA and RSA pairs of rows of drawn groups are resampled, as `cka_interval` has it, ranks as they
    are among all; of the overlap of neighbours rows of drawn groups, each with the neighbours that it
    has among all. Of every other measure it is that of the jackknife over groups, value -+ t s with
    s^2 = (g - 1) / g sum_i (v_i - mean v)^2, v_i the value without group i, and within what the measure
    can be: `n_resamples` of the result is then the number of groups.

    Args:
        measure: of `MEASURES`, one that needs "rows" or "pooled rows".
        x: (n, p) features, one sample per row.
        y: (n, q) other features of the same samples in the same order.
        groups: (n,) slide or patient of each row.
        n_resamples: times to draw, >= 2.
        seed: seed, or generator.
        confidence: of the interval.

    Raises:
        TypeError, ValueError: as the measure, and as `cka_interval` of groups.

    Determinism: by the seed.
    Reference: Tukey, 1958, for the jackknife.
    """
    drawing: dict[str, Any] = {"n_resamples": n_resamples, "seed": seed, "confidence": confidence}
    if measure.name in _KERNELS:
        kernel = _KERNELS[measure.name]
        return cka_interval(x, y, groups=groups, kernel=kernel, **drawing)
    check_pair(x, y, min_rows=_MIN_ROWS)
    if measure.name == "rsa":
        ranks = rank_gram("x", x), rank_gram("y", y)
        return interval_of_grams(*ranks, groups=groups, **drawing)
    if measure.name == "knn-jaccard":
        shares = overlap(neighbours_of("x", x), neighbours_of("y", y))
        return block_bootstrap(lambda rows: float(shares[rows].mean()), groups, **drawing)
    return _left_out(measure, x, y, groups=groups, confidence=confidence)


def null_of(
    measure: Measure,
    x: Features,
    y: Features,
    *,
    n_permutations: int = 1000,
    seed: int | np.random.Generator = 0,
) -> PermutationNull:
    """Return a measure of x with y whose rows are shuffled, many times over.

    Args:
        measure: of `MEASURES`, one that needs "rows" or "pooled rows".
        x: (n, p) features, one sample per row.
        y: (n, q) other features of the same samples in the same order.
        n_permutations: times to shuffle, >= 1.
        seed: seed, or generator.

    Raises:
        TypeError, ValueError: as the measure; no permutations.

    Determinism: by the seed.

    Example:
        >>> from histofast.similarity import MEASURES
        >>> x = np.random.default_rng(0).normal(size=(50, 3))
        >>> null_of(MEASURES["procrustes"], x, x + 1, n_permutations=99).p_value
        0.01
    """
    if measure.name in _KERNELS:
        kernel = _KERNELS[measure.name]
        return permutation_null(x, y, kernel=kernel, n_permutations=n_permutations, seed=seed)
    check_count("n_permutations", n_permutations, at_least=1)
    check_pair(x, y, min_rows=_MIN_ROWS)
    if measure.name == "rsa":
        ranks = rank_gram("x", x), rank_gram("y", y)
        return null_of_grams(*ranks, n_permutations=n_permutations, seed=seed)
    rng = np.random.default_rng(seed)
    orders = (rng.permutation(len(x)) for _ in range(n_permutations))
    if measure.name == "knn-jaccard":
        near_x, near_y = neighbours_of("x", x), neighbours_of("y", y)
        value = float(overlap(near_x, near_y).mean())
        shuffled = [_shuffled_overlap(near_x, near_y, order) for order in orders]
    else:
        value = measure.function(x, y)
        shuffled = [measure.function(x, y[order]) for order in orders]
    return PermutationNull(value=value, shuffled=np.array(shuffled))


def way_of(measure: Measure, *, n_resamples: int, confidence: float) -> str:
    """Say how `interval_of` makes an interval over slides."""
    share = f"{confidence:.0%}"
    if measure.name == "knn-jaccard":
        return f"{share}, {n_resamples} resamples of slides, neighbours as they are among all"
    if measure.name in (*_KERNELS, "rsa"):
        return f"{share}, {n_resamples} resamples of slides"
    return f"{share}, jackknife over slides"


def _left_out(
    measure: Measure, x: Features, y: Features, *, groups: NDArray[Any], confidence: float
) -> Interval:
    from scipy.special import stdtrit  # half a second that only who asks for an interval spends

    check_confidence(confidence)
    names, group_of = np.unique(groups, return_inverse=True)
    if len(group_of) != len(x):
        raise ValueError(
            f"groups must have one entry per row, got {len(group_of)} for {len(x)} rows"
        )
    g = len(names)
    if g < 2:
        raise ValueError(f"groups must be at least 2, got {g}: one cannot be left out")
    value = measure.function(x, y)
    without = np.array([measure.function(x[group_of != i], y[group_of != i]) for i in range(g)])
    error = math.sqrt((g - 1) / g * float(np.square(without - without.mean()).sum()))
    half = float(stdtrit(g - 1, (1 + confidence) / 2)) * error
    least, most = measure.bounds
    return Interval(
        value=value,
        low=max(least, value - half),
        high=min(most, value + half),
        confidence=confidence,
        n_groups=g,
        n_resamples=g,
    )


def _shuffled_overlap(
    near_x: NDArray[np.int64], near_y: NDArray[np.int64], order: NDArray[np.int64]
) -> float:
    """Return the mean overlap when row i of y is what was row order[i]."""
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return float(overlap(near_x, place[near_y[order]]).mean())
