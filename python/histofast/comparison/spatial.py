"""Debiased CKA of all pairs of layers whose rows are the places of their maps."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast._arrays import to_numpy
from histofast.comparison.source import Array, Source
from histofast.comparison.sums import CONSTANT, Sums
from histofast.similarity import MEASURES

Size = tuple[int, int]

BY_CHANNELS = MEASURES["cka"]  # what is added up here: products of channels, not of rows


class SpatialSums(Sums):
    """Everything that is added up over the batches; a row is one place of one image.

    Two layers are compared at the coarser of their two grids, to which the finer one is averaged.
    Products are taken between channels, c_a x c_b numbers, not between the many rows.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        la, lb = len(self.a.names), len(self.b.names)
        self._terms = np.zeros((3, la, lb))  # xy, xx, yy of each pair, at the pair's grid
        self._own = np.zeros((2, la, lb))  # before the correction
        self._random_terms = np.zeros((3, len(self.random), la))

    def add(self, pixels: NDArray[np.uint8], rows: NDArray[np.int64]) -> None:
        """Run one batch through the networks."""
        pixels = np.ascontiguousarray(pixels)
        a, b = (self._maps(self.a, pixels, 0), self._maps(self.b, pixels, 1))
        for i, j in itertools.product(range(len(a)), range(len(b))):
            x, y = _matched(a[i], b[j])
            self._terms[:, i, j] += _debiased(x, y), x.own, y.own
            self._own[:, i, j] += x.raw, y.raw
        shuffles = [self._rng.permutation(len(pixels)) for _ in self._permuted]
        for k, (i, j) in enumerate(self.pairs):
            x, y = _matched(a[i], b[j])
            for p, shuffle in enumerate(shuffles):
                self._permuted[p, k] += _debiased(x, y.shuffled(shuffle))
        for seed in next(self._turns):
            for i, r in enumerate(self._maps(self.random[seed], pixels, None)):
                x, y = _matched(a[i], r)
                self._random_terms[:, seed, i] += _debiased(x, y), x.own, y.own

    def _maps(self, source: Source, pixels: NDArray[np.uint8], side: int | None) -> list[_Layer]:
        found: dict[str, _Layer] = {}

        def keep(name: str, values: Any) -> None:
            if values.ndim != 4:
                raise ValueError(
                    f"layer {name} must give maps (n, c, h, w) for mode spatial, got "
                    f"{tuple(values.shape)}: leave it out"
                )
            maps = np.array(to_numpy(values))  # the caller's array lives for this call only
            if not np.isfinite(maps).all():
                raise ValueError(f"layer {name} must be finite, got NaN or infinity")
            found[name] = _Layer(maps)

        out = source.run(pixels, keep)
        if side is not None and self.keep_outputs:
            self.outputs[side].append(out)
        return [found[name] for name in source.names]

    def result(self, confidence: float, batch_size: int) -> dict[str, Any]:
        """Return what goes into a `Comparison`."""
        cross, square_a, square_b = self._terms
        defined = (square_a > CONSTANT * self._own[0]) & (square_b > CONSTANT * self._own[1])
        norm = np.where(defined, np.sqrt(np.maximum(square_a * square_b, 0)), np.nan)
        i, j = self.pairs.T
        values: dict[str, Any] = {"matrix": cross / norm}
        values |= self._against_shuffles(norm[i, j], values["matrix"][i, j], confidence)
        if self.random:
            with np.errstate(invalid="ignore", divide="ignore"):
                cross_r, xx, yy = self._random_terms
                values["random"] = (cross_r / np.sqrt(xx * yy))[:, i]
        values["convention"] = {
            "mode": "spatial: a place of an image's map is one row, the finer map averaged to the "
            "coarser",
            "estimator": f"debiased HSIC, summed over batches of {batch_size} images",
            "interval": "none: the places of one image are not independent",
            **self._null(),
        }
        return values


class _Layer:
    """One layer's maps of a batch, (n, c, h, w), and their centred rows at the grids asked for."""

    def __init__(self, maps: NDArray[np.float32]) -> None:
        self._maps = maps
        self.size: Size = (maps.shape[2], maps.shape[3])
        self._at: dict[Size, _Rows] = {}

    def rows(self, size: Size) -> _Rows:
        if size not in self._at:
            self._at[size] = _Rows(average_to(self._maps, size))
        return self._at[size]


class _Rows:
    """(n h w, c) centred rows, what CKA's correction needs of them, and the term with themselves."""

    def __init__(self, maps: NDArray[np.float32]) -> None:
        c, h, w = maps.shape[1:]
        self.places = h * w
        rows = maps.transpose(0, 2, 3, 1).reshape(-1, c)
        self.values = rows - rows.mean(axis=0, dtype=np.float64).astype(np.float32)
        self.squares = np.einsum("ij,ij->i", self.values, self.values).astype(np.float64)
        gram = self.values.T @ self.values
        self.raw = float(np.vdot(gram.astype(np.float64), gram))
        self.own = self.raw + _correction(self.squares, self.squares)

    def shuffled(self, order: NDArray[np.int64]) -> _Rows:
        """Return the rows of the images in another order."""
        other = object.__new__(_Rows)
        places = (order[:, None] * self.places + np.arange(self.places)).ravel()
        other.places, other.raw, other.own = self.places, self.raw, self.own
        other.values, other.squares = self.values[places], self.squares[places]
        return other


def _matched(x: _Layer, y: _Layer) -> tuple[_Rows, _Rows]:
    size = (min(x.size[0], y.size[0]), min(x.size[1], y.size[1]))
    return x.rows(size), y.rows(size)


def _debiased(x: _Rows, y: _Rows) -> float:
    """Return N (N - 3) HSIC1 of centred rows, by their columns (Kornblith 2019)."""
    cross = (x.values.T @ y.values).astype(np.float64)
    return float(np.vdot(cross, cross)) + _correction(x.squares, y.squares)


def _correction(r: Array, s: Array) -> float:
    n = len(r)
    return float(r.sum() * s.sum() / ((n - 1) * (n - 2)) - n / (n - 2) * (r @ s))


def average_to(maps: NDArray[np.float32], size: Size) -> NDArray[np.float32]:
    """Average (n, c, h, w) maps to a coarser grid; each new place weighs the old ones by area."""
    for axis, wanted in ((2, size[0]), (3, size[1])):
        if maps.shape[axis] != wanted:
            weights = _areas(maps.shape[axis], wanted)
            maps = np.moveaxis(np.tensordot(maps, weights, axes=(axis, 1)), -1, axis)
    return maps


def _areas(old: int, new: int) -> NDArray[np.float32]:
    """Return (new, old) shares of the old cells in each of the new ones."""
    edges = np.arange(new + 1) * old / new
    low, high = edges[:-1, None], edges[1:, None]
    cells = np.arange(old)
    shared = np.minimum(high, cells + 1) - np.maximum(low, cells)
    weights: NDArray[np.float32] = (np.maximum(shared, 0) * new / old).astype(np.float32)
    return weights
