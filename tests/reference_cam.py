"""Definitions of class activation maps and of what they are worth: float64 NumPy, no cleverness.

A map of a layer is (k, h, w), its gradient of a logit has the same shape.
"""

from __future__ import annotations

import numpy as np


def grad_cam(maps, gradients):
    total = np.zeros(maps.shape[1:])
    for a, g in zip(maps.astype(np.float64), gradients.astype(np.float64), strict=True):
        total += g.mean() * a
    return np.maximum(total, 0)


def grad_cam_plus(maps, gradients):
    total = np.zeros(maps.shape[1:])
    for a, g in zip(maps.astype(np.float64), gradients.astype(np.float64), strict=True):
        weight = 0.0
        for slope in g.ravel():
            below = 2 * slope**2 + a.sum() * slope**3
            if below != 0:
                weight += slope**2 / below * max(slope, 0)
        total += weight * a
    return np.maximum(total, 0)


def hires_cam(maps, gradients):
    total = np.zeros(maps.shape[1:])
    for a, g in zip(maps.astype(np.float64), gradients.astype(np.float64), strict=True):
        total += g * a
    return np.maximum(total, 0)


CAMS = {"gradcam": grad_cam, "gradcam++": grad_cam_plus, "hirescam": hires_cam}


def spread(values, shape):
    """Each pixel has the value of the place it lies in."""
    h, w = values.shape
    return np.array(
        [
            [values[y * h // shape[0], x * w // shape[1]] for x in range(shape[1])]
            for y in range(shape[0])
        ]
    )


def mass_share(values, mask):
    large = spread(np.asarray(values, np.float64), mask.shape)
    return large[mask].sum() / large.sum() if large.sum() > 0 else np.nan


def rank_correlation(one, other):
    """Pearson's r of mean ranks."""

    def ranks(values):
        v = values.ravel()
        return np.array([(v < x).sum() + ((v == x).sum() + 1) / 2 for x in v])

    a, b = ranks(one), ranks(other)
    a, b = a - a.mean(), b - b.mean()
    below = np.sqrt((a**2).sum() * (b**2).sum())
    return (a * b).sum() / below if below > 0 else np.nan


def curve(predict, pixels, values, *, insert, steps):
    """Of one picture; no two values are equal."""
    order = np.argsort(-values.ravel())
    blank = np.rint(pixels.mean((0, 1)))
    found = []
    for step in range(steps + 1):
        taken = np.zeros(values.size, bool)
        taken[order[: round(step * values.size / steps)]] = True
        large = spread(taken.reshape(values.shape), pixels.shape[:2]).astype(bool)
        kept = large if insert else ~large
        found.append(predict(np.where(kept[..., None], pixels, blank)))
    return np.array(found)
