"""Principal axes of features: the directions in which they differ most."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histofast.similarity import cka


@dataclass(frozen=True, kw_only=True, slots=True)
class PrincipalAxes:
    """Where features lie: `mean` (d,) and `axes` (k, d), orthonormal rows, that of most variance first.

    A feature vector x becomes (x - mean) axes^T, (k,). The entry of an axis that is largest in size
    is positive.
    """

    mean: NDArray[np.float64]
    axes: NDArray[np.float64]

    def of(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return (n, d) features along the axes: (n, k)."""
        along: NDArray[np.float64] = (features.astype(np.float64) - self.mean) @ self.axes.T
        return along


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """What features along principal axes keep of the whole, on `n` patches that no axis was fitted on.

    `variance` is the share of the sum of variances, `cka` the debiased linear CKA to the whole.
    """

    n: int
    variance: float
    cka: float


def principal_axes(features: NDArray[np.float32], dims: int) -> PrincipalAxes:
    """Fit principal axes.

    Args:
        features: (n, d) float32, finite.
        dims: k, how many.

    Raises:
        ValueError: `dims` is over d, over n - 1, or over the rank of the centred features.

    Determinism: equal up to the last bits on machines of other kinds.
    """
    n, d = features.shape
    if dims > d:
        raise ValueError(f"dims must be at most {d}, the features that there are, got {dims}")
    if dims >= n:
        raise ValueError(
            f"dims must be below the {n} patches that it is fitted on, got {dims}: ask for fewer, or "
            "give more slides"
        )
    wide = features.astype(np.float64)
    mean = wide.mean(axis=0)
    _, sizes, axes = np.linalg.svd(wide - mean, full_matrices=False)
    rank = int((sizes > sizes[0] * max(n, d) * np.finfo(np.float32).eps).sum())
    if dims > rank:
        raise ValueError(
            f"dims must be at most {rank}, for these features lie in no more directions, got {dims}"
        )
    axes = axes[:dims]
    largest = np.abs(axes).argmax(axis=1)
    signs = np.sign(axes[np.arange(dims), largest])
    return PrincipalAxes(mean=mean, axes=axes * signs[:, None])


def kept_by(principal: PrincipalAxes, features: NDArray[np.float32]) -> Kept:
    """Measure what principal axes keep.

    Args:
        principal: fitted on others.
        features: (n, d) float32, n >= 4.

    Raises:
        ValueError: features that do not vary.
    """
    along = principal.of(features)
    whole = float(features.astype(np.float64).var(axis=0).sum())
    similarity = cka(features, along.astype(np.float32))
    return Kept(n=len(features), variance=float(along.var(axis=0).sum()) / whole, cka=similarity)
