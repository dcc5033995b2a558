"""Canonical correlations of two sets of features, and the means that are made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from histofast.similarity.matrix import Features, centred, check_choice, check_count, check_pair

Keep = Literal["squares", "values", "count"]

_NEARLY_ORTHOGONAL = 0.1  # norm of Q'Q - 1 from which the second pass leaves rounding only
_MIN_ROWS = 3  # two features that are not tied by their number alone


@dataclass(frozen=True, kw_only=True, slots=True)
class CcaResult:
    """Canonical correlations.

    Attributes:
        rho: (min(rank_x, rank_y),) correlations, the largest first.
        rank_x, rank_y: independent directions of the features; p and q if no column is redundant.
    """

    rho: NDArray[np.float64]
    rank_x: int
    rank_y: int

    @property
    def mean_rho(self) -> float:
        return float(self.rho.mean())

    @property
    def r2(self) -> float:
        """Mean of the squared correlations."""
        return float(np.square(self.rho).mean())


@dataclass(frozen=True, kw_only=True, slots=True)
class SvccaResult:
    """Mean canonical correlation of the leading directions, and how they were chosen.

    Attributes:
        value: mean of rho.
        rho: (min(kept_x, kept_y),) correlations, the largest first.
        kept_x, kept_y: directions kept.
        keep, of: the rule they were kept by.
    """

    value: float
    rho: NDArray[np.float64]
    kept_x: int
    kept_y: int
    keep: float
    of: Keep


@dataclass(frozen=True, kw_only=True, slots=True)
class PwccaResult:
    """Canonical correlations weighted by what each accounts for in x, and in y.

    Attributes:
        x_to_y: weighted by x.
        y_to_x: weighted by y.
        rho: (min(rank_x, rank_y),) correlations, the largest first.
    """

    x_to_y: float
    y_to_x: float
    rho: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Basis:
    """Left singular vectors (n, rank) and values (rank,) of features, leading first."""

    vectors: NDArray[np.float64]
    values: NDArray[np.float64]

    def leading(self, count: int) -> _Basis:
        return _Basis(self.vectors[:, :count], self.values[:count])


def cca(x: Features, y: Features, *, centre: bool = True) -> CcaResult:
    """Return the canonical correlations of two feature matrices, computed in float64.

    They are the cosines of the angles between the spaces that the columns span, so columns that are
    sums of others, constant ones included, change nothing.

    Args:
        x: (n, p) features, one sample per row, n > p + q, better 5 to 10 times as many.
        y: (n, q) other features of the same samples in the same order.
        centre: subtract the means of the columns. False repeats results published without it.

    Raises:
        TypeError: not arrays of floating point numbers.
        ValueError: not two matrices of the same number of rows, NaN or infinity, features that do
            not vary, n <= p + q: then some correlations are 1 whatever the features are.

    Reference: Hotelling, 1936; Bjorck and Golub, 1973, for the computation.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(50, 3))
        >>> cca(x, x @ [[1.0, 2, 0], [0, 1, 5], [3, 0, 1]]).rho.round(6).tolist()
        [1.0, 1.0, 1.0]
    """
    _, basis_x, basis_y = _bases(x, y, centre=centre)
    rho, _, _ = _correlate(basis_x, basis_y, rows=len(x))
    return CcaResult(rho=rho, rank_x=basis_x.values.size, rank_y=basis_y.values.size)


def svcca(x: Features, y: Features, *, keep: float = 0.99, of: Keep = "squares") -> SvccaResult:
    """Return the mean canonical correlation of the leading singular directions of two matrices.

    Args:
        x: (n, p) features, one sample per row; p may exceed n.
        y: (n, q) other features of the same samples in the same order.
        keep: how much to keep: with "squares" or "values" a share in (0, 1], with "count" a number.
        of: what `keep` is a share of: "squares", the variance (sum of squared singular values);
            "values", the sum of the singular values, which keeps many more; "count", directions.

    Raises:
        TypeError: not arrays of floating point numbers, a count that is not an integer.
        ValueError: not two matrices of the same number of rows, NaN or infinity, features that do
            not vary, a share out of (0, 1], a count below 1 or above the directions there are, as
            many rows as directions kept of both or fewer.

    Reference: Raghu, Gilmer, Yosinski, Sohl-Dickstein, 2017, SVCCA. What "99 %" is a share of
    differs between the packages that implement it.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(50, 3))
        >>> found = svcca(x, x + 1, keep=2, of="count")
        >>> round(found.value, 6), found.kept_x
        (1.0, 2)
    """
    check_choice("of", of, ("squares", "values", "count"))
    if of == "count":
        check_count("keep", keep, at_least=1)  # type: ignore[arg-type]
    elif not 0 < keep <= 1:
        raise ValueError(
            f"keep must be above 0 and at most 1, got {keep}: of='count' keeps a number"
        )
    _, basis_x, basis_y = _bases(x, y, centre=True)
    kept = [
        basis.leading(_count_kept(name, basis.values, keep, of))
        for name, basis in (("x", basis_x), ("y", basis_y))
    ]
    rho, _, _ = _correlate(*kept, rows=len(x))
    return SvccaResult(
        value=float(rho.mean()),
        rho=rho,
        kept_x=kept[0].values.size,
        kept_y=kept[1].values.size,
        keep=keep,
        of=of,
    )


def pwcca(x: Features, y: Features) -> PwccaResult:
    """Return projection-weighted CCA in both directions, which differ.

    Canonical direction h_i of x counts with alpha_i = sum_j |<h_i, x_j>|, x_j the centred columns.

    Args:
        x: (n, p) features, one sample per row, n > p + q, better 5 to 10 times as many.
        y: (n, q) other features of the same samples in the same order.

    Raises:
        TypeError: not arrays of floating point numbers.
        ValueError: as `cca`.

    Reference: Morcos, Raghu, Bengio, 2018, Insights on representational similarity in neural
    networks with canonical correlation.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(50, 3))
        >>> round(pwcca(x, 2 * x).y_to_x, 6)
        1.0
    """
    sides, *bases = _bases(x, y, centre=True)
    rho, *turns = _correlate(*bases, rows=len(x))
    values = []
    for columns, basis, turn in zip(sides, bases, turns, strict=True):
        directions = basis.vectors @ turn  # (n, len(rho))
        weights = np.abs(directions.T @ columns).sum(axis=1)
        values.append(float(weights @ rho / weights.sum()))
    return PwccaResult(x_to_y=values[0], y_to_x=values[1], rho=rho)


def _bases(
    x: Features, y: Features, *, centre: bool
) -> tuple[tuple[NDArray[np.float64], NDArray[np.float64]], _Basis, _Basis]:
    """Return both matrices in float64, scaled and centred, and their bases."""
    scales = check_pair(x, y, min_rows=_MIN_ROWS)
    columns, bases = [], []
    for name, features, scale in zip("xy", (x, y), scales, strict=True):
        values = centred(features, scale=scale, subtract_means=centre)
        basis = _basis(values)
        if basis.values.size == 0:
            raise ValueError(f"{name} must vary, got {len(x)} equal rows: CCA is undefined")
        columns.append(values)
        bases.append(basis)
    return (columns[0], columns[1]), bases[0], bases[1]


def _basis(columns: NDArray[np.float64]) -> _Basis:
    n, p = columns.shape
    if p >= n:
        # The singular values of R' and its left vectors are those of the matrix, R is n x n only.
        lower = np.transpose(np.linalg.qr(columns.T, mode="r"))
        vectors, values, _ = np.linalg.svd(lower)
    else:
        thin, triangle = _qr(columns)
        turn, values, _ = np.linalg.svd(triangle)
        vectors = thin @ turn
    rank = int((values > values.max(initial=0) * max(n, p) * np.finfo(np.float64).eps).sum())
    return _Basis(vectors[:, :rank], values[:rank])


def _qr(columns: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the thin QR of a tall matrix.

    By Cholesky twice, which is matrix products only and as accurate as Householder's way where the
    first pass comes out nearly orthogonal; elsewhere, as with redundant columns, by that.
    """
    try:
        first = np.linalg.cholesky(columns.T @ columns).T
        nearly = columns @ np.linalg.inv(first)
        gram = nearly.T @ nearly
        if np.abs(gram - np.eye(len(gram))).max() < _NEARLY_ORTHOGONAL / len(gram):
            second = np.linalg.cholesky(gram).T
            return nearly @ np.linalg.inv(second), second @ first
    except np.linalg.LinAlgError:
        pass  # not of full rank
    thin, triangle = np.linalg.qr(columns)
    return thin, triangle


def _correlate(
    basis_x: _Basis, basis_y: _Basis, *, rows: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return rho and the turns of both bases into canonical directions, one column per rho."""
    p, q = basis_x.values.size, basis_y.values.size
    if rows <= p + q:
        raise ValueError(
            f"x and y must have more rows than both have directions, got {rows} rows for {p} + {q}: "
            "some correlations are 1 by that alone; use svcca keeping fewer, or cka"
        )
    left, rho, right = np.linalg.svd(basis_x.vectors.T @ basis_y.vectors, full_matrices=False)
    return np.minimum(rho, 1), left, right.T  # rounding may leave a cosine above 1


def _count_kept(name: str, values: NDArray[np.float64], keep: float, of: Keep) -> int:
    if of == "count":
        if keep > values.size:
            raise ValueError(
                f"keep must be at most the directions of {name}, got {keep} of {values.size}"
            )
        return int(keep)
    shares = np.cumsum(np.square(values) if of == "squares" else values)
    return min(int(np.searchsorted(shares, keep * shares[-1])) + 1, values.size)
