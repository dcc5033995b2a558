"""Overviews of a real H&E slide's grain in the dyes of other stains, with strokes of pens, and the truth.

Optical densities of haematoxylin and eosin (Ruifrok and Johnston 2001) are taken from the slide and given to
other dyes; a pen lets a share of each channel's light through, whatever is under it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import tissue_pictures

_HED = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
# Densities of R, G, B where there was haematoxylin, and where there was eosin.
DYES = {
    "he": ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11)),
    "toluidine blue": ((0.85, 0.75, 0.25), (0.85, 0.75, 0.25)),
    "luxol fast blue": ((0.55, 0.85, 0.45), (0.95, 0.45, 0.20)),
    "masson": ((0.25, 0.95, 0.55), (0.80, 0.55, 0.20)),
    "alcian blue": ((0.45, 0.90, 0.50), (0.87, 0.35, 0.25)),
    "light green": ((0.30, 0.30, 0.60), (0.95, 0.30, 0.50)),
}
# Lines by the corners they go through, as shares of width and height.
ON_GLASS = ((0.05, 0.05), (0.06, 0.5), (0.08, 0.94), (0.5, 0.95))
ACROSS = ((0.15, 0.3), (0.7, 0.75))
_GLASS, _SHAPE, _STRENGTH = 246.0, (700, 900), 1.2


@dataclass(frozen=True, kw_only=True, slots=True)
class Stroke:
    """A line in the colour of a pen (`tissue_pictures.PENS`), which covers a share of what is under it."""

    pen: str
    line: tuple[tuple[float, float], ...]
    width_px: float = 40
    cover: float = 0.96


def overview(
    real: NDArray[np.uint8], stain: str, *strokes: Stroke
) -> tuple[NDArray[np.uint8], NDArray[np.bool_], NDArray[np.bool_]]:
    """Draw two pieces of tissue with the grain of `real`, an overview of H&E, in the dyes of `stain`.

    Returns:
        (h, w, 3) uint8, and (h, w) bool of tissue under no ink, and of ink.
    """
    rng = np.random.default_rng(0)
    h, w = _SHAPE
    whole = np.concatenate([real, real[::-1]])
    whole = np.concatenate([whole, whole[:, ::-1]], axis=1)
    whole = np.tile(whole, (h // whole.shape[0] + 1, w // whole.shape[1] + 1, 1))[:h, :w]
    density = np.maximum(-np.log((whole + 1.0) / _GLASS), 0)
    amounts = np.maximum(density @ np.linalg.inv(_HED), 0)[..., :2]
    y, x = np.mgrid[:h, :w] / np.array([h, w]).reshape(2, 1, 1)
    rough = 0.12 * tissue_pictures.smooth_noise(rng, _SHAPE, h / 18)
    tissue = ((x - 0.4) / 0.22) ** 2 + ((y - 0.5) / 0.3) ** 2 + rough < 1
    tissue |= ((x - 0.8) / 0.1) ** 2 + ((y - 0.6) / 0.25) ** 2 + rough < 1
    image = _GLASS * np.exp(-_STRENGTH * (amounts @ np.array(DYES[stain])) * tissue[..., None])
    ink = np.zeros(_SHAPE)
    for stroke in strokes:
        there = tissue_pictures.stroke(_SHAPE, list(stroke.line), stroke.width_px)
        lets_through = np.array(tissue_pictures.PENS[stroke.pen]) / _GLASS
        image *= 1 - there[..., None] * stroke.cover * (1 - lets_through)
        ink = np.maximum(ink, there)
    image += rng.normal(0, 2, image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), tissue & (ink == 0), ink > 0.5
