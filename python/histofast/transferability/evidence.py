"""LogME: how probable labels are if they are a linear function of features and noise.

Reference: You, Liu, Wang, Long, 2021, LogME: practical assessment of pre-trained models for transfer
learning (arXiv 2102.11005).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from histofast.transferability.given import Array, Features, Given, Labels, given

_WELL = (
    1e-10  # of the largest eigenvalue: with none below it, a Gram puts the score off by under 1e-7
)
_CLEAR = 1e-6  # of the sum of squares: what is left of it after a subtraction has digits enough
_EXACT = 1e-20  # of the sum of squares: less is rounding, the labels are a function of the features
_COARSE, _FINE, _ROUNDS = 512, 32, 6  # points of the search for the ratio of the precisions
_BELOW, _ABOVE = 46.0, 28.0  # how far it goes beyond the eigenvalues, natural logarithms


def log_me(features: Features, labels: Labels) -> float:
    """Return LogME: the logarithm of the maximum evidence per row, mean over the classes.

    Each class in turn is y, 1 in its rows and 0 elsewhere; y = F m + noise, m ~ N(0, I / a), noise ~
    N(0, I / b). The evidence of a and b is

        n/2 log b + d/2 log a - b/2 ||F m - y||^2 - a/2 m'm - 1/2 log |a I + b F'F| - n/2 log 2 pi

    with the m of its posterior. Given a / b the best b is known, and what is left is a function of one
    number in the singular values of F: its greatest value is looked for on a grid from beyond the
    smallest to beyond the largest of them, which is made finer about the best. The authors' fixed point
    from a = b = 1 ends at a stationary point of the same function, mostly this one; where features are of
    very different sizes it may miss it, or not end.

    Features are taken as they are, not centred: a shift changes the score, a common factor and a rotation
    do not.

    Args:
        features: (n, d) floating point, one row per picture.
        labels: (n,) integer classes.

    Returns:
        The higher, the better. Infinite where a class is a linear function of the features without
        any error, with fewer independent features than rows.

    Raises:
        TypeError: features that are not floating point, labels that are not integers.
        ValueError: other shapes, NaN or infinity, under two classes, no more rows than classes,
            features that are all 0.

    Determinism: the last bits may depend on the BLAS library and its threads.

    Example:
        >>> f = np.array([[1.0], [-1.0], [1.0], [-1.0]])  # tells nothing of the classes
        >>> round(log_me(f, np.array([0, 0, 1, 1])), 4), round(-(math.log(math.pi) + 1) / 2, 4)
        (-1.0724, -1.0724)
    """
    rows = given(features, labels)
    spectrum = _by_gram(rows) or _by_triangle(rows)
    evidences = [_maximum(spectrum, k) for k in range(len(rows.counts))]
    return float(np.mean(evidences)) / spectrum.n


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Spectrum:
    """What the evidence asks of features and classes: F = U S V', S of r values above rounding.

    `values` are the (r,) S^2, `squares` the (r, c) squares of U'Y, `outside` the (c,) sums of squares of what
    no combination of the features gives.
    """

    n: int
    values: Array
    squares: Array
    outside: Array


def _by_gram(rows: Given) -> _Spectrum | None:
    """Return it from F'F, or None where squaring would cost digits that are needed."""
    n, d = rows.features.shape
    if n <= d:
        return None
    gram, sums = np.zeros((d, d)), np.zeros((d, len(rows.counts)))
    for block, one_hot in rows.blocks():
        gram += block.T @ block
        sums += block.T @ one_hot
    alive = gram.diagonal() > 0  # a unit that never fires has no direction
    if not alive.any():
        raise ValueError("features must not all be 0, got nothing else")
    values, vectors = np.linalg.eigh(gram[np.ix_(alive, alive)])
    if values[0] < _WELL * values[-1]:
        return None
    squares = (vectors.T @ sums[alive]) ** 2 / values[:, None]
    outside = rows.counts - squares.sum(axis=0)
    if (outside < _CLEAR * rows.counts).any():
        return None
    return _Spectrum(n=n, values=values, squares=squares, outside=outside)


def _by_triangle(rows: Given) -> _Spectrum:
    """Return it from the triangular factor of features and classes side by side: slower, all digits."""
    n, d = rows.features.shape
    both = np.vstack([np.hstack(block) for block in rows.blocks()])
    triangle = np.asarray(np.linalg.qr(both, mode="r"), np.float64)
    k = min(n, d)
    turn, values, _ = np.linalg.svd(triangle[:k, :d], full_matrices=False)
    if values[0] <= 0:
        raise ValueError("features must not all be 0, got nothing else")
    squares = (turn.T @ triangle[:k, d:]) ** 2
    kept = values > max(n, d) * np.finfo(np.float64).eps * values[0]
    outside = squares[~kept].sum(axis=0) + (triangle[k:, d:] ** 2).sum(axis=0)
    outside[outside <= _EXACT * rows.counts] = 0
    return _Spectrum(n=n, values=values[kept] ** 2, squares=squares[kept], outside=outside)


def _maximum(spectrum: _Spectrum, k: int) -> float:
    """Return the greatest log evidence of one class over both precisions."""
    if spectrum.outside[k] <= 0 and len(spectrum.values) < spectrum.n:
        return math.inf
    low = math.log(spectrum.values.min()) - _BELOW
    high = math.log(spectrum.values.max()) + _ABOVE
    points = _COARSE
    best = -math.inf
    for _ in range(_ROUNDS):
        grid = np.linspace(low, high, points)
        found = _evidence(np.exp(grid), spectrum, k)
        i = int(found.argmax())
        best = max(best, float(found[i]))
        low, high = float(grid[max(i - 1, 0)]), float(grid[min(i + 1, points - 1)])
        points = _FINE
    return best


def _evidence(ratios: Array, spectrum: _Spectrum, k: int) -> Array:
    """Return the log evidence at (p,) ratios a / b, each with its best b = n / residual."""
    shrunk = ratios[:, None] / (ratios[:, None] + spectrum.values)  # (p, r)
    residual = spectrum.outside[k] + shrunk @ spectrum.squares[:, k]
    volume = np.log1p(spectrum.values / ratios[:, None]).sum(axis=1)
    fit = np.log(2 * np.pi * residual / spectrum.n) + 1
    evidence: Array = -spectrum.n / 2 * fit - volume / 2
    return evidence
