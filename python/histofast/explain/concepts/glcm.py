"""Patches in, texture out: features of the grey level co-occurrence matrix (GLCM) of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast import _core
from histofast._arrays import check, empty, one_place, to_numpy
from histofast._machine import available_cpus
from histofast._numbers import real_number, whole_number

Float = NDArray[np.float64]

GLCM_FEATURES = (
    "dissimilarity",
    "contrast",
    "homogeneity",
    "asm",
    "energy",
    "correlation",
)
_SUMS = 3  # of levels, of their squares, of the squared elements of the matrix
_LARGEST_PX = 30_000


def glcm(
    images: Any,
    *,
    distances: Sequence[int] = (1,),
    angles_deg: Sequence[float] = (0.0,),
    levels: int = 256,
    threads: int | None = None,
) -> Float:
    """Measure the texture of patches.

    Two pixels are a pair where the second lies round(distance sin(angle)) rows below and
    round(distance cos(angle)) columns right of the first. p[i, j] is how often levels i and j are a
    pair, in either order, as a share of all: symmetric and normalised. Its features are dissimilarity,
    sum p |i - j|; contrast, sum p (i - j)^2; homogeneity, sum p / (1 + (i - j)^2); ASM, sum p^2; energy,
    its root; correlation, sum p (i - m) (j - m) / variance, 1 where all pixels are equal.

    Args:
        images: (n, h, w, 3) uint8 RGB. NumPy array, or one of torch or CuPy on a GPU. A pixel's grey is
            0.2125 R + 0.7154 G + 0.0721 B, rounded.
        distances: of pairs, px, each at least 1.
        angles_deg: of pairs, degrees; 0 is along rows, 90 down.
        levels: of grey, 2 to 256: of so many equal ranges of 0..255.
        threads: on the CPU; None: as many as there are CPUs.

    Returns:
        (n, distances, angles, 6) float64, in the order of `GLCM_FEATURES`.

    Raises:
        TypeError: wrong dtype, or a parameter that is no number.
        ValueError: wrong shape, a strided array, no distance or angle, pairs that do not fit the
            images, or a parameter out of range.

    Determinism: what is counted is the same on every machine, CPU or GPU, bit for bit.
    Reference: Haralick, Shanmugam, Dinstein, 1973, IEEE Trans Syst Man Cybern 3(6).

    Example:
        >>> stripes = np.zeros((1, 8, 8, 3), np.uint8)
        >>> stripes[:, :, ::2] = 255
        >>> glcm(stripes, angles_deg=(0, 90))[0, 0, :, 1].tolist()
        [65025.0, 0.0]
    """
    n, h, w = check("images", images, "uint8", ("n", "h", "w", 3))
    levels = whole_number("levels", levels, at_least=2, at_most=256)
    threads = whole_number("threads", threads, at_least=1)
    offsets = _offsets(distances, angles_deg, h, w)
    library = one_place(images=images)
    differences = empty((n, len(offsets), levels), "int32", like=images)
    sums = empty((n, len(offsets), _SUMS), "int64", like=images)
    if library is None:
        _core.glcm_sums(images, offsets, threads or available_cpus(), differences, sums)
    else:
        _core.glcm_sums(images, offsets, differences, sums, stream=library.stream(images))
    pairs = (h - np.abs(offsets[:, 0].astype(float))) * (w - np.abs(offsets[:, 1].astype(float)))
    found = _features(to_numpy(differences), to_numpy(sums), pairs)
    return found.reshape(n, len(distances), len(angles_deg), len(GLCM_FEATURES))


def _offsets(
    distances: Sequence[int], angles_deg: Sequence[float], h: int, w: int
) -> NDArray[np.int32]:
    """Return (k, 2) of rows down and columns right, distance by distance."""
    if not len(distances) or not len(angles_deg):
        which = "angles_deg" if len(distances) else "distances"
        raise ValueError(f"{which} must be at least one, got none")
    if max(h, w) > _LARGEST_PX:
        raise ValueError(f"images must be at most {_LARGEST_PX} px, got {w} x {h} px")
    found = []
    for distance in distances:
        far = whole_number("distances", distance, at_least=1, at_most=_LARGEST_PX)
        for angle in angles_deg:
            turn = math.radians(real_number("angles_deg", angle, at_least=-360.0, at_most=360.0))
            down, right = round(far * math.sin(turn)), round(far * math.cos(turn))
            if abs(down) >= h or abs(right) >= w:
                raise ValueError(
                    f"distances must leave pairs in images of {w} x {h} px, got {far} at {angle:g} "
                    "degrees"
                )
            found.append((down, right))
    return np.array(found, np.int32)


def _features(differences: NDArray[np.int32], sums: NDArray[np.int64], pairs: Float) -> Float:
    """Return (n, k, 6) of counts of differences (n, k, levels), sums (n, k, 3) and pairs (k).

    The matrix is symmetric, so that its two means are one and so are its variances, and the
    correlation is 1 - contrast / (2 variance).
    """
    apart = np.arange(differences.shape[2], dtype=np.float64)
    weights = np.stack([apart, apart**2, 1 / (1 + apart**2)], axis=1)
    dissimilarity, contrast, homogeneity = np.moveaxis(
        differences @ weights / pairs[:, np.newaxis], 2, 0
    )
    both = 2 * pairs
    mean = sums[..., 0] / both
    variance = sums[..., 1] / both - mean**2
    varies = (contrast > 0) | (variance > 0)
    correlation = np.ones_like(contrast)
    np.divide(contrast, 2 * variance, out=correlation, where=varies)
    correlation = np.where(varies, 1 - correlation, 1.0)
    asm = sums[..., 2] / both**2
    return np.stack([dissimilarity, contrast, homogeneity, asm, np.sqrt(asm), correlation], axis=-1)
