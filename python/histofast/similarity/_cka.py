"""Centered kernel alignment of two sets of features of the same samples."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

_MIN_SAMPLES = 4  # below that the unbiased estimate divides by zero


def cka(
    x: NDArray[np.floating],
    y: NDArray[np.floating],
    *,
    estimator: Literal["debiased", "biased"] = "debiased",
) -> float:
    """Return the linear CKA of two feature matrices, computed in float64.

    Args:
        x: (n, p) features, one sample per row, n >= 4.
        y: (n, q) other features of the same samples in the same order.
        estimator: "debiased" expects 0 for independent features and may be slightly negative;
            "biased" grows with p / n even then.

    Returns:
        1 for features that are equal up to rotation, scale and shift.

    Raises:
        ValueError: not two matrices of the same number of rows, fewer than 4 rows, NaN or infinity,
            features that do not vary, an unknown estimator.

    Reference: Kornblith, Norouzi, Lee, Hinton, 2019, Similarity of Neural Network Representations
    Revisited; Szekely and Rizzo, 2014, for the unbiased estimate by U-centring.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(50, 3))
        >>> round(cka(x, 2 * x[:, ::-1] + 5), 6)
        1.0
    """
    if estimator not in ("debiased", "biased"):
        raise ValueError(f"estimator must be 'debiased' or 'biased', got {estimator!r}")
    if len(x) != len(y):
        raise ValueError(f"x and y must have the same rows, got {len(x)} and {len(y)}")
    k, gram_y = (_centred_gram(name, a, estimator) for name, a in (("x", x), ("y", y)))
    norms = [float(np.sqrt(np.vdot(a, a))) for a in (k, gram_y)]
    return float(np.vdot(k, gram_y)) / (norms[0] * norms[1])


def _centred_gram(name: str, features: NDArray[np.floating], estimator: str) -> NDArray[np.float64]:
    """Return the (n, n) Gram matrix; of the debiased estimate U-centred, with zero diagonal."""
    if features.ndim != 2:
        raise ValueError(f"{name} must be of shape (n, p), got {features.shape}")
    n = len(features)
    if n < _MIN_SAMPLES:
        raise ValueError(f"{name} must have at least {_MIN_SAMPLES} rows, got {n}")
    values = features.astype(np.float64)
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        raise ValueError(f"{name} must be finite, got NaN or infinity in {bad.sum()} of {n} rows")
    values -= values.mean(axis=0)
    # Rounding leaves a trace of a constant column; against the features' size it is nothing.
    if np.abs(values).max(initial=0) <= 1e-12 * np.abs(features).max(initial=0):
        raise ValueError(f"{name} must vary, got {n} equal rows: CKA is undefined")
    gram: NDArray[np.float64] = values @ values.T
    if estimator == "biased":
        return gram
    np.fill_diagonal(gram, 0)
    means = gram.sum(axis=1) / (n - 2)
    means -= means.sum() / (2 * (n - 1))
    gram -= means[:, None] + means
    np.fill_diagonal(gram, 0)
    return gram
