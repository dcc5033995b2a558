"""How alike two sets of features are once one is turned onto the other as well as can be."""

from __future__ import annotations

import math

import numpy as np

from histofast.similarity.matrix import Features, centred, check_pair

_MIN_ROWS = 3  # two features that are not tied by their number alone


def procrustes(x: Features, y: Features) -> float:
    """Return the orthogonal Procrustes similarity of two feature matrices, computed in float64.

    ||X'Y||_* / (||X|| ||Y||), the sum of the singular values of X'Y over the Frobenius norms, columns
    centred. It is 1 - d^2 / 2, d the distance of X / ||X|| from Y / ||Y|| when that is turned onto it (the
    narrower of the two widened by zeros), and the cosine of the angle between their shapes. 1: equal
    but for rotation, reflection, scale and shift; 0: no column of one goes with a column of the other.

    Of features that have nothing in common it is not 0, and near 1 where they are wider than there
    are rows: hold it against `null_of`.

    Args:
        x: (n, p) features, one sample per row, n >= 3, better 5 to 10 times p + q.
        y: (n, q) other features of the same samples in the same order.

    Raises:
        TypeError: not arrays of floating point numbers.
        ValueError: not two matrices of the same number of rows, NaN or infinity, features that do
            not vary.

    Reference: Schonemann, 1966; Williams, Kunz, Kornblith, Linderman, 2021, for features of networks.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(50, 2))
        >>> round(procrustes(x, 3 * x @ np.array([[0.6, 0.8], [-0.8, 0.6]]) + 7), 6)
        1.0
    """
    scales = check_pair(x, y, min_rows=_MIN_ROWS)
    sides, sizes = [], []
    for name, features, scale in zip("xy", (x, y), scales, strict=True):
        columns = centred(features, scale=scale)
        if not columns.any():
            raise ValueError(f"{name} must vary, got {len(x)} equal rows: Procrustes is undefined")
        sizes.append(float(np.linalg.norm(columns)))
        sides.append(_narrowed(columns))
    shared = np.linalg.svd(sides[0].T @ sides[1], compute_uv=False).sum()
    return min(1.0, float(shared) / math.prod(sizes))  # rounding may leave a cosine above 1


def _narrowed(columns: Features) -> Features:
    """Return a matrix of at most n columns with the same Gram."""
    n, p = columns.shape
    if p <= n:
        return columns
    found: Features = np.transpose(np.linalg.qr(columns.T, mode="r"))
    return found
