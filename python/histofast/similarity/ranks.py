"""How much of a layer's weights is structure: ranks of matrices and of the unfoldings of kernels.

Reference: Nakajima, Sugiyama, Babacan, Tomioka, 2013, Global analytic solution of fully-observed
variational Bayesian matrix factorization, JMLR 14 (EVBMF); Nakajima, Tomioka, Sugiyama, Babacan, 2012,
Perfect dimensionality recovery by variational Bayesian PCA (what it finds of large matrices); Roy,
Vetterli, 2007 (effective rank); Hosseini, Plataniotis, 2020, AdaS (knowledge gain).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_HALVINGS = 60  # of the bracket about tau, until it is as good as a float64
_TALL = 2  # columns by row from which a triangular factor pays
_COARSE, _FINE, _ROUNDS = 512, 32, 6  # points of the search for the variance
_FLOOR = 1e-20  # of the mean square: the least variance, for matrices without noise

Matrix = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class LowRank:
    """The low-rank part of a matrix by EVBMF.

    Attributes:
        singular_values: (rank,) float64 of the part, shrunk, descending.
        variance: of the noise of each entry.
        shape: of the matrix.
    """

    singular_values: Matrix
    variance: float
    shape: tuple[int, int]

    @property
    def rank(self) -> int:
        """Singular values that stand out of the noise."""
        return len(self.singular_values)

    @property
    def rank_ratio(self) -> float:
        """The rank over the number of rows."""
        return self.rank / self.shape[0]

    @property
    def condition(self) -> float:
        """Largest over smallest singular value; NaN at rank 0."""
        s = self.singular_values
        return float(s[0] / s[-1]) if len(s) else math.nan

    @property
    def knowledge_gain(self) -> float:
        """sum_i sigma_i / sigma_1 over the number of rows (AdaS); 0 at rank 0."""
        s = self.singular_values
        return float((s / s[0]).sum() / self.shape[0]) if len(s) else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerMetrics:
    """Ranks of one layer; `in` and `out` are the unfoldings by channels that enter and leave.

    `rank` and `rank_ratio` are EVBMF's.
    """

    layer: str
    stable_rank: float
    effective_rank: float
    rank_in: int
    rank_out: int
    rank_ratio_in: float
    rank_ratio_out: float
    knowledge_gain: float


def stable_rank(matrix: Any) -> float:
    """Return ||W||_F^2 / ||W||_2^2 of an (r, c) matrix; 0 where all is 0."""
    return _stable_rank(_singular_values(_checked(matrix)))


def effective_rank(matrix: Any) -> float:
    """Return exp of the entropy of the normalised singular values (Roy & Vetterli 2007); 0 of 0."""
    return _effective_rank(_singular_values(_checked(matrix)))


def evbmf(matrix: Any, *, variance: float | None = None) -> LowRank:
    """Factorise by empirical variational Bayes: the global solution of Nakajima et al., 2013.

    A singular value is kept where a factor of its own lowers the free energy, and is then shrunk. The
    threshold is the exact root of the paper's condition, where many programs take its approximation
    2.5129 sqrt(alpha), which puts it up to 2 % too low for matrices that are not square.

    Of a large matrix of rank k with noise it finds k exactly where all k stand out of the threshold, and 0
    in noise alone, as the paper of 2012 proves in the limit; a small matrix can be wrong by some. The
    variance, where it is not given, is the least of the free energy on a grid of 512 values that is made
    finer about the least five times: a function with several minima, of which a narrow one may be missed.

    Args:
        matrix: (r, c), finite.
        variance: of the noise; None: the one of least free energy.

    Raises:
        ValueError: not such a matrix, or a variance that is not above 0.
    """
    values = _checked(matrix)
    if variance is not None and not (variance > 0 and math.isfinite(variance)):
        raise ValueError(
            f"variance must be a number above 0, got {variance!r}: leave it out to estimate it"
        )
    return _low_rank(_singular_values(values), values.shape, variance)


def knowledge_gain(weight: Any) -> float:
    """Return AdaS's 1/2 (KG_in + KG_out) of an (out, in, ...) weight."""
    by_in, by_out = _unfoldings(np.asarray(weight))
    return (evbmf(by_in).knowledge_gain + evbmf(by_out).knowledge_gain) / 2


def layer_metrics(state: Mapping[str, Any]) -> tuple[LayerMetrics, ...]:
    """Return the ranks of convolutions and linear layers: weights of two or four dimensions.

    Stable and effective rank are of the (out, in * kh * kw) unfolding.
    """
    rows = []
    for name, value in state.items():
        weight = np.asarray(value)
        if not name.endswith("weight") or weight.ndim not in (2, 4):
            continue
        by_in, by_out = (_checked(unfolding) for unfolding in _unfoldings(weight))
        s_in, s_out = _singular_values(by_in), _singular_values(by_out)
        ins, outs = _low_rank(s_in, by_in.shape, None), _low_rank(s_out, by_out.shape, None)
        rows.append(
            LayerMetrics(
                layer=name.removesuffix(".weight"),
                stable_rank=_stable_rank(s_out),
                effective_rank=_effective_rank(s_out),
                rank_in=ins.rank,
                rank_out=outs.rank,
                rank_ratio_in=ins.rank_ratio,
                rank_ratio_out=outs.rank_ratio,
                knowledge_gain=(ins.knowledge_gain + outs.knowledge_gain) / 2,
            )
        )
    return tuple(rows)


# --- How it is done ----------------------------------------------------------------------------


def _singular_values(values: Matrix) -> Matrix:
    """Return them, descending; those of a long matrix are those of its triangular factor."""
    few, many = sorted(values.shape)
    if many >= _TALL * few:
        tall = values if values.shape[0] == many else values.T
        values = np.asarray(np.linalg.qr(tall, mode="r"), np.float64)
    return np.asarray(np.linalg.svd(values, compute_uv=False), np.float64)


def _stable_rank(s: Matrix) -> float:
    return float(((s / s[0]) ** 2).sum()) if s[0] > 0 else 0.0


def _effective_rank(s: Matrix) -> float:
    if s[0] <= 0:
        return 0.0
    p = s / s.sum()
    p = p[p > 0]
    return float(np.exp(-(p * np.log(p)).sum()))


def _low_rank(s: Matrix, shape: tuple[int, ...], variance: float | None) -> LowRank:
    few, many = sorted(shape)
    rows, columns = shape
    if s[0] <= 0:
        return LowRank(singular_values=s[:0], variance=variance or 0.0, shape=(rows, columns))
    scale = float(s[0])  # of the order of 1 inside, so that no square leaves the floats
    g2 = (s / scale) ** 2
    noise = _variance(g2, few, many) if variance is None else variance / scale / scale
    kept = g2[g2 > noise * many * _threshold(few / many)]
    first = 1 - (few + many) * noise / kept
    shrunk = np.sqrt(kept) / 2 * (first + np.sqrt(first**2 - 4 * few * many * noise**2 / kept**2))
    return LowRank(
        singular_values=shrunk * scale,
        variance=noise * scale**2 if variance is None else variance,
        shape=(rows, columns),
    )


def _unfoldings(weight: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    if weight.ndim < 2:
        raise ValueError(
            f"weight must be (out, in, ...), got {weight.ndim} dimensions: give weight of a "
            "convolution or a linear layer"
        )
    by_in = np.moveaxis(weight, 1, 0)
    return by_in.reshape(len(by_in), -1), weight.reshape(len(weight), -1)


def _threshold(alpha: float) -> float:
    """Return the least gamma^2 / (many * variance) that is kept: where a factor gains nothing yet."""
    low, high = math.sqrt(alpha), 4.0  # the factor's gain is above 0, and below
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if math.log1p(middle) + alpha * math.log1p(middle / alpha) > middle:
            low = middle
        else:
            high = middle
    return (1 + low) * (1 + alpha / low)


def _variance(g2: Matrix, few: int, many: int) -> float:
    """Return the variance of least free energy: a grid over its bounds, then finer about the best."""
    threshold = _threshold(few / many)
    least = math.ceil(few / (1 + few / many)) - 1
    upper = float(g2.sum()) / (few * many)
    lower = max(
        float(g2[least]) / (many * threshold),
        float(g2[least:].sum()) / (many * (few - least)),
        upper * _FLOOR,
    )
    low, high = math.log(min(lower, upper)), math.log(upper)
    points = _COARSE
    best = high
    for _ in range(_ROUNDS):
        grid = np.linspace(low, high, points)
        i = int(np.argmin(_free_energies(np.exp(grid), g2, few, many, threshold)))
        best = float(grid[i])
        low, high = float(grid[max(i - 1, 0)]), float(grid[min(i + 1, points - 1)])
        points = _FINE
    return math.exp(best)


def _free_energies(variances: Matrix, g2: Matrix, few: int, many: int, threshold: float) -> Matrix:
    """Return those of (v,) variances up to a factor and a constant."""
    alpha = few / many
    x = g2 / (many * variances[:, None])  # (v, few)
    place, _ = np.nonzero(x > threshold)
    above = x[x > threshold]
    centred = above - (1 + alpha)
    tau = (centred + np.sqrt(centred**2 - 4 * alpha)) / 2
    gained = np.log1p(tau) + alpha * np.log1p(tau / alpha) - tau
    energy: Matrix = x.sum(axis=1) + few * np.log(variances)
    energy += np.bincount(place, gained, len(variances))
    return energy


def _checked(matrix: Any) -> Matrix:
    values = np.asarray(matrix, np.float64)
    if values.ndim != 2 or 0 in values.shape or not np.isfinite(values).all():
        raise ValueError(
            f"matrix must be two-dimensional, finite and not empty, got shape {values.shape}: "
            "give matrix as the unfolding of a weight without NaN"
        )
    return values
