"""Stain normalisation: float64, as published, a pixel (v + 1) / 256 of the light."""

from __future__ import annotations

import numpy as np

BETA, ALPHA = 0.15, 1.0  # natural density; per cent
LIGHT_TO_CONES = np.array(
    [[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]]
)
DECORRELATE = np.diag(1 / np.sqrt([3, 6, 2])) @ np.array([[1, 1, 1], [1, 1, -2], [1, -1, 0]])


def densities(pixels):
    """Natural optical densities, (n, 3)."""
    return -np.log((np.asarray(pixels, float).reshape(-1, 3) + 1) / 256)


def dense(pixels):
    """Pixels that are tissue: no channel is lighter than beta."""
    pixels = np.asarray(pixels).reshape(-1, 3)
    return pixels[(densities(pixels) >= BETA).all(axis=1)]


def macenko(pixels):
    """Macenko et al. 2009: unit vectors of haematoxylin and eosin (2, 3), and 99th percentiles (2,)."""
    d = densities(dense(pixels))
    _, _, v = np.linalg.svd(d, full_matrices=False)
    plane = v[:2] * np.where(v[:2, :1] < 0, -1, 1)
    angles = np.arctan2(d @ plane[1], d @ plane[0])
    ends = [np.percentile(angles, p) for p in (ALPHA, 100 - ALPHA)]
    vectors = [np.cos(a) * plane[0] + np.sin(a) * plane[1] for a in ends]
    vectors = np.array(sorted(vectors, key=lambda w: -w[0]))  # haematoxylin absorbs red
    amounts = np.linalg.lstsq(vectors.T, d.T, rcond=None)[0]
    return vectors, np.percentile(amounts, 99, axis=1)


def macenko_map(pixels, source, target):
    """Amounts of the source's stains, scaled, in the target's stains; halves up."""
    (vectors, most), (other_vectors, other_most) = source, target
    amounts = np.linalg.lstsq(vectors.T, densities(pixels).T, rcond=None)[0]
    d = (amounts * (other_most / most)[:, None]).T @ other_vectors
    light = 256 * np.exp(-d) - 1
    return np.floor(np.clip(light, 0, 255) + 0.5).reshape(np.shape(pixels))


def lab(pixels):
    """Ruderman et al. 1998, Reinhard et al. 2001: l, alpha, beta of natural logarithms."""
    cones = (np.asarray(pixels, float).reshape(-1, 3) + 1) @ LIGHT_TO_CONES.T
    return np.log(cones) @ DECORRELATE.T


def reinhard(pixels):
    """Means and deviations of tissue."""
    found = lab(dense(pixels))
    return found.mean(axis=0), found.std(axis=0)


def reinhard_map(pixels, source, target):
    (mean, deviation), (other_mean, other_deviation) = source, target
    found = (lab(pixels) - mean) / deviation * other_deviation + other_mean
    cones = np.exp(np.clip(found @ np.linalg.inv(DECORRELATE).T, 0, np.log(256)))
    light = cones @ np.linalg.inv(LIGHT_TO_CONES).T - 1
    return np.floor(np.clip(light, 0, 255) + 0.5).reshape(np.shape(pixels))
