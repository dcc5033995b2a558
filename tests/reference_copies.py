"""What copies of pictures are, in float64 and without cleverness."""

from __future__ import annotations

from itertools import combinations

import numpy as np

SIDE, LEVELS, ALIKE, FLAT = 12, 4.0, 0.9, 2.0
TURNS = tuple((mirrored, quarters) for mirrored in (False, True) for quarters in range(4))


def turned(picture, mirrored, quarters):
    """One of the eight symmetries of the square: mirrored left to right, then turned to the left."""
    return np.rot90(picture[:, ::-1] if mirrored else picture, quarters)


def centred(small):
    small = np.asarray(small, np.float64)
    return small - small.mean(axis=(0, 1))


def near(a, b):
    """The turn that makes a to nearly b, or None.

    a, b: (12, 12, 3), the averages of the largest centred squares of two pictures. Nearly: 4 of 255
    levels apart on average, and a correlation of 0.9 about the mean of each channel. Pictures that
    differ from their own means by less than 2 levels (root of the mean square) have no structure.
    """
    if any(np.sqrt((centred(x) ** 2).mean()) < FLAT for x in (a, b)):
        return None
    found = []
    for turn in TURNS:
        c = np.asarray(turned(a, *turn), np.float64)
        apart = np.abs(c - b).mean()
        u, v = centred(c), centred(b)
        r = (u * v).sum() / np.sqrt((u * u).sum() * (v * v).sum())
        if apart <= LEVELS and r >= ALIKE:
            found.append((apart, turn))
    return min(found, key=lambda one: one[0])[1] if found else None


def near_copies(smalls):
    """All pairs (i, j, turn) with i < j and j nearly i under the turn."""
    pairs = ((i, j, near(smalls[i], smalls[j])) for i, j in combinations(range(len(smalls)), 2))
    return [pair for pair in pairs if pair[2] is not None]
