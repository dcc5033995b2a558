"""What an ICC profile of primaries and a gamma means: definitions in float64.

Chromaticities are rows (x, y). The profile's white is brought to that of sRGB by Bradford's cones, as the
relative intents do.
"""

from __future__ import annotations

import numpy as np

SRGB_PRIMARIES = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
D65 = (0.3127, 0.3290)
_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)


def _xyz(chromaticity):
    x, y = chromaticity
    return np.array([x / y, 1.0, (1 - x - y) / y])


def to_xyz(primaries, white):
    """(3, 3): columns are X, Y, Z of light of full red, green, blue; together they are the white."""
    columns = np.stack([_xyz(each) for each in primaries], axis=1)
    return columns * np.linalg.solve(columns, _xyz(white))


def as_srgb(pixels, *, primaries, white, gamma):
    """(..., 3) uint8 of a device of some primaries, white and gamma, as sRGB has them, not rounded."""
    light = (pixels / 255.0) ** gamma
    one, other = _BRADFORD @ _xyz(white), _BRADFORD @ _xyz(D65)
    adapt = np.linalg.inv(_BRADFORD) @ np.diag(other / one) @ _BRADFORD
    matrix = np.linalg.inv(to_xyz(SRGB_PRIMARIES, D65)) @ adapt @ to_xyz(primaries, white)
    linear = np.clip(light @ matrix.T, 0, 1)
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return 255 * curved
