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
