"""How alike two sets of features are by the distances of their rows: all of them, or who is near whom.

Distances are Euclidean, of float64: rotation, reflection and shift of the columns leave them, a scale
leaves their order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from histofast.similarity.matrix import Features, centred, check_count, check_features, check_pair

NEIGHBOURS = 10

_BLOCK = 1024  # rows whose distances from all are held at a time
_MIN_ROWS = 4  # two orders of so few distances are not tied by their number alone
_ROUNDING = 64 * np.finfo(np.float64).eps  # of the squares that a squared distance is made of


def rsa(x: Features, y: Features) -> float:
    """Return the representational similarity of two feature matrices.

    Spearman's correlation of the n (n - 1) / 2 distances between the rows of x with those between the
    rows of y; equal distances share their mean rank. 1: the distances have one order; 0: what is far
    apart in one is anywhere in the other.

    Args:
        x: (n, p) features, one sample per row, n >= 4. Memory grows with n^2: 100 MB for 2,000 rows.
        y: (n, q) other features of the same samples in the same order.

    Raises:
        TypeError: not arrays of floating point numbers.
        ValueError: not two matrices of the same number of rows, NaN or infinity, rows that are all
            equally far from each other.

    Reference: Kriegeskorte, Mur, Bandettini, 2008; with distances in place of 1 - correlation, which a
    rotation of the columns would change.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(50, 3))
        >>> round(rsa(x, 2 * x + 7), 6)
        1.0
    """
    check_pair(x, y, min_rows=_MIN_ROWS)
    ranks_x, ranks_y = rank_gram("x", x), rank_gram("y", y)
    return correlation_of_grams(ranks_x, ranks_y)


def rank_gram(name: str, features: Features) -> NDArray[np.float64]:
    """Return (n, n) ranks of the distances between checked rows, less their mean; 0 on the diagonal."""
    from scipy.stats import rankdata  # a second that only who asks for ranks spends

    n = len(features)
    squares = np.concatenate([block for _, block in _blocks(features)])
    upper = np.triu_indices(n, 1)
    ranks = rankdata(squares[upper])
    ranks -= ranks.mean()
    if not ranks.any():
        raise ValueError(
            f"{name} must differ in its distances, got {n} rows equally far from each other: "
            "RSA is undefined"
        )
    gram = np.zeros((n, n))
    gram[upper] = ranks
    gram += gram.T
    return gram


def correlation_of_grams(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Return the correlation of what stands off the diagonals of two centred matrices."""
    return float(np.vdot(x, y) / (math.sqrt(np.vdot(x, x)) * math.sqrt(np.vdot(y, y))))


def knn_jaccard(x: Features, y: Features, *, k: int = NEIGHBOURS) -> float:
    """Return how much the neighbourhoods of rows overlap in two feature matrices.

    Mean over the rows i of |A_i and B_i| / |A_i or B_i|, A_i the k rows of x nearest to row i, B_i those of
    y; of equally far rows the first. 1: all rows have the same neighbours; of features that have
    nothing in common about k / (2 (n - 1) - k).

    Args:
        x: (n, p) features, one sample per row, n > k + 1.
        y: (n, q) other features of the same samples in the same order.
        k: neighbours.

    Raises:
        TypeError: not arrays of floating point numbers, a k that is no integer.
        ValueError: not two matrices of the same number of rows, NaN or infinity, features that do
            not vary, as many neighbours as there are other rows, or none.

    Reference: Schumacher, Wolf, Ritzert, Lemmerich, Grohe, Strohmaier, 2021, equation 8 (Jaccard
    similarity of neighbours); with Euclidean distances for cosines, which a shift would change.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(50, 3))
        >>> knn_jaccard(x, 2 * x + 7)
        1.0
    """
    check_pair(x, y)
    near_x, near_y = (neighbours_of(name, a, k=k) for name, a in (("x", x), ("y", y)))
    return float(overlap(near_x, near_y).mean())


def neighbours_of(name: str, features: Features, *, k: int = NEIGHBOURS) -> NDArray[np.int64]:
    """Return (n, k) the nearest other rows of each checked row, in the order of their numbers."""
    check_count("k", k, at_least=1)
    n = len(features)
    if n <= k + 1:
        raise ValueError(f"{name} must have more than k + 1 = {k + 1} rows, got {n}")
    found = np.empty((n, k), np.int64)
    varies = False
    for rows, squares in _blocks(features):
        varies = varies or bool(squares.any())
        squares[np.arange(len(squares)), rows] = np.inf
        found[rows] = _nearest(squares, k)
    if not varies:
        raise ValueError(f"{name} must vary, got {n} equal rows: no row is nearer than another")
    return found


def overlap(near_x: NDArray[np.int64], near_y: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return (n,) the Jaccard overlap of the (n, k) neighbours of each row."""
    n, k = near_x.shape
    offsets = np.arange(n)[:, None] * n
    both = np.isin((near_x + offsets), (near_y + offsets)).sum(axis=1)
    shares: NDArray[np.float64] = both / (2 * k - both)
    return shares


def _nearest(squares: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    """Return the columns of the k least of each row, of equal ones the first, sorted."""
    bound = np.partition(squares, k - 1, axis=1)[:, k - 1 : k]
    below, level = squares < bound, squares == bound
    lacking = k - below.sum(axis=1, keepdims=True)
    chosen = below | (level & (level.cumsum(axis=1) <= lacking))
    return np.nonzero(chosen)[1].reshape(len(squares), k)


def _blocks(features: Features) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Yield some rows, and their (m, n) squared distances from all; those that are rounding are 0."""
    columns = centred(features, scale=check_features("features", features))
    sums = np.einsum("ij,ij->i", columns, columns)
    for start in range(0, len(columns), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(columns)))
        sizes = sums[rows, None] + sums
        squares = columns[rows] @ columns.T
        squares *= -2
        squares += sizes
        squares[squares <= _ROUNDING * sizes] = 0
        yield rows, squares
