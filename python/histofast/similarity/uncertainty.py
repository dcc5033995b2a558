"""How sure a similarity is: intervals by resampling slides or patients, and what chance reaches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast.similarity.alignment import cka, grams_of
from histofast.similarity.hsic import MIN_SAMPLES, Estimator, Gram, Kernel, check_options
from histofast.similarity.matrix import Features, centred, check_confidence, check_count, check_pair

Columns = NDArray[np.float64]  # (n, p), scaled and centred

_PANEL_BYTES = 64 * 2**20  # cross products of all groups that are held at a time


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """An interval by resampling groups: of percentiles of a bootstrap, or of a jackknife.

    Attributes:
        value: the statistic of all rows.
        low, high: its bounds.
        confidence: share of the resamples between them.
        n_groups, n_resamples: what was resampled, and how often.
    """

    value: float
    low: float
    high: float
    confidence: float
    n_groups: int
    n_resamples: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PermutationNull:
    """What a similarity reaches when the rows of one side are shuffled.

    Attributes:
        value: the similarity of the rows as they are.
        shuffled: (n_permutations,) similarities with shuffled rows.
    """

    value: float
    shuffled: NDArray[np.float64]

    @property
    def p_value(self) -> float:
        """Share of shuffles that reach the value, itself counted as one of them."""
        return float((1 + (self.shuffled >= self.value).sum()) / (1 + len(self.shuffled)))

    def upper(self, confidence: float = 0.95) -> float:
        """What this share of the shuffles stays below."""
        check_confidence(confidence)
        return float(np.quantile(self.shuffled, confidence))


def block_bootstrap(
    statistic_of_rows: Callable[[NDArray[np.int64]], float],
    groups: NDArray[Any],
    *,
    n_resamples: int = 1000,
    seed: int | np.random.Generator = 0,
    confidence: float = 0.95,
) -> Interval:
    """Return the interval of a statistic when whole groups are drawn again with replacement.

    Drawn rows repeat. A statistic of pairs of rows, such as debiased CKA, takes repeats for samples
    of their own and grows by that: `cka_interval` leaves those pairs out.

    Args:
        statistic_of_rows: takes (m,) indices of rows, m about n, some of them repeated.
        groups: (n,) slide or patient of each row, of any type that can be sorted.
        n_resamples: times to draw, >= 2.
        seed: seed, or generator.
        confidence: share of the resamples between the bounds.

    Raises:
        TypeError: groups that are not an array.
        ValueError: groups of another shape, fewer than 2 of them, fewer than 2 resamples, a
            confidence out of (0, 1), a statistic that is not finite.

    Determinism: by the seed.

    Example:
        >>> heights = np.arange(12.0)
        >>> slides = np.repeat(["a", "b", "c", "d"], 3)
        >>> found = block_bootstrap(lambda rows: heights[rows].mean(), slides)
        >>> found.low < found.value < found.high
        True
    """
    _check_resampling(n_resamples, confidence)
    group_of, n_groups = _numbered("groups", groups)
    rows_of = np.split(np.argsort(group_of, kind="stable"), np.cumsum(np.bincount(group_of))[:-1])
    rng = np.random.default_rng(seed)
    found = [statistic_of_rows(np.arange(len(group_of)))]
    for _ in range(n_resamples):
        drawn = rng.integers(n_groups, size=n_groups)
        found.append(statistic_of_rows(np.concatenate([rows_of[group] for group in drawn])))
    return _interval(np.asarray(found, np.float64), n_groups, confidence)


def cka_interval(
    x: Features,
    y: Features,
    *,
    groups: NDArray[Any] | None = None,
    kernel: Kernel = "linear",
    estimator: Estimator = "debiased",
    rbf_scale: float = 1.0,
    n_resamples: int = 1000,
    seed: int | np.random.Generator = 0,
    confidence: float = 0.95,
) -> Interval:
    """Return the bootstrap interval of a CKA, over groups of rows.

    What is resampled are pairs of rows of the centred Grams. A pair across groups counts once per
    pair of draws; pairs across two draws of one group are left out, for they are no independent
    samples. A pair within a group counts 1 - 1 / groups per draw, which is what pairs across groups
    come to on average: value and interval weigh all pairs alike. Centring anew in every resample
    would change the result in second order only, and is not done.

    Args:
        x: (n, p) features, one sample per row, n >= 4.
        y: (n, q) other features of the same samples in the same order.
        groups: (n,) slide or patient of each row; every row is its own when omitted.
        kernel: as in `cka`.
        estimator: as in `cka`.
        rbf_scale: as in `cka`.
        n_resamples: times to draw, >= 2.
        seed: seed, or generator.
        confidence: share of the resamples between the bounds.

    Raises:
        TypeError: not arrays; features that are not floating point.
        ValueError: as `cka`; groups of another shape, fewer than 2 of them, so few that a resample
            has no pairs; fewer than 2 resamples, a confidence out of (0, 1).

    Determinism: by the seed.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(60, 3))
        >>> found = cka_interval(x, x + 1, groups=np.arange(60) // 5)
        >>> round(found.low, 6), round(found.high, 6)
        (1.0, 1.0)
    """
    check_options(kernel, estimator, rbf_scale)
    _check_resampling(n_resamples, confidence)
    scales = check_pair(x, y, min_rows=MIN_SAMPLES)
    n, width = len(x), x.shape[1] + y.shape[1]
    group_of, n_groups = _numbered("groups", np.arange(n) if groups is None else groups)
    if len(group_of) != n:
        raise ValueError(f"groups must have one entry per row, got {len(group_of)} for {n} rows")
    if kernel == "linear" and (n + n_groups**2) * width < n**2:
        value = cka(x, y, estimator=estimator)
        columns = [centred(a, scale=scale) for a, scale in zip((x, y), scales, strict=True)]
        sums = [
            _sums_of_features(columns[i], columns[j], group_of, n_groups, estimator)
            for i, j in ((0, 1), (0, 0), (1, 1))
        ]
    else:
        pair = grams_of(x, y, scales, kernel=kernel, estimator=estimator, rbf_scale=rbf_scale)
        value = pair.terms().cka(n)
        sums = [
            _sums_of_grams(a, b, group_of, n_groups)
            for a, b in ((pair.x, pair.y), (pair.x, pair.x), (pair.y, pair.y))
        ]
    return _of_pairs(value, sums, n_resamples=n_resamples, seed=seed, confidence=confidence)


def interval_of_grams(
    gram_x: Gram,
    gram_y: Gram,
    *,
    groups: NDArray[Any],
    n_resamples: int,
    seed: int | np.random.Generator,
    confidence: float,
) -> Interval:
    """As `cka_interval`, of the correlation of two (n, n) centred matrices without diagonals."""
    _check_resampling(n_resamples, confidence)
    group_of, n_groups = _numbered("groups", groups)
    sums = [
        _sums_of_grams(a, b, group_of, n_groups)
        for a, b in ((gram_x, gram_y), (gram_x, gram_x), (gram_y, gram_y))
    ]
    xy, xx, yy = (float(part.sum()) for part in sums)
    value = xy / math.sqrt(xx * yy)
    return _of_pairs(value, sums, n_resamples=n_resamples, seed=seed, confidence=confidence)


def null_of_grams(
    gram_x: Gram, gram_y: Gram, *, n_permutations: int, seed: int | np.random.Generator
) -> PermutationNull:
    """As `permutation_null`, of the correlation of two (n, n) centred matrices without diagonals."""
    check_count("n_permutations", n_permutations, at_least=1)
    rng = np.random.default_rng(seed)
    norm = math.sqrt(np.vdot(gram_x, gram_x) * np.vdot(gram_y, gram_y))
    shuffled = np.empty(n_permutations)
    for i in range(n_permutations):
        order = rng.permutation(len(gram_x))
        shuffled[i] = np.vdot(gram_x, gram_y[order[:, None], order])
    return PermutationNull(value=float(np.vdot(gram_x, gram_y)) / norm, shuffled=shuffled / norm)


def permutation_null(
    x: Features,
    y: Features,
    *,
    kernel: Kernel = "linear",
    estimator: Estimator = "debiased",
    rbf_scale: float = 1.0,
    n_permutations: int = 1000,
    seed: int | np.random.Generator = 0,
) -> PermutationNull:
    """Return the CKA of x with y whose rows are shuffled, many times over.

    Shuffled rows have nothing to do with each other any more, their distributions are as they were.

    Args:
        x: (n, p) features, one sample per row, n >= 4.
        y: (n, q) other features of the same samples in the same order.
        kernel: as in `cka`.
        estimator: as in `cka`.
        rbf_scale: as in `cka`.
        n_permutations: times to shuffle, >= 1.
        seed: seed, or generator.

    Raises:
        TypeError: not arrays of floating point numbers, a number that is not an integer.
        ValueError: as `cka`; no permutations.

    Determinism: by the seed.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(50, 3))
        >>> permutation_null(x, x + 1, n_permutations=99).p_value
        0.01
    """
    check_options(kernel, estimator, rbf_scale)
    check_count("n_permutations", n_permutations, at_least=1)
    scales = check_pair(x, y, min_rows=MIN_SAMPLES)
    n = len(x)
    rng = np.random.default_rng(seed)
    shuffled = np.empty(n_permutations)
    if kernel == "linear" and x.shape[1] + y.shape[1] < n:
        value = cka(x, y, estimator=estimator)
        columns = [centred(a, scale=scale) for a, scale in zip((x, y), scales, strict=True)]
        norms = [math.sqrt(_cross_term(a, a, estimator)) for a in columns]
        for i in range(n_permutations):
            shuffled[i] = _cross_term(columns[0], columns[1][rng.permutation(n)], estimator)
    else:
        pair = grams_of(x, y, scales, kernel=kernel, estimator=estimator, rbf_scale=rbf_scale)
        terms = pair.terms()
        value = terms.cka(n)
        norms = [math.sqrt(terms.xx), math.sqrt(terms.yy)]
        for i in range(n_permutations):
            order = rng.permutation(n)
            shuffled[i] = np.vdot(pair.x, pair.y[order[:, None], order])
    return PermutationNull(value=value, shuffled=shuffled / (norms[0] * norms[1]))


def _check_resampling(n_resamples: int, confidence: float) -> None:
    check_count("n_resamples", n_resamples, at_least=2)
    check_confidence(confidence)


def _numbered(name: str, groups: NDArray[Any]) -> tuple[NDArray[np.int64], int]:
    """Return the groups as numbers from 0, and how many there are."""
    if not isinstance(groups, np.ndarray):
        raise TypeError(f"{name} must be a NumPy array (n,), got {type(groups).__name__}")
    if groups.ndim != 1:
        raise ValueError(f"{name} must be of shape (n,), got {groups.shape}")
    names, numbers = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"{name} must be at least 2, got {len(names)}: one cannot be resampled")
    return numbers.astype(np.int64), len(names)


def _interval(found: NDArray[np.float64], n_groups: int, confidence: float) -> Interval:
    """Make the interval of a value and, after it, its resamples."""
    bad = ~np.isfinite(found)
    if bad.any():
        raise ValueError(
            f"statistic_of_rows must be finite, got NaN or infinity in {bad.sum()} of {len(found)}"
        )
    low, high = np.quantile(found[1:], [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(
        value=float(found[0]),
        low=float(low),
        high=float(high),
        confidence=confidence,
        n_groups=n_groups,
        n_resamples=len(found) - 1,
    )


def _of_pairs(
    value: float,
    sums: Sequence[NDArray[np.float64]],
    *,
    n_resamples: int,
    seed: int | np.random.Generator,
    confidence: float,
) -> Interval:
    """Resample groups from the (g, g) sums of xy, xx and yy over the pairs of their rows."""
    n_groups = len(sums[0])
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=n_resamples)
    xy, xx, yy = (_resampled(part, draws.astype(np.float64)) for part in sums)
    empty = (xx <= 0) | (yy <= 0)
    if empty.any():
        raise ValueError(
            f"groups must be more than {n_groups}, got no pairs that vary in {empty.sum()} of "
            f"{n_resamples} resamples: the similarity is undefined there"
        )
    return _interval(np.append(value, xy / np.sqrt(xx * yy)), n_groups, confidence)


def _resampled(sums: NDArray[np.float64], draws: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sum over the pairs of every resample from the sums per pair of groups."""
    across: NDArray[np.float64] = ((draws @ sums) * draws).sum(axis=1)
    across += (draws * (1 - 1 / len(sums)) - np.square(draws)) @ sums.diagonal()
    return across


def _sums_of_grams(
    gram_x: Gram, gram_y: Gram, group_of: NDArray[np.int64], n_groups: int
) -> NDArray[np.float64]:
    """Return (g, g) sums of the products of two Grams over the pairs of groups."""
    products = gram_x * gram_y
    order = np.argsort(group_of, kind="stable")
    starts = np.searchsorted(group_of[order], np.arange(n_groups))
    by_row = np.add.reduceat(products[order], starts, axis=0)
    return np.add.reduceat(by_row[:, order], starts, axis=1)


def _sums_of_features(
    x: Columns, y: Columns, group_of: NDArray[np.int64], n_groups: int, estimator: Estimator
) -> NDArray[np.float64]:
    """As `_sums_of_grams`, from (n, p) and (n, q) centred features without their Grams.

    An element of a U-centred Gram is x_i.x_j + a_i + a_j = (x_i, a_i, 1).(x_j, 1, a_j); the sum of
    products of two such over i in g and j in h is the inner product of two cross products, one of g
    and one of h.
    """
    order = np.argsort(group_of, kind="stable")
    bounds = np.searchsorted(group_of[order], np.arange(n_groups + 1))
    left_x, right_x = _factors(x[order], estimator)
    left_y, right_y = _factors(y[order], estimator)
    width = left_y.shape[1]
    step = max(1, _PANEL_BYTES // (16 * n_groups * width))
    sums = np.zeros((n_groups, n_groups))
    for start in range(0, left_x.shape[1], step):
        columns = slice(start, start + step)
        left, right = (
            np.stack([(a[i:j, columns].T @ b[i:j]).ravel() for i, j in pairwise(bounds)])
            for a, b in ((left_x, left_y), (right_x, right_y))
        )
        sums += left @ right.T
    if estimator == "debiased":
        # The diagonal of a U-centred Gram is 0, that of the products above is not.
        own = np.einsum("ij,ij->i", left_x, right_x) * np.einsum("ij,ij->i", left_y, right_y)
        sums[np.diag_indices(n_groups)] -= np.add.reduceat(own, bounds[:-1])
    return sums


def _factors(columns: Columns, estimator: Estimator) -> tuple[Columns, Columns]:
    """Return two matrices whose rows' inner products are the centred Gram off its diagonal."""
    if estimator == "biased":
        return columns, columns
    n = len(columns)
    squares = np.einsum("ij,ij->i", columns, columns)[:, None]
    offsets = squares / (n - 2) - squares.sum() / (2 * (n - 1) * (n - 2))
    ones = np.ones_like(offsets)
    return np.hstack([columns, offsets, ones]), np.hstack([columns, ones, offsets])


def _cross_term(x: Columns, y: Columns, estimator: Estimator) -> float:
    """Return n (n - 3) HSIC1, or (n - 1)^2 HSIC0, of centred features."""
    n = len(x)
    cross = x.T @ y
    term = float(np.vdot(cross, cross))
    if estimator == "debiased":
        squares_x, squares_y = (np.einsum("ij,ij->i", a, a) for a in (x, y))
        term -= n / (n - 2) * float(squares_x @ squares_y)
        term += float(squares_x.sum() * squares_y.sum()) / ((n - 1) * (n - 2))
    return term
