"""Pictures side by side, as one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_GAP_PX = 4


def strip(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return pictures side by side, parted by white, with white below.

    Args:
        pictures: at least one, (h, w, 3) uint8 of one height.

    Returns:
        (h + 4, ..., 3) uint8.
    """
    gap = np.full((len(pictures[0]), _GAP_PX, 3), 255, np.uint8)
    parts = [part for picture in pictures for part in (gap, picture)][1:]
    row = np.concatenate(parts, axis=1)
    below = np.full((_GAP_PX, row.shape[1], 3), 255, np.uint8)
    return np.concatenate([row, below])
