"""Shares of the variance of rows within classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_ROUNDING = 1e-12  # of the squares: what varies less does not vary


def explained_share(rows: Floats, classes: Ints, of: Ints) -> float:
    """Return eta squared: squares between the levels of something within classes, over all within them.

    Args:
        rows: (n, d).
        classes, of: (n,) numbers from 0.

    Returns:
        0..1; NaN where rows do not vary within classes.

    Reference: Pearson, 1905; of several columns, their squares added.
    """
    size = int(of.max()) + 1
    of_classes = _squares_of_means(rows, classes)
    within = float(np.einsum("ij,ij->", rows, rows)) - of_classes
    if within <= _ROUNDING * len(rows):
        return float("nan")
    return max(0.0, _squares_of_means(rows, classes * size + of) - of_classes) / within


def adjusted_share(rows: Floats, classes: Ints, of: Ints) -> float:
    """Return epsilon squared: eta squared less what as many levels explain by their number alone.

    Returns:
        At most 1, about 0 where levels say nothing, below it by chance; NaN where rows do not vary within
        classes, or every row is a level of its own.

    Reference: Kelley, 1935.
    """
    n = len(rows)
    cells = len(np.unique(classes * (int(of.max()) + 1) + of))
    if cells == n:
        return float("nan")
    share = explained_share(rows, classes, of)
    return 1 - (1 - share) * (n - len(np.unique(classes))) / (n - cells)


def _squares_of_means(rows: Floats, cells: Ints) -> float:
    """Return the sum over cells of their rows times the squared length of their mean."""
    numbers = np.unique(cells, return_inverse=True)[1]
    order = np.argsort(numbers, kind="stable")
    counts = np.bincount(numbers)
    sums = np.add.reduceat(rows[order], np.cumsum(counts) - counts, axis=0)
    return float((np.einsum("ij,ij->i", sums, sums) / counts).sum())
