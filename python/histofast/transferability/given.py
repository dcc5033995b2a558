"""Features and labels as they come in: checked, the labels as numbers from 0, and sums over the rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast.similarity import check_features

Features = NDArray[np.floating[Any]]
Labels = NDArray[np.integer[Any]]
Array = NDArray[np.float64]
Rows = NDArray[np.int64]

_USUAL = 2.0**200  # of a magnitude: its fourth power and sums of it are numbers
_BLOCK = 4096  # rows that are held in float64 at a time


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Given:
    """Checked features with the classes of their rows.

    Attributes:
        features: (n, d) as given.
        scale: power of two that brings them to the order of 1; 1 where no square of theirs leaves the floats.
        class_of: (n,) from 0, in the order of the labels.
        counts: (c,) float64 rows of each class.
    """

    features: Features
    scale: float
    class_of: Rows
    counts: Array

    def blocks(self) -> Iterator[tuple[Array, Array]]:
        """Yield (rows, d) features, scaled, and the (rows, c) classes as ones and zeros."""
        for start in range(0, len(self.features), _BLOCK):
            rows = slice(start, start + _BLOCK)
            block = self.features[rows].astype(np.float64, copy=False)
            yield block * self.scale if self.scale != 1 else block, self.one_hot(rows)

    def one_hot(self, rows: slice) -> Array:
        """Return the (rows, c) classes of some rows."""
        found: Array = (self.class_of[rows, None] == np.arange(len(self.counts))).astype(np.float64)
        return found


def given(features: Features, labels: Labels) -> Given:
    """Check features (n, d) and labels (n,).

    Raises:
        TypeError: features that are not floating point, labels that are not integers.
        ValueError: other shapes, NaN or infinity, other lengths, under two classes, no more rows than
            classes.
    """
    scale = check_features("features", features)
    n = len(features)
    if not isinstance(labels, np.ndarray) or not np.issubdtype(labels.dtype, np.integer):
        got = labels.dtype.name if isinstance(labels, np.ndarray) else type(labels).__name__
        raise TypeError(f"labels must be an array of integer classes (n,), got {got}")
    if labels.shape != (n,):
        raise ValueError(f"labels must be of shape ({n},), one for each row, got {labels.shape}")
    names, class_of = np.unique(labels, return_inverse=True)
    if len(names) < 2:
        raise ValueError(
            f"labels must be of at least 2 classes, got {len(names)}: there is nothing to tell apart"
        )
    if n <= len(names):
        raise ValueError(
            f"features must have more rows than there are classes, got {n} for {len(names)}"
        )
    counts = np.bincount(class_of).astype(np.float64)
    if 1 / _USUAL < scale < _USUAL:
        scale = 1.0  # most features are taken as they are, and blocks of float64 not copied
    return Given(features=features, scale=scale, class_of=class_of.astype(np.int64), counts=counts)
