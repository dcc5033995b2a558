"""How far apart classes lie in features: the H-score with shrunk covariance, and TransRate.

Reference: Bao et al., 2019, An information-theoretic approach to transferability; Ibrahim, Ponomareva,
Mazumder, 2021, Newer is not always better (arXiv 2110.06893); Ledoit, Wolf, 2004, A well-conditioned
estimator for large-dimensional covariance matrices; Huang, Wei, Rong, Yang, Huang, 2021, Frustratingly
easy transferability estimation (arXiv 2106.09362).
"""

from __future__ import annotations

import numpy as np

from histofast._numbers import real_number
from histofast.similarity import centred
from histofast.transferability.given import Array, Features, Given, Labels, given

EPS = 1e-4  # of TransRate, the paper's


def h_score(features: Features, labels: Labels) -> float:
    """Return tr(C^-1 (1 - s) B): the variance between classes in units of that of the features.

    B is the covariance of the class means, each as often as its class has rows, C = (1 - s) S + s tr(S)/d I
    the covariance of the features, shrunk by Ledoit and Wolf's s; B is shrunk by the same factor. All
    covariances are divided by n.

    Args:
        features: (n, d) floating point, one row per picture.
        labels: (n,) integer classes.

    Returns:
        The higher, the better; 0 to the number of classes less 1. A shift, a common factor and a
        rotation of the features change nothing.

    Raises:
        TypeError: features that are not floating point, labels that are not integers.
        ValueError: other shapes, NaN or infinity, under two classes, no more rows than classes,
            features that do not vary.

    Determinism: the last bits may depend on the BLAS library and its threads.

    Example:
        >>> h_score(np.array([[0.0], [2.0], [4.0], [6.0]]), np.array([0, 0, 1, 1]))
        0.8
    """
    rows = given(features, labels)
    values = _varying(rows)
    n, d = values.shape
    covariance = values.T @ values / n
    squared = np.vdot(covariance, covariance)
    level = covariance.trace() / d
    # What the elements of S err by, squared, against what they differ by from a multiple of I.
    spread = (np.einsum("ij,ij->i", values, values) ** 2).mean() - squared
    distance = squared - d * level**2
    shrinkage = min(spread / n / distance, 1.0) if distance > 0 else 0.0
    covariance *= 1 - shrinkage
    covariance[np.diag_indices(d)] += shrinkage * level
    means = (_one_hot(rows).T @ values) / rows.counts[:, None]  # (c, d)
    shares = rows.counts / n
    inside = np.einsum("kd,dk->k", means, np.linalg.solve(covariance, means.T))
    return float((1 - shrinkage) * (shares @ inside))


def trans_rate(features: Features, labels: Labels, *, eps: float = EPS) -> float:
    """Return R(Z) less the mean over the classes of R(Z of the class), R the rate of coding.

    R(Z) = 1/2 log |I + Z'Z / (n eps)|: about how many nats a row takes if it may be off by eps. Features
    are centred, all classes at once, and divided by the root of their mean squared length, so that eps is
    a share of their variance; the paper leaves them as they are and so depends on their scale.

    Args:
        features: (n, d) floating point, one row per picture.
        labels: (n,) integer classes, which count alike whatever their size.
        eps: squared error of the code, a share of the variance.

    Returns:
        The higher, the better. A shift, a common factor and a rotation of the features change nothing.

    Raises:
        TypeError: features that are not floating point, labels that are not integers.
        ValueError: other shapes, NaN or infinity, under two classes, no more rows than classes,
            features that do not vary, an eps that is not above 0.

    Determinism: the last bits may depend on the BLAS library and its threads.
    """
    eps = real_number("eps", eps, above=0)
    rows = given(features, labels)
    values = _varying(rows)
    values *= np.sqrt(len(values) / np.vdot(values, values))
    rates = [_rate(values[rows.class_of == k], eps) for k in range(len(rows.counts))]
    return _rate(values, eps) - float(np.mean(rates))


def _rate(values: Array, eps: float) -> float:
    n, d = values.shape
    product = values.T @ values if n >= d else values @ values.T  # of one determinant
    product /= n * eps
    product[np.diag_indices(len(product))] += 1
    return float(np.log(np.linalg.cholesky(product).diagonal()).sum())


def _varying(rows: Given) -> Array:
    """Return the features, scaled and centred."""
    values = centred(rows.features, scale=rows.scale)
    if not values.any():
        raise ValueError(f"features must vary, got {len(values)} equal rows")
    return values


def _one_hot(rows: Given) -> Array:
    return rows.one_hot(slice(None))
