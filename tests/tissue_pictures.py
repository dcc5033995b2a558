"""Small synthetic overviews (about 8 um/px) with their ground truth, for tests and benchmarks."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

STAINS = {
    # two colours a tissue is mixed from: (stroma, cells)
    "he": ((232, 150, 196), (128, 72, 150)),
    "pale": ((240, 222, 234), (214, 196, 222)),
    "ihc": ((222, 224, 234), (140, 92, 52)),
    # blue and green ones, which look like ink
    "toluidine blue": ((188, 198, 232), (62, 74, 160)),
    "luxol fast blue": ((205, 214, 232), (80, 130, 185)),
    "masson": ((120, 150, 200), (190, 60, 80)),
    "alcian blue": ((200, 228, 232), (90, 170, 190)),
}
PENS = {
    "blue": (28, 48, 170),
    "light blue": (70, 140, 220),
    "green": (20, 130, 70),
    "teal": (0, 140, 120),
    "black": (24, 24, 28),
    "red": (214, 34, 44),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """image (h, w, 3) uint8; tissue and foreign (pen, border) are (h, w) bool."""

    image: NDArray[np.uint8]
    tissue: NDArray[np.bool_]
    foreign: NDArray[np.bool_]


def smooth_noise(
    rng: np.random.Generator, shape: tuple[int, int], sigma: float
) -> NDArray[np.float64]:
    """Gaussian field of standard deviation 1 whose grain is about `sigma` pixels."""
    small = max(1, int(sigma // 2))
    coarse = rng.standard_normal([-(-s // small) + 4 for s in shape])
    coarse = ndimage.gaussian_filter(coarse, sigma / small)
    field = ndimage.zoom(coarse, small, order=1)[: shape[0], : shape[1]]
    return np.asarray((field - field.mean()) / max(field.std(), 1e-9), np.float64)


def stroke(
    shape: tuple[int, int], points: list[tuple[float, float]], width: float
) -> NDArray[np.float64]:
    """Soft coverage (0..1) of a polyline through `points` (fractions of x, y)."""
    h, w = shape
    y, x = np.mgrid[:h, :w].astype(np.float64)
    distance = np.full(shape, np.inf)
    for (x0, y0), (x1, y1) in pairwise(points):
        x0, x1, y0, y1 = x0 * w, x1 * w, y0 * h, y1 * h
        t = ((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / ((x1 - x0) ** 2 + (y1 - y0) ** 2)
        t = np.clip(t, 0, 1)
        distance = np.minimum(distance, np.hypot(x - x0 - t * (x1 - x0), y - y0 - t * (y1 - y0)))
    return np.clip(width / 2 - distance + 0.5, 0, 1)


def overview(
    *,
    stain: str | None = "he",
    pens: tuple[str, ...] = (),
    border: bool = False,
    glass: tuple[int, int, int] = (244, 243, 245),
    noise: float = 2.0,
    shape: tuple[int, int] = (360, 480),
    seed: int = 0,
) -> Picture:
    """Draw glass, two pieces of tissue with a lumen, pen strokes and a black border.

    Args:
        stain: key of `STAINS`, or None for a slide without tissue.
        pens: keys of `PENS`; each draws a long stroke and a dot on the glass beside the tissue.
        border: black outside the glass, on two sides.
        glass: colour of the background.
        noise: standard deviation per channel.
    """
    rng = np.random.default_rng(seed)
    h, w = shape
    image = np.empty((h, w, 3))
    image[:] = glass
    tissue = np.zeros(shape, bool)
    if stain is not None:
        y, x = np.mgrid[:h, :w] / np.array([h, w]).reshape(2, 1, 1)
        rough = 0.12 * smooth_noise(rng, shape, h / 18)
        for cx, cy, rx, ry in ((0.40, 0.45, 0.20, 0.27), (0.76, 0.6, 0.11, 0.2)):
            tissue |= ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 + rough < 1
        tissue &= np.hypot((x - 0.42) / 0.05, (y - 0.45) / 0.07) >= 1  # a lumen that stays open
        cells = np.clip(0.5 + 0.4 * smooth_noise(rng, shape, h / 40), 0, 1)
        cells = np.clip(cells + 0.25 * smooth_noise(rng, shape, 1.0), 0, 1)[..., None]
        stroma, cell = (np.asarray(c, np.float64) for c in STAINS[stain])
        soft = ndimage.gaussian_filter(tissue.astype(np.float64), 0.7)[..., None]
        image += soft * ((1 - cells) * stroma + cells * cell - image)
    ink = np.zeros(shape)
    for i, pen in enumerate(pens):
        at = 0.05 + 0.07 * i
        line = stroke(
            shape, [(at, 0.06), (at + 0.01, 0.5), (at + 0.03, 0.94), (0.5, 0.96)], 0.03 * h
        )
        dot = stroke(shape, [(0.6 + 0.06 * i, 0.1), (0.601 + 0.06 * i, 0.11)], 0.06 * h)
        cover = np.maximum(line, dot)
        image += (cover * 0.96)[..., None] * (np.asarray(PENS[pen], np.float64) - image)
        ink = np.maximum(ink, cover)
    foreign = ink > 0.5
    if border:
        edge = np.zeros(shape, bool)
        edge[: h // 20] = edge[:, -(w // 15) :] = True
        image[edge] = (10, 9, 12)
        foreign |= edge
    image += rng.normal(0, noise, image.shape)
    return Picture(
        image=np.clip(np.rint(image), 0, 255).astype(np.uint8),
        tissue=tissue & (ink == 0) & ~foreign,
        foreign=foreign,
    )
