"""Features of patches in, the group of alike ones that each is in out: k-means in small batches.

Plain NumPy and one seed: the same sample gives the same groups with whatever is installed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from histofast.viewer.colours import ROWS

_BATCH = 1024
_STEPS = 200
_SEED = 0


def centres_of(sample: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """Return the centres (<= k, d) of groups of a sample (n, d), that of most rows first.

    Begun as k-means++ has it. A centre is the mean of all rows that batches have brought to it; fewer than k
    where the sample has fewer different rows.

    Reference: D. Sculley, 2010, Web-scale k-means clustering, algorithm 1.
    Determinism: equal on machines of one kind.
    """
    rng = np.random.default_rng(_SEED)
    centres = _begin(sample, k, rng)
    counts = np.zeros(len(centres))
    for _ in range(_STEPS):
        batch = sample[rng.integers(len(sample), size=_BATCH)]
        near = nearest(batch, centres.astype(np.float32))
        for i in np.unique(near):
            members = batch[near == i]
            counts[i] += len(members)
            centres[i] += (
                members.sum(axis=0, dtype=np.float64) - len(members) * centres[i]
            ) / counts[i]
    sizes = np.bincount(nearest(sample, centres.astype(np.float32)), minlength=len(centres))
    return centres[np.argsort(-sizes, kind="stable")].astype(np.float32)


def nearest(features: NDArray[np.floating], centres: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the number of the nearest centre of each row (n,), the lower of two as near; -1 for no finite row."""
    found = np.empty(len(features), np.int64)
    squares = (centres**2).sum(axis=1)
    for start in range(0, len(features), ROWS):
        block = np.asarray(features[start : start + ROWS], np.float32)
        with np.errstate(invalid="ignore", over="ignore"):
            distances = squares - 2 * (block @ centres.T)  # but for the row's own square
        near = distances.argmin(axis=1)
        near[~np.isfinite(distances).all(axis=1)] = -1
        found[start : start + ROWS] = near
    return found


def _begin(sample: NDArray[np.float32], k: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw rows far from those drawn before, with chances as the squares of distances."""
    centres = [sample[rng.integers(len(sample))].astype(np.float64)]
    left = np.full(len(sample), np.inf)
    while len(centres) < k:
        away = sample - centres[-1].astype(np.float32)
        left = np.minimum(left, np.einsum("nd,nd->n", away, away, dtype=np.float64))
        if not left.sum() > 0:
            break
        centres.append(sample[rng.choice(len(sample), p=left / left.sum())].astype(np.float64))
    return np.stack(centres)
