"""A bank of Gabor filters for a first convolution; our reading of Transfusion's synthetic start."""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import NDArray

ANGLES = 8  # of half a turn
WAVES_PX = (2.5, 3.5, 5.0, 7.0)
PHASES = (0.0, math.pi / 2)  # even: bars; odd: edges
# Light, red against green, blue against yellow, as weights of R, G and B.
COLOURS = ((1.0, 1.0, 1.0), (1.0, -1.0, 0.0), (-0.5, -0.5, 1.0))
_ASPECT = 0.5  # gamma: length against width
_SIGMA = 0.4  # of the wave's length


def gabor_filters(count: int, *, px: int, seed: int) -> NDArray[np.float64]:
    """Return filters of a bank of angles, wavelengths, phases and colours, in an order of the seed.

    g(x, y) = exp(-(x'^2 + gamma^2 y'^2) / (2 sigma^2)) cos(2 pi x' / lambda + psi), x' along the angle;
    less its mean, and of unit norm. More than the bank holds begins it again.

    Returns:
        (count, 3, px, px) float64.
    """
    bank = list(itertools.product(range(ANGLES), WAVES_PX, PHASES, COLOURS))
    order = np.random.default_rng(seed).permutation(len(bank))
    filters = np.empty((count, 3, px, px))
    for i in range(count):
        turn, wave, phase, colour = bank[order[i % len(bank)]]
        plane = gabor(px, angle=math.pi * turn / ANGLES, wave_px=wave, phase=phase)
        plane = plane - plane.mean()
        weights = np.array(colour) / np.linalg.norm(colour)
        filters[i] = weights[:, None, None] * plane / np.linalg.norm(plane)
    return filters


def gabor(px: int, *, angle: float, wave_px: float, phase: float) -> NDArray[np.float64]:
    """Return one filter as (px, px) float64, without mean or norm taken."""
    at = np.arange(px) - (px - 1) / 2
    x, y = np.meshgrid(at, at)
    along = x * math.cos(angle) + y * math.sin(angle)
    across = -x * math.sin(angle) + y * math.cos(angle)
    sigma = _SIGMA * wave_px
    envelope = np.exp(-(along**2 + (_ASPECT * across) ** 2) / (2 * sigma**2))
    filtered: NDArray[np.float64] = envelope * np.cos(2 * math.pi * along / wave_px + phase)
    return filtered
