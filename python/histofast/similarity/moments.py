"""Linear CKA of any number of rows in one pass, from one matrix of moments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg import blas

from histofast.similarity.hsic import MIN_SAMPLES, Estimator, Terms
from histofast.similarity.matrix import CONSTANT, Features, check_choice, check_pair, power_of_two

_BLOCK_ROWS = 4096  # rows per matrix product: few enough for float32 sums, enough for full speed
_CACHED_ROWS = 128  # rows that stay in the cache from one step to the next
_LARGE = 1e8  # squared norm in units of the first rows' spread from where float32 is left


@dataclass(frozen=True, kw_only=True, slots=True)
class _Frame:
    """Where features are counted from, and in which unit: z = (x - origin) * scale."""

    origin: tuple[NDArray[np.float64], NDArray[np.float64]]  # (p,) and (q,)
    scale: tuple[float, float]

    @staticmethod
    def of(x: Features, y: Features) -> _Frame:
        """The mean of the first rows, to the features' precision; a unit if they have an odd one."""
        origins, scales = [], []
        for a in (x[:_BLOCK_ROWS], y[:_BLOCK_ROWS]):
            mean = a.mean(axis=0, dtype=np.float64).astype(_working(a)).astype(np.float64)
            spread = max(
                float((a.max(axis=0) - mean).max(initial=0)),
                float((mean - a.min(axis=0)).max(initial=0)),
            )
            if spread == 0:  # one row, say: rows to come will hardly be of another magnitude
                spread = float(np.abs(mean).max(initial=0))
            origins.append(mean)
            scales.append(1.0 if 1e-4 < spread < 1e4 else power_of_two(spread))
        return _Frame(origin=(origins[0], origins[1]), scale=(scales[0], scales[1]))


class Moments:
    """Sums over rows of all products of z = (x, y, 1, |x|^2, |y|^2), in float64.

    This (p + q + 3)^2 matrix holds everything of the linear CKA of any number of rows, and a shift
    or another unit of the features is a linear map of z, so it can be centred at the end, exactly.
    """

    def __init__(self, frame: _Frame) -> None:
        self.frame = frame
        self.n = 0
        self.single = False  # some products were made in float32
        self._sizes = tuple(len(origin) for origin in frame.origin)
        width = sum(self._sizes) + 3
        self._upper = np.zeros((width, width), order="F")  # as BLAS leaves it; 0 below the diagonal

    def add(self, x: Features, y: Features, *, single: bool) -> None:
        single = single and all(2.0**-100 < scale < 2.0**100 for scale in self.frame.scale)
        block = np.empty(
            (min(len(x), _BLOCK_ROWS), len(self._upper)), np.float32 if single else np.float64
        )
        for start in range(0, len(x), _BLOCK_ROWS):
            rows = slice(start, start + _BLOCK_ROWS)
            z = block[: len(x[rows])]
            _augment(x[rows], y[rows], self.frame, out=z)
            if single and not z[:, -2:].max() < _LARGE:
                z = np.empty(z.shape)
                _augment(x[rows], y[rows], self.frame, out=z)
            multiply = blas.ssyrk if z.dtype == np.float32 else blas.dsyrk
            self._upper += multiply(1.0, z.T)  # z.T is in BLAS's order without a copy
        self.n += len(x)
        self.single |= single

    def merge(self, other: Moments) -> None:
        # In the larger unit: the powers of a ratio of units may vanish but not overflow.
        scale = tuple(map(min, self.frame.scale, other.frame.scale))
        frame = _Frame(origin=self.frame.origin, scale=(scale[0], scale[1]))
        self._upper = np.asfortranarray(np.triu(self.within(frame) + other.within(frame)))
        self.frame = frame
        self.n += other.n
        self.single |= other.single

    def within(self, frame: _Frame) -> NDArray[np.float64]:
        """Return the symmetric matrix of the same rows counted in another frame."""
        one = sum(self._sizes)
        change = sparse.lil_array((one + 3, one + 3))
        change[one, one] = 1
        start = 0
        for side, size in enumerate(self._sizes):
            factor = frame.scale[side] / self.frame.scale[side]
            shift = (frame.origin[side] - self.frame.origin[side]) * frame.scale[side]
            columns = np.arange(start, start + size)
            norm = one + 1 + side
            change[columns, columns] = factor
            change[one, columns] = -shift
            change[columns, norm] = -2 * factor * shift
            change[one, norm] = float(shift @ shift)
            change[norm, norm] = factor**2
            start += size
        left = change.T.tocsr()
        products = np.triu(self._upper, 1).T + self._upper
        changed: NDArray[np.float64] = left @ (left @ products).T
        return changed

    def terms(self, estimator: Estimator) -> Terms:
        n, p = self.n, self._sizes[0]
        one = sum(self._sizes)
        means = self._upper[:one, one] / n
        origin = tuple(
            old + part / scale
            for old, part, scale in zip(
                self.frame.origin, np.split(means, [p]), self.frame.scale, strict=True
            )
        )
        frame = _Frame(origin=(origin[0], origin[1]), scale=self.frame.scale)
        centred = self.within(frame)
        sides = (slice(0, p), slice(p, one))
        norms = centred[one, one + 1 :]  # (2,) sums of squared norms of the centred rows
        raw, terms = np.empty((2, 2)), np.empty((2, 2))
        for i, j in ((0, 0), (0, 1), (1, 1)):
            block = centred[sides[i], sides[j]]
            raw[i, j] = terms[i, j] = np.vdot(block, block)
            if estimator == "debiased":
                terms[i, j] += norms[i] * norms[j] / ((n - 1) * (n - 2))
                terms[i, j] -= n / (n - 2) * centred[one + 1 + i, one + 1 + j]
        for i, side in enumerate(sides):
            spread = centred.diagonal()[side] / n
            size = frame.origin[i] * frame.scale[i]
            if (spread <= (CONSTANT * size) ** 2).all():
                raw[i, i] = 0
        return Terms(
            xy=float(terms[0, 1]),
            xx=float(terms[0, 0]),
            yy=float(terms[1, 1]),
            raw_x=float(raw[0, 0]),
            raw_y=float(raw[1, 1]),
        )


def terms_of_features(
    x: Features, y: Features, scale: tuple[float, float], estimator: Estimator
) -> Terms:
    """Return what the CKA of two checked matrices is made of, in float64, without an n x n Gram.

    `scale`: the units of x and y; terms of the same units can be added.
    """
    moments = Moments(_Frame(origin=_Frame.of(x, y).origin, scale=scale))
    moments.add(x, y, single=False)
    return moments.terms(estimator)


class CkaAccumulator:
    """Linear CKA of features that come in batches, exact whatever their number, in one pass.

    Nothing is approximated by batches: the result is that of `cka` on all rows at once. Memory is
    two (p + q + 3)^2 matrices of float64 and a block of 4,096 rows, however many rows come. Batches
    of float32 or float16 are multiplied in float32 and summed in float64, which agrees with float64
    to about 1e-7; if x or y is float64, all is.

    Determinism: on one machine, for the same batches in the same order; other batches give other
    last bits.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> similarity = CkaAccumulator()
        >>> for _ in range(10):
        ...     x = rng.normal(size=(1000, 3))
        ...     similarity.update(x, 2 * x[:, ::-1] + 5)
        >>> similarity.n, round(similarity.value(), 6)
        (10000, 1.0)
    """

    def __init__(self) -> None:
        self._moments: Moments | None = None

    @property
    def n(self) -> int:
        """Rows seen."""
        return 0 if self._moments is None else self._moments.n

    def update(self, x: Features, y: Features) -> None:
        """Add rows; on an error none of them is added.

        Args:
            x: (b, p) features of b >= 1 samples; p is the same in every call.
            y: (b, q) other features of the same samples in the same order.

        Raises:
            TypeError: not arrays of floating point numbers.
            ValueError: not two matrices of the same number of rows, NaN or infinity, other columns
                than before.
        """
        check_pair(x, y, min_rows=1)
        if self._moments is None:
            self._moments = Moments(_Frame.of(x, y))
        for name, a, origin in zip("xy", (x, y), self._moments.frame.origin, strict=True):
            if a.shape[1] != len(origin):
                raise ValueError(
                    f"{name} must have {len(origin)} columns as before, got {a.shape[1]}"
                )
        self._moments.add(x, y, single=_is_single(x, y))

    def merge(self, other: CkaAccumulator) -> None:
        """Add the rows that another accumulator has seen; `other` is left as it is.

        Raises:
            TypeError: not a CkaAccumulator.
            ValueError: features of other sizes.
        """
        if not isinstance(other, CkaAccumulator):
            raise TypeError(f"other must be a CkaAccumulator, got {type(other).__name__}")
        if other._moments is None:
            return
        if self._moments is None:
            self._moments = Moments(other._moments.frame)
        own, new = (
            tuple(len(origin) for origin in moments.frame.origin)
            for moments in (self._moments, other._moments)
        )
        if own != new:
            raise ValueError(f"other must have features of sizes {own}, got {new}")
        self._moments.merge(other._moments)

    def value(self, *, estimator: Estimator = "debiased") -> float:
        """Return the linear CKA of all rows seen so far.

        Raises:
            ValueError: fewer than 4 rows, features that do not vary, an unknown estimator.
        """
        check_choice("estimator", estimator, ("debiased", "biased"))
        if self._moments is None or self.n < MIN_SAMPLES:
            raise ValueError(f"CKA needs at least {MIN_SAMPLES} rows, got {self.n}")
        resolution = 1e-6 if self._moments.single else 1e-12
        return self._moments.terms(estimator).cka(self.n, resolution=resolution)


def _working(features: Features) -> type[np.floating]:
    return np.float64 if features.dtype == np.float64 else np.float32


def _is_single(x: Features, y: Features) -> bool:
    return x.dtype != np.float64 and y.dtype != np.float64


def _augment(x: Features, y: Features, frame: _Frame, *, out: NDArray[np.floating]) -> None:
    """Write x and y in the frame, ones, and the squared norms of both: (rows, p + q + 3)."""
    dtype = out.dtype.type
    p = x.shape[1]
    out[:, -3] = 1
    halves = (out[:, :p], out[:, p:-3])
    for side, (values, half) in enumerate(zip((x, y), halves, strict=True)):
        # The origin is exact in the features' own precision: nothing is lost before the subtraction.
        origin = frame.origin[side].astype(dtype)
        scale = dtype(frame.scale[side])
        for start in range(0, len(x), _CACHED_ROWS):
            rows = slice(start, start + _CACHED_ROWS)
            np.subtract(values[rows], origin, out=half[rows], casting="same_kind")
            if scale != 1:
                half[rows] *= scale
            with np.errstate(over="ignore"):  # the caller takes float64 then
                np.einsum("ij,ij->i", half[rows], half[rows], out=out[rows, side - 2])
