"""Checks on matrices of features: one sample per row, in every measure alike."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.floating[Any]]

CONSTANT = 1e-12  # a column that varies by less of its size than this varies by rounding only
_LARGEST = 1e300  # sums of as many rows as memory holds do not overflow


def check_features(name: str, features: Features, *, min_rows: int = 1) -> float:
    """Refuse what is not an (n, p) matrix of finite floating point numbers.

    Returns:
        The power of two that brings the largest magnitude to [0.5, 1): exact to multiply with, and
        no fourth power of it overflows. 1 for zeros.
    """
    if not isinstance(features, np.ndarray):
        raise TypeError(f"{name} must be a NumPy array (n, p), got {type(features).__name__}")
    if features.dtype not in (np.float16, np.float32, np.float64):
        raise TypeError(
            f"{name} must be float16, float32 or float64, got {features.dtype.name}: "
            "convert it with .astype"
        )
    if features.ndim != 2:
        raise ValueError(f"{name} must be of shape (n, p), got {features.shape}")
    n, p = features.shape
    if p == 0:
        raise ValueError(f"{name} must have at least 1 column, got shape {features.shape}")
    if n < min_rows:
        raise ValueError(f"{name} must have at least {min_rows} rows, got {n}")
    # NaN and infinity pass through max and min: no mask of the whole matrix is made.
    peak = max(float(features.max(initial=0)), -float(features.min(initial=0)))
    if not math.isfinite(peak):
        bad = sum(
            int((~np.isfinite(features[start : start + 4096]).all(axis=1)).sum())
            for start in range(0, n, 4096)
        )
        raise ValueError(f"{name} must be finite, got NaN or infinity in {bad} of {n} rows")
    if peak > _LARGEST:
        raise ValueError(f"{name} must be at most {_LARGEST:g} in size, got {peak:g}: scale it")
    return power_of_two(peak)


def centred(
    features: Features, *, scale: float, subtract_means: bool = True
) -> NDArray[np.float64]:
    """Return checked features, times a scale, less the means of their columns, in float64.

    A column that varies by rounding only is 0.
    """
    values: NDArray[np.float64] = features.astype(np.float64)
    values *= scale
    if not subtract_means:
        return values
    size = _largest(values)
    values -= values.mean(axis=0)
    values -= values.mean(axis=0)  # what rounding left of a large mean
    values[:, _largest(values) <= CONSTANT * size] = 0
    return values


def _largest(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the largest magnitude per column; no second matrix is made for it."""
    largest: NDArray[np.float64] = np.maximum(values.max(axis=0), -values.min(axis=0))
    return largest


def check_pair(x: Features, y: Features, *, min_rows: int = 1) -> tuple[float, float]:
    """As `check_features` of both, and refuse different numbers of rows."""
    scales = check_features("x", x, min_rows=min_rows), check_features("y", y, min_rows=min_rows)
    if len(x) != len(y):
        raise ValueError(f"x and y must have the same rows, got {len(x)} and {len(y)}")
    return scales


def check_choice(name: str, value: object, choices: Collection[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be {' or '.join(map(repr, choices))}, got {value!r}")


def check_count(name: str, value: int, *, at_least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}")
    if value < at_least:
        raise ValueError(f"{name} must be at least {at_least}, got {value}")


def check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")


def power_of_two(peak: float) -> float:
    """The power of two whose product with `peak` lies in [0.5, 1); 1 for zero."""
    if peak == 0:
        return 1.0
    return math.ldexp(1.0, min(max(-math.frexp(peak)[1], -1000), 1000))
