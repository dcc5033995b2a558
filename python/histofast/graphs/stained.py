"""Made-up patches that exercise an encoder as real ones do."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def stained_noise(n: int, patch_px: int) -> NDArray[np.uint8]:
    """Return patches with the colours of H&E and detail of many sizes, to compare networks on.

    Args:
        n: how many.
        patch_px: their side.

    Returns:
        (n, patch_px, patch_px, 3) uint8, always the same.
    """
    rng = np.random.default_rng(0)
    # Optical densities of haematoxylin and eosin per channel (Ruifrok and Johnston, 2001).
    stains = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
    amounts = np.zeros((n, patch_px, patch_px, 2))
    size_px = 1
    while size_px < patch_px:
        cells = -(-patch_px // size_px)
        field = rng.random((n, cells, cells, 2)).repeat(size_px, 1).repeat(size_px, 2)
        amounts += field[:, :patch_px, :patch_px] / 2
        size_px *= 4
    # Optical density is a decimal logarithm.
    light: NDArray[np.float64] = 10.0 ** -(amounts @ stains)  # (n, h, w, 3)
    return np.rint(255 * light).astype(np.uint8)
