"""Which patches of a slide matter most to a model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def top_rows(scores: NDArray[np.floating], *, k: int) -> NDArray[np.int64]:
    """Return the rows of the k highest scores, in ascending order; all rows if there are fewer.

    Within one slide attention ranks patches alike before and after its softmax. Of equal scores the
    earlier rows are taken.

    Args:
        scores: (n,) finite.
        k: >= 1.

    Raises:
        ValueError: scores of another shape, NaN or infinity, k below 1.

    Example:
        >>> top_rows(np.array([0.1, 0.7, 0.7, 0.7]), k=2)
        array([1, 2])
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if scores.ndim != 1:
        raise ValueError(f"scores must be of shape (n,), got {scores.shape}")
    if not np.isfinite(scores).all():
        raise ValueError(f"scores must be finite, got {(~np.isfinite(scores)).sum()} that are not")
    return np.sort(np.argsort(-scores, kind="stable")[:k])
