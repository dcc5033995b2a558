"""What concepts and their regression are, in float64 and without cleverness."""

from __future__ import annotations

import numpy as np

# --- Grey level co-occurrence matrix --------------------------------------------------------------


def grey(image):
    """(h, w) int64: 0.2125 R + 0.7154 G + 0.0721 B in units of 2^-16, rounded (halves up)."""
    red, green, blue = np.moveaxis(image.astype(np.int64), -1, 0)
    return (13926 * red + 46885 * green + 4725 * blue + 2**15) // 2**16


def glcm_counts(image, down, right, levels):
    """(levels, levels) int64, symmetric: pairs of levels at (i, j) and (i + down, j + right)."""
    level = grey(image) * levels // 256
    h, w = level.shape
    first = level[max(0, -down) : h - max(0, down), max(0, -right) : w - max(0, right)]
    second = level[max(0, down) : h - max(0, -down), max(0, right) : w - max(0, -right)]
    counts = np.zeros((levels, levels), np.int64)
    np.add.at(counts, (first, second), 1)
    np.add.at(counts, (second, first), 1)
    return counts


def glcm_sums(counts):
    """What of the matrix the kernel gives: pairs by difference, and three sums."""
    i, j = np.indices(counts.shape)
    differences = np.bincount(np.abs(i - j).ravel(), counts.ravel(), len(counts)).astype(np.int64)
    assert not (differences % 2).any()
    return differences // 2, [(counts * i).sum(), (counts * i**2).sum(), (counts**2).sum()]


def glcm_features(counts):
    """Dissimilarity, contrast, homogeneity, ASM, energy, correlation (1 where nothing varies)."""
    p = counts / counts.sum()
    i, j = np.indices(p.shape)
    mean = (p * i).sum()
    variance = (p * (i - mean) ** 2).sum()
    return np.array(
        [
            (p * np.abs(i - j)).sum(),
            (p * (i - j) ** 2).sum(),
            (p / (1 + (i - j) ** 2)).sum(),
            (p**2).sum(),
            np.sqrt((p**2).sum()),
            (p * (i - mean) * (j - mean)).sum() / variance
            if np.ptp(np.flatnonzero(counts.sum(0)))
            else 1.0,
        ]
    )
