"""Features of patches in, a colour for each out: alike features have alike colours, on all slides.

The three directions in which a sample of the cohort's features differs most are red, green and blue.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ROWS = 8192  # of features that are looked at together
_AXES = 3
_TAILS = (0.01, 0.99)  # quantiles of the sample that are black and full light
_MIDDLE = 128  # light of an axis that there is not
_LEAST = 1e-12  # share of the variance below which a direction is rounding


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Colouring:
    """What turns features into colours; see `colouring_of`.

    Attributes:
        mean: (d,) float32 of the sample.
        axes: (3, d) float32 orthonormal rows, that of most variance first; rows of zeros where the sample
            has fewer directions.
        low, high: (3,) float32 along each axis, that become 0 and 255.
    """

    mean: NDArray[np.float32]
    axes: NDArray[np.float32]
    low: NDArray[np.float32]
    high: NDArray[np.float32]

    def of(self, features: NDArray[np.floating]) -> NDArray[np.uint8]:
        """Return the colours (n, 3) of features (n, d); black where one is not finite."""
        colours = np.zeros((len(features), _AXES), np.uint8)
        width = self.high - self.low
        for start in range(0, len(features), ROWS):
            block = np.asarray(features[start : start + ROWS], np.float32)
            with np.errstate(invalid="ignore", over="ignore"):
                along = (block - self.mean) @ self.axes.T
                light = 255 * (along - self.low) / np.where(width > 0, width, 1)
            light[:, width <= 0] = _MIDDLE
            is_whole = np.isfinite(light).all(axis=1) & np.isfinite(block).all(axis=1)
            light[~is_whole] = 0
            colours[start : start + ROWS] = np.rint(np.clip(light, 0, 255)).astype(np.uint8)
        return colours


def colouring_of(sample: NDArray[np.float32]) -> Colouring:
    """Fit principal axes of a sample (n, d), n >= 1, finite, and the ranges along them.

    Of each axis the entry that is largest in size is positive.

    Determinism: equal up to the last bits on machines of other kinds.
    """
    _, d = sample.shape
    mean = sample.mean(axis=0, dtype=np.float64)
    centred = sample - mean.astype(np.float32)
    variances, vectors = np.linalg.eigh(centred.T @ centred)  # rising
    axes = np.zeros((_AXES, d), np.float32)
    for i, column in enumerate(range(d - 1, max(d - 1 - _AXES, -1), -1)):
        if variances[column] > _LEAST * max(1.0, variances[-1]) * len(sample):
            vector = vectors[:, column]
            axes[i] = vector * np.sign(vector[np.abs(vector).argmax()])
    low, high = np.quantile(centred @ axes.T, _TAILS, axis=0).astype(np.float32)
    return Colouring(mean=mean.astype(np.float32), axes=axes, low=low, high=high)
