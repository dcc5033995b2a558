"""Hilbert-Schmidt independence criterion of Gram matrices, biased and unbiased.

In this room `n` counts samples, and the five sums of `Terms` are n (n - 3) HSIC1 (debiased) or
(n - 1)^2 HSIC0 (biased): they add up over batches, and the factors cancel in a CKA.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from histofast.similarity.matrix import Features, centred, check_choice, check_features

Kernel = Literal["linear", "rbf"]
Estimator = Literal["debiased", "biased"]
Gram = NDArray[np.float64]  # (n, n), symmetric

MIN_SAMPLES = 4  # below that the unbiased estimate divides by zero
_PANEL = 4096  # columns that are copied to float64 at a time


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """What a CKA is made of; `raw` are xx and yy before debiasing, 0 where nothing varies."""

    xy: float
    xx: float
    yy: float
    raw_x: float
    raw_y: float

    def __add__(self, other: Terms) -> Terms:
        return Terms(
            xy=self.xy + other.xy,
            xx=self.xx + other.xx,
            yy=self.yy + other.yy,
            raw_x=self.raw_x + other.raw_x,
            raw_y=self.raw_y + other.raw_y,
        )

    def cka(self, n: int, *, resolution: float = 1e-12) -> float:
        """Return the ratio, or say why there is none.

        Args:
            n: samples, for the message.
            resolution: share of `raw` below which xx and yy are rounding.
        """
        check_norm("x", self.xx, raw=self.raw_x, n=n, resolution=resolution)
        check_norm("y", self.yy, raw=self.raw_y, n=n, resolution=resolution)
        return self.xy / (math.sqrt(self.xx) * math.sqrt(self.yy))


def is_undefined(norm: float, *, raw: float, resolution: float = 1e-12) -> bool:
    """True where a CKA would be 0 / 0, or a quotient of what rounding left."""
    return raw == 0 or norm <= resolution * raw


def check_norm(name: str, norm: float, *, raw: float, n: int, resolution: float = 1e-12) -> None:
    """Refuse features whose similarity with anything, themselves included, is 0 / 0."""
    if raw == 0:
        raise ValueError(f"{name} must vary, got {n} equal rows: CKA is undefined")
    if is_undefined(norm, raw=raw, resolution=resolution):
        raise ValueError(
            f"{name} must differ in its distances, got rows equally far from each other but for "
            "one at most: debiased CKA is undefined, biased CKA is not"
        )


def check_options(kernel: str, estimator: str, rbf_scale: float) -> None:
    check_choice("kernel", kernel, ("linear", "rbf"))
    check_choice("estimator", estimator, ("debiased", "biased"))
    if not 1e-6 <= rbf_scale <= 1e6:
        raise ValueError(f"rbf_scale must be between 1e-6 and 1e6, got {rbf_scale}")


def hsic1(gram_x: NDArray[np.floating], gram_y: NDArray[np.floating]) -> float:
    """Return the unbiased estimate of the HSIC of two Gram matrices.

    Args:
        gram_x: (n, n) symmetric, n >= 4. Its diagonal plays no part, centring changes nothing.
        gram_y: (n, n) symmetric, of the same samples in the same order.

    Raises:
        TypeError: not arrays of floating point numbers.
        ValueError: not two symmetric matrices of the same size, fewer than 4 rows, NaN or infinity.

    Reference: Song, Smola, Gretton, Borgwardt, Bedo, 2007, equation 5, computed by the U-centring
    of Szekely and Rizzo, 2014.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(50, 3))
        >>> hsic1(x @ x.T, x @ x.T) > 0
        True
    """
    for name, gram in (("gram_x", gram_x), ("gram_y", gram_y)):
        check_features(name, gram, min_rows=MIN_SAMPLES)
        if gram.shape[0] != gram.shape[1]:
            raise ValueError(f"{name} must be of shape (n, n), got {gram.shape}")
        if not np.allclose(gram, gram.T, rtol=0, atol=1e-3 * float(np.abs(gram).max())):
            raise ValueError(f"{name} must be symmetric, got one that is not")
    if len(gram_x) != len(gram_y):
        raise ValueError(
            f"gram_x and gram_y must have the same rows, got {len(gram_x)} and {len(gram_y)}"
        )
    n = len(gram_x)
    centred = [u_centre(gram.astype(np.float64)) for gram in (gram_x, gram_y)]
    return float(np.vdot(*centred)) / (n * (n - 3))


def u_centre(gram: Gram) -> Gram:
    """U-centre a Gram in place: rows without the diagonal sum to 0, the diagonal is 0."""
    n = len(gram)
    np.fill_diagonal(gram, 0)
    means = gram.sum(axis=1) / (n - 2)
    means -= means.sum() / (2 * (n - 1))
    gram -= means[:, None]
    gram -= means
    np.fill_diagonal(gram, 0)
    return gram


def centred_gram(
    features: Features, *, scale: float, kernel: Kernel, estimator: Estimator, rbf_scale: float
) -> tuple[Gram, float]:
    """Return a centred Gram and its squared norm before debiasing, 0 where nothing varies.

    Args:
        features: (n, p), checked.
        scale: what to multiply them with first.
        kernel: "linear", or "rbf" as in `cka`.
        estimator: "debiased" U-centres; "biased" centres rows and columns.
        rbf_scale: t of the rbf kernel.
    """
    gram = _linear_gram(features, scale)
    if kernel == "rbf":
        _to_rbf(gram, rbf_scale)
        if estimator == "biased":
            means = gram.mean(axis=1)
            means -= means.mean() / 2
            gram -= means[:, None]
            gram -= means
    raw = float(np.vdot(gram, gram))
    return (u_centre(gram) if estimator == "debiased" else gram), raw


def _linear_gram(features: Features, scale: float) -> Gram:
    """Return the Gram of the centred columns; all zeros where no column varies."""
    n, p = features.shape
    gram = np.zeros((n, n))
    for start in range(0, p, _PANEL):
        panel = centred(features[:, start : start + _PANEL], scale=scale)
        gram += panel @ panel.T
    return gram


def _to_rbf(gram: Gram, rbf_scale: float) -> None:
    """Turn a linear Gram into exp(-d^2 / (2 t^2 median)) - 1; centring takes the 1 away again."""
    squares = gram.diagonal().copy()
    gram *= -2
    gram += squares[:, None]
    gram += squares
    np.maximum(gram, 0, out=gram)
    np.fill_diagonal(gram, 0)
    if not gram.any():
        return  # nothing varies: the caller says so
    median = float(np.median(gram))
    if median <= 1e-24 * float(gram.max()):
        raise ValueError(
            "rbf needs a median distance above 0, got equal rows in half of the pairs: "
            "take the linear kernel"
        )
    gram *= -1 / (2 * rbf_scale**2 * median)
    np.expm1(gram, out=gram)
