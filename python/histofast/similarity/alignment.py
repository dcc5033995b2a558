"""Centered kernel alignment of sets of features of the same samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from histofast._arrays import is_on_gpu, to_numpy
from histofast.similarity.grams import gram_products, packed_grams
from histofast.similarity.hsic import (
    MIN_SAMPLES,
    Estimator,
    Gram,
    Kernel,
    Terms,
    centred_gram,
    check_norm,
    check_options,
    is_undefined,
)
from histofast.similarity.matrix import (
    Features,
    check_choice,
    check_count,
    check_features,
    check_pair,
)
from histofast.similarity.moments import terms_of_features


def cka(
    x: Features,
    y: Features,
    *,
    kernel: Kernel = "linear",
    estimator: Estimator = "debiased",
    rbf_scale: float = 1.0,
) -> float:
    """Return the CKA of two feature matrices, computed in float64.

    Linear features with p + q < n are compared through their cross products, block of rows by block
    of rows, all others through their n x n Grams; the results are equal.

    Args:
        x: (n, p) float16, float32 or float64 features, one sample per row, n >= 4.
        y: (n, q) other features of the same samples in the same order.
        kernel: "linear", or "rbf": exp(-d^2 / (2 t^2 m)), m the median of the squared distances
            over the full n x n matrix with its zero diagonal.
        estimator: "debiased" expects 0 for independent features and may be slightly negative;
            "biased" grows with p / n even then.
        rbf_scale: t of the rbf kernel, in units of that median distance.

    Returns:
        1 for features that are equal up to rotation, scale and shift.

    Raises:
        TypeError: not arrays of floating point numbers.
        ValueError: not two matrices of the same number of rows, fewer than 4 rows, NaN or infinity,
            features that do not vary (debiased: whose distances do not), an rbf kernel over equal
            rows in half of the pairs, an unknown kernel or estimator, a scale out of 1e-6..1e6.

    Reference: Kornblith, Norouzi, Lee, Hinton, 2019, Similarity of Neural Network Representations
    Revisited; Szekely and Rizzo, 2014, for the unbiased estimate by U-centring.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(50, 3))
        >>> round(cka(x, 2 * x[:, ::-1] + 5), 6)
        1.0
    """
    check_options(kernel, estimator, rbf_scale)
    scales = check_pair(x, y, min_rows=MIN_SAMPLES)
    terms = _terms(x, y, scales, kernel=kernel, estimator=estimator, rbf_scale=rbf_scale)
    return terms.cka(len(x))


def cka_minibatch(x: Features, y: Features, *, batch_size: int) -> float:
    """Return the debiased linear CKA whose HSIC are sums over batches of consecutive rows.

    What can be had when only a batch at a time fits in memory: pairs of samples of different
    batches are left out. Batch b counts with n_b (n_b - 3), so a smaller last one counts less.

    Args:
        x: (n, p) features, one sample per row, in random order.
        y: (n, q) other features of the same samples in the same order.
        batch_size: rows per batch, >= 4; at least 4 rows must be left for the last one.

    Raises:
        TypeError: not arrays of floating point numbers, a batch size that is not an integer.
        ValueError: as `cka`, or batches of fewer than 4 rows.

    Reference: Nguyen, Raghu, Kornblith, 2020, Do Wide and Deep Networks Learn the Same Things?

    Example:
        >>> x = np.random.default_rng(0).normal(size=(50, 3))
        >>> round(cka_minibatch(x, -x, batch_size=20), 6)
        1.0
    """
    check_count("batch_size", batch_size, at_least=MIN_SAMPLES)
    scales = check_pair(x, y, min_rows=MIN_SAMPLES)
    n = len(x)
    last = n % batch_size
    if 0 < last < MIN_SAMPLES and n > batch_size:
        raise ValueError(
            f"batch_size must leave at least {MIN_SAMPLES} rows for the last batch, "
            f"got {batch_size} for {n} rows, which leaves {last}: leave them out or change it"
        )
    total = Terms(xy=0, xx=0, yy=0, raw_x=0, raw_y=0)
    for start in range(0, n, batch_size):
        rows = slice(start, start + batch_size)
        total += _terms(
            x[rows], y[rows], scales, kernel="linear", estimator="debiased", rbf_scale=1.0
        )
    return total.cka(n)


def pack(
    features: Features,
    *,
    kernel: Kernel = "linear",
    estimator: Estimator = "debiased",
    rbf_scale: float = 1.0,
) -> NDArray[np.float64]:
    """Return the centred Gram of features as a vector of length 1: products of two are CKAs.

    Args:
        features: (n, p) features, one sample per row, n >= 4.
        kernel: as in `cka`.
        estimator: as in `cka`.
        rbf_scale: as in `cka`.

    Returns:
        (n (n - 1) / 2,) the triangle below the diagonal; biased: (n (n + 1) / 2,) with it, whose
        elements are divided by the square root of 2.

    Raises:
        TypeError: not an array of floating point numbers.
        ValueError: as `cka`.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(50, 3))
        >>> round(float(pack(x) @ pack(2 * x + 1)), 6)
        1.0
    """
    check_options(kernel, estimator, rbf_scale)
    packed, raw = _packed_grams(
        ["features"], [features], kernel=kernel, estimator=estimator, rbf_scale=rbf_scale
    )
    _normalise(["features"], packed, raw, n=len(features), undefined="raise")
    vector: NDArray[np.float64] = packed[0]
    return vector


def cka_pairs(
    features_a: Sequence[Any],
    features_b: Sequence[Any] | None = None,
    *,
    kernel: Kernel = "linear",
    estimator: Estimator = "debiased",
    rbf_scale: float = 1.0,
    undefined: Literal["raise", "nan"] = "raise",
) -> NDArray[np.float64]:
    """Return the CKA of every one of some features with every one of others.

    Every Gram is made once; all pairs are one matrix product.

    Args:
        features_a: la matrices (n, p_i) of the same samples in the same order, n >= 4: NumPy's, or
            float32, float16 or bfloat16 arrays of torch or CuPy, all on one GPU, where the Grams
            and their products are then computed.
        features_b: lb matrices (n, q_j) of the same samples; those of `features_a` when omitted.
        kernel: as in `cka`.
        estimator: as in `cka`.
        rbf_scale: as in `cka`.
        undefined: "raise", or "nan" for the row or column of features that do not vary.

    Returns:
        (la, lb) float64.

    Raises:
        TypeError: not sequences of arrays of floating point numbers.
        ValueError: as `cka`, naming the matrix; no matrices; arrays in different places.

    Determinism: on the CPU bitwise; on a GPU last bits may depend on its matrix products.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(50, 3))
        >>> cka_pairs([x, 3 * x], [x + 1]).round(6).tolist()
        [[1.0], [1.0]]
    """
    check_options(kernel, estimator, rbf_scale)
    check_choice("undefined", undefined, ("raise", "nan"))
    _check_sequence("features_a", features_a)
    names = [f"features_a[{i}]" for i in range(len(features_a))]
    features = list(features_a)
    if features_b is not None:
        _check_sequence("features_b", features_b)
        names += [f"features_b[{i}]" for i in range(len(features_b))]
        features += features_b
    if any(is_on_gpu(array) for array in features):
        return _pairs_on_gpu(
            names,
            features,
            len(features_a),
            undefined=undefined,
            kernel=kernel,
            estimator=estimator,
            rbf_scale=rbf_scale,
        )
    packed, raw = _packed_grams(
        names, features, kernel=kernel, estimator=estimator, rbf_scale=rbf_scale
    )
    _normalise(names, packed, raw, n=len(features[0]), undefined=undefined)
    rows = packed[: len(features_a)]
    columns = rows if features_b is None else packed[len(features_a) :]
    similarities: NDArray[np.float64] = rows @ columns.T
    return similarities


def _pairs_on_gpu(
    names: Sequence[str],
    features: Sequence[Any],
    la: int,
    *,
    undefined: Literal["raise", "nan"],
    kernel: Kernel,
    estimator: Estimator,
    rbf_scale: float,
) -> NDArray[np.float64]:
    """Return the similarities of the first `la` features with the others, or with themselves."""
    packed, raw = packed_grams(
        features, kernel=kernel, rbf_scale=rbf_scale, estimator=estimator, names=names
    )
    norms: NDArray[np.float64] = 2 * to_numpy((packed * packed).sum(1))
    n = int(features[0].shape[0])
    for i, name in enumerate(names):
        if undefined == "raise":
            check_norm(name, norms[i], raw=float(raw[i]), n=n)
        if is_undefined(norms[i], raw=float(raw[i])):
            norms[i] = np.nan
    rows = slice(0, la)
    columns = rows if la == len(features) else slice(la, len(features))
    products: NDArray[np.float64] = to_numpy(gram_products(packed[rows], packed[columns]))
    return products / np.sqrt(norms[rows, None] * norms[columns])


def _terms(
    x: Features,
    y: Features,
    scales: tuple[float, float],
    *,
    kernel: Kernel,
    estimator: Estimator,
    rbf_scale: float,
) -> Terms:
    """Return what the CKA of two checked matrices is made of, by the cheaper of the two routes."""
    # Multiplications: n (p + q)^2 / 2 through features, n^2 (p + q) / 2 through Grams.
    if kernel == "linear" and x.shape[1] + y.shape[1] < len(x):
        return terms_of_features(x, y, scales, estimator)
    return grams_of(x, y, scales, kernel=kernel, estimator=estimator, rbf_scale=rbf_scale).terms()


@dataclass(frozen=True, slots=True)
class GramPair:
    """Centred Grams of x and y, and their squared norms before debiasing."""

    x: Gram
    y: Gram
    raw_x: float
    raw_y: float

    def terms(self) -> Terms:
        return Terms(
            xy=float(np.vdot(self.x, self.y)),
            xx=float(np.vdot(self.x, self.x)),
            yy=float(np.vdot(self.y, self.y)),
            raw_x=self.raw_x,
            raw_y=self.raw_y,
        )


def grams_of(
    x: Features,
    y: Features,
    scales: tuple[float, float],
    *,
    kernel: Kernel,
    estimator: Estimator,
    rbf_scale: float,
) -> GramPair:
    (gram_x, raw_x), (gram_y, raw_y) = (
        centred_gram(a, scale=scale, kernel=kernel, estimator=estimator, rbf_scale=rbf_scale)
        for a, scale in ((x, scales[0]), (y, scales[1]))
    )
    return GramPair(gram_x, gram_y, raw_x, raw_y)


def _check_sequence(name: str, features: object) -> None:
    if isinstance(features, np.ndarray) or not isinstance(features, Sequence):
        raise TypeError(
            f"{name} must be a sequence of arrays (n, p), got {type(features).__name__}"
        )
    if not features:
        raise ValueError(f"{name} must hold at least 1 array, got none")


def _packed_grams(
    names: Sequence[str],
    features: Sequence[Features],
    *,
    kernel: Kernel,
    estimator: Estimator,
    rbf_scale: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (l, m) packed centred Grams, and the (l,) squared norms before debiasing.

    Half the inner product of two centred Grams is the product of the two packed ones: a pair below
    the diagonal stands for two elements, so those of the diagonal are divided by sqrt(2). Features
    stored in float32 or float16 go through the native kernel, others through NumPy in float64.
    """
    if all(_is_native(array) for array in features):
        found, norms = packed_grams(
            features, kernel=kernel, rbf_scale=rbf_scale, estimator=estimator, names=names
        )
        return found.astype(np.float64, copy=False), norms
    scales = [
        check_features(name, array, min_rows=MIN_SAMPLES)
        for name, array in zip(names, features, strict=True)
    ]
    n = len(features[0])
    for name, array in zip(names, features, strict=True):
        if len(array) != n:
            raise ValueError(f"{name} must have the rows of {names[0]}, got {len(array)} and {n}")
    below = np.tri(n, k=-1 if estimator == "debiased" else 0, dtype=bool)
    packed = np.empty((len(features), int(below.sum())))
    raw = np.empty(len(features))
    for i, (array, scale) in enumerate(zip(features, scales, strict=True)):
        gram, raw[i] = centred_gram(
            array, scale=scale, kernel=kernel, estimator=estimator, rbf_scale=rbf_scale
        )
        gram[np.diag_indices(n)] *= 0.5**0.5
        packed[i] = gram[below]
    return packed, raw


def _is_native(array: object) -> bool:
    """Whether the native kernel takes an array: two axes, half or single precision, whole rows."""
    return (
        isinstance(array, np.ndarray)
        and array.ndim == 2
        and array.dtype in (np.float32, np.float16)
        and min(array.shape) > 0
        and array.strides[1] == array.itemsize
        and array.strides[0] >= array.shape[1] * array.itemsize
    )


def _normalise(
    names: Sequence[str],
    packed: NDArray[np.float64],
    raw: NDArray[np.float64],
    *,
    n: int,
    undefined: Literal["raise", "nan"],
) -> None:
    """Scale the rows to length 1; a row that cannot be is refused, or made NaN."""
    for name, row, whole in zip(names, packed, raw, strict=True):
        norm = 2 * float(row @ row)
        if undefined == "raise":
            check_norm(name, norm, raw=float(whole), n=n)
        if is_undefined(norm, raw=float(whole)):
            row[:] = np.nan
        else:
            row /= np.sqrt(norm / 2)
