"""How many directions features use."""

from __future__ import annotations

import numpy as np

from histofast.similarity import check_features, effective_rank
from histofast.transferability.given import Features


def rank_me(features: Features) -> float:
    """Return RankMe: exp of the entropy of the singular values, as shares of their sum.

    Features that have collapsed to few directions score low; no labels are looked at. The paper adds 1e-7
    to each share against log 0, which is not needed: 0 log 0 is 0. Features are not centred.

    Args:
        features: (n, d) floating point, one row per picture.

    Returns:
        1 to min(n, d). A common factor and a rotation of the features change nothing.

    Raises:
        TypeError: features that are not floating point.
        ValueError: another shape, no rows, NaN or infinity, features that are all 0.

    Reference: Garrido, Balestriero, Najman, LeCun, 2022, RankMe (arXiv 2210.02885).

    Example:
        >>> round(rank_me(np.diag([2.0, 2.0, 0.0])), 6)
        2.0
    """
    scale = check_features("features", features, min_rows=1)
    if not features.any():
        raise ValueError("features must not all be 0, got nothing else")
    return effective_rank(features * np.float64(scale))
