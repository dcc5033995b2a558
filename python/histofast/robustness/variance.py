"""Shares of the variance of rows within classes."""

from __future__ import annotations

from dataclasses import dataclass

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
    of_classes = float(_Means.of(rows, classes).squares.sum())
    of_cells = float(_Means.of(rows, classes * (int(of.max()) + 1) + of).squares.sum())
    return _share(float(np.einsum("ij,ij->", rows, rows)), of_classes, of_cells, n=len(rows))


def shares_without(rows: Floats, classes: Ints, of: Ints, groups: Ints) -> Floats:
    """Return (g,) `explained_share` of the rows of all groups but one, for each that is left out."""
    of_classes = _Means.of(rows, classes)
    of_cells = _Means.of(rows, classes * (int(of.max()) + 1) + of)
    squares = np.einsum("ij,ij->i", rows, rows)
    order = np.argsort(groups, kind="stable")
    found = []
    for taken in np.split(order, np.cumsum(np.bincount(groups))[:-1]):
        found.append(
            _share(
                float(squares.sum() - squares[taken].sum()),
                of_classes.squares_without(rows, taken),
                of_cells.squares_without(rows, taken),
                n=len(rows) - len(taken),
            )
        )
    return np.array(found)


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


def _share(squares: float, of_classes: float, of_cells: float, *, n: int) -> float:
    within = squares - of_classes
    return max(0.0, of_cells - of_classes) / within if within > _ROUNDING * n else float("nan")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Means:
    """Rows by cells.

    Attributes:
        cells: (n,) number of each row's cell.
        sums: (k, d) of the rows of each cell; counts: (k,) how many.
        squares: (k,) counts times the squared length of the mean.
    """

    cells: Ints
    sums: Floats
    counts: Ints
    squares: Floats

    @classmethod
    def of(cls, rows: Floats, cells: Ints) -> _Means:
        numbers = np.unique(cells, return_inverse=True)[1]
        counts = np.bincount(numbers)
        is_in = np.zeros((len(counts), len(rows)))
        is_in[numbers, np.arange(len(rows))] = 1
        sums = is_in @ rows
        squares = np.einsum("ij,ij->i", sums, sums) / counts
        return cls(cells=numbers, sums=sums, counts=counts, squares=squares)

    def squares_without(self, rows: Floats, taken: Ints) -> float:
        """Return the sum of squares when some rows are left out."""
        cells, at = np.unique(self.cells[taken], return_inverse=True)
        sums = self.sums[cells]
        np.subtract.at(sums, at, rows[taken])
        left = self.counts[cells] - np.bincount(at)
        others = float(self.squares.sum() - self.squares[cells].sum())
        own = np.einsum("ij,ij->i", sums, sums) / np.maximum(left, 1)
        return others + float(own[left > 0].sum())
