"""A bank of Gabor filters for a first convolution; our reading of Transfusion's synthetic start."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ANGLES = 8  # of half a turn
WAVES_PX = (2.5, 3.5, 5.0, 7.0)
PHASES = (0.0, math.pi / 2)  # even: bars; odd: edges
# Light, red against green, blue against yellow, as weights of R, G and B.
COLOURS = ((1.0, 1.0, 1.0), (1.0, -1.0, 0.0), (-0.5, -0.5, 1.0))
_ASPECT = 0.5  # gamma: length against width
_SIGMA = 0.4  # of the wave's length


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GaborFilter:
    """One filter of the bank.

    Attributes:
        angle: of its wave against the rows, radians, 0 to pi.
        wave_px: length of its wave.
        phase: radians; 0: a bar, pi / 2: an edge.
        colour: weights of R, G and B.
        weights: (3, px, px) float64, of mean 0 and norm 1.
    """

    angle: float
    wave_px: float
    phase: float
    colour: tuple[float, float, float]
    weights: NDArray[np.float64]


def gabor_bank(px: int) -> tuple[GaborFilter, ...]:
    """Return all filters of a side: by angle, wavelength, phase, colour axis, the last fastest.

    g(x, y) = exp(-(x'^2 + gamma^2 y'^2) / (2 sigma^2)) cos(2 pi x' / lambda + psi), x' along the angle;
    less its mean, and of unit norm. gamma = 0.5, sigma = 0.4 lambda.

    Example:
        >>> bank = gabor_bank(7)
        >>> len(bank), bank[0].weights.shape
        (192, (3, 7, 7))
    """
    bank = []
    for turn, wave_px, phase, colour in itertools.product(range(ANGLES), WAVES_PX, PHASES, COLOURS):
        angle = math.pi * turn / ANGLES
        plane = _gabor(px, angle=angle, wave_px=wave_px, phase=phase)
        plane = plane - plane.mean()
        shares = np.array(colour) / np.linalg.norm(colour)
        weights = shares[:, None, None] * plane / np.linalg.norm(plane)
        bank.append(
            GaborFilter(angle=angle, wave_px=wave_px, phase=phase, colour=colour, weights=weights)
        )
    return tuple(bank)


def gabor_filters(count: int, *, px: int, seed: int) -> NDArray[np.float64]:
    """Return filters of the bank in an order of the seed; more than it holds begin it again.

    Returns:
        (count, 3, px, px) float64.
    """
    bank = gabor_bank(px)
    order = np.random.default_rng(seed).permutation(len(bank))
    return np.stack([bank[order[i % len(bank)]].weights for i in range(count)])


def _gabor(px: int, *, angle: float, wave_px: float, phase: float) -> NDArray[np.float64]:
    at = np.arange(px) - (px - 1) / 2
    x, y = np.meshgrid(at, at)
    along = x * math.cos(angle) + y * math.sin(angle)
    across = -x * math.sin(angle) + y * math.cos(angle)
    sigma = _SIGMA * wave_px
    envelope = np.exp(-(along**2 + (_ASPECT * across) ** 2) / (2 * sigma**2))
    filtered: NDArray[np.float64] = envelope * np.cos(2 * math.pi * along / wave_px + phase)
    return filtered
