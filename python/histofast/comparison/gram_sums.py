"""Debiased CKA of all pairs of layers, from the Grams of batches of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from histofast._arrays import beside, dtype_name, empty, is_on_gpu, to_numpy
from histofast.comparison.resampling import resampled, shuffled
from histofast.comparison.source import Array, Source
from histofast.comparison.sums import CONSTANT, MIN_GROUPS, Sums
from histofast.similarity import MEASURES, Kernel, check_grams, gram_products, start_grams, unpack

# Measures that are added up over the Grams of batches, and the kernel of each.
KERNELS: dict[str, Kernel] = {
    MEASURES["cka"].name: "linear",
    MEASURES["cka-rbf"].name: "rbf",
}


@dataclass(kw_only=True, eq=False)
class GramSums(Sums):
    """Everything that is added up over the batches; a row is one image."""

    mode: Literal["flatten", "pool"]
    kernel: Kernel
    group_of: NDArray[np.int64]
    resamples: int

    def __post_init__(self) -> None:
        super().__post_init__()
        la, lb = len(self.a.names), len(self.b.names)
        self._cross, self._square_a, self._square_b = np.zeros((la, lb)), np.zeros(la), np.zeros(lb)
        self._own_a, self._own_b = np.zeros(la), np.zeros(lb)  # before centring
        self._of_random = np.zeros((3, len(self.random), la))  # a with it, a and it with themselves
        n_groups = int(self.group_of.max()) + 1
        self._few = n_groups if n_groups < MIN_GROUPS else 0
        if self._few:
            self.resamples = 0
        # One number for every group and resample: no wider than needed.
        self._draws = np.zeros((self.resamples, n_groups), np.uint16)
        for draw in self._draws:
            draw[:] = self._rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups))
        self._resampled = np.zeros((3, self.resamples, len(self.pairs)))

    def add(self, pixels: NDArray[np.uint8], rows: NDArray[np.int64]) -> None:
        """Run one batch through the networks."""
        pixels = np.ascontiguousarray(pixels)
        a, own_a, out_a = self._grams(self.a, pixels)
        b, own_b, out_b = self._grams(self.b, pixels)
        if self.keep_outputs:
            self.outputs[0].append(out_a)
            self.outputs[1].append(out_b)
        if is_on_gpu(a) != is_on_gpu(b):
            a, b = to_numpy(a), to_numpy(b)
        self._cross += to_numpy(gram_products(a, b))
        self._square_a += 2 * to_numpy((a * a).sum(1))
        self._square_b += 2 * to_numpy((b * b).sum(1))
        self._own_a += own_a
        self._own_b += own_b
        for seed in next(self._turns):
            r, _, _ = self._grams(self.random[seed], pixels)
            x, y = (a, r) if is_on_gpu(r) == is_on_gpu(a) else (to_numpy(a), to_numpy(r))
            for term, product in zip(self._of_random[:, seed], (x * y, x * x, y * y), strict=True):
                term += 2 * to_numpy(product.sum(1))
        self._add_pairs(a, b, rows)

    def _add_pairs(self, a: Any, b: Any, rows: NDArray[np.int64]) -> None:
        """Resample and shuffle the layers of the same name."""
        same = (self.group_of[rows][:, None] == self.group_of[rows]).astype(np.float64)
        drawn = self._draws[:, self.group_of[rows]].astype(np.float64)  # (resamples, n_b)
        orders = np.empty((len(self._permuted), len(rows)), np.int64)
        for order in orders:
            order[:] = self._rng.permutation(len(rows))
        same, drawn, orders = (beside(array, a) for array in (same, drawn, orders))
        found = []
        for i, j in self.pairs:
            x, y = unpack(a[i]), unpack(b[j])
            sums = resampled(x, y, drawn=drawn, same=same, groups=self._draws.shape[1])
            found.append((sums, shuffled(x, y, orders)))
        # Read when all is enqueued: a GPU would else wait for every pair.
        for k, (sums, null) in enumerate(found):
            for s, values in enumerate(sums):
                self._resampled[s, :, k] += to_numpy(values)
            self._permuted[:, k] += to_numpy(null)

    def _grams(self, source: Source, pixels: NDArray[np.uint8]) -> tuple[Any, Array, Any]:
        """Return the (l, m) packed Grams of a batch, where the network is, and their squares."""
        found: dict[str, tuple[Any, Any, Any]] = {}

        def check(names: Sequence[str], squares: Any, problems: Any) -> Array:
            shown = [f"layer {name}" for name in names]
            return check_grams(squares, problems, n=len(pixels), names=shown)

        def reduce(name: str, values: Any) -> None:
            if values.ndim == 4 and self.mode == "pool":
                values = values.mean((2, 3))
            packed, squares, problems = start_grams(
                [_rows(values)], kernel=self.kernel, names=[f"layer {name}"]
            )
            if not is_on_gpu(packed):
                check([name], squares, problems)  # before the rest of the network is run
            found[name] = packed, squares, problems

        out = source.run(pixels, reduce)
        packed, squares, problems = (
            _stacked([found[name][part] for name in source.names]) for part in range(3)
        )
        return packed, check(source.names, squares, problems), out

    def result(self, confidence: float, batch_size: int) -> dict[str, Any]:
        """Return what goes into a `Comparison`."""
        defined_a = self._square_a > CONSTANT * self._own_a
        defined_b = self._square_b > CONSTANT * self._own_b
        norm_a = np.where(defined_a, np.sqrt(np.maximum(self._square_a, 0)), np.nan)
        norm_b = np.where(defined_b, np.sqrt(np.maximum(self._square_b, 0)), np.nan)
        values: dict[str, Any] = {
            "matrix": self._cross / (norm_a[:, None] * norm_b),
        }
        i, j = self.pairs.T
        tail = (1 - confidence) / 2
        if len(self._draws):
            cross, square_a, square_b = self._resampled
            bounds = np.full((2, len(i)), np.nan)
            for k in np.flatnonzero(defined_a[i] & defined_b[j]):
                squares = square_a[:, k] * square_b[:, k]
                # A resample of one group alone has no pairs.
                drawn = cross[squares > 0, k] / np.sqrt(squares[squares > 0])
                if len(drawn):
                    bounds[:, k] = np.quantile(drawn, (tail, 1 - tail))
            values["low"], values["high"] = bounds
        values |= self._against_shuffles(norm_a[i] * norm_b[j], values["matrix"][i, j], confidence)
        if self.random:
            with np.errstate(invalid="ignore", divide="ignore"):
                cross_r, square_a, square_r = self._of_random
                found = cross_r / np.sqrt(square_a * square_r)
            values["random"] = np.where(defined_a, found, np.nan)[:, i]
        values["convention"] = {
            "mode": {
                "flatten": "flatten: an image's whole map is one row",
                "pool": "pool: the mean of the map over the picture is one row",
            }[self.mode],
            "estimator": f"debiased HSIC, summed over batches of {batch_size} images"
            + (", each with its median" if self.kernel == "rbf" else ""),
            "interval": self._interval(confidence),
            **self._null(),
        }
        return values

    def _interval(self, confidence: float) -> str:
        if self._few:
            return f"none: {MIN_GROUPS} slides or patients are needed, these are {self._few}"
        if not len(self._draws):
            return "none"
        return f"{confidence:.0%}, {len(self._draws)} resamples of groups of images"


def _stacked(arrays: Sequence[Any]) -> Any:
    """Return arrays (1, ...) of one place as one, its dtype float64 or of problems uint8."""
    first = arrays[0]
    out = empty((len(arrays), *first.shape[1:]), dtype_name(first), like=first)
    for i, array in enumerate(arrays):
        out[i : i + 1] = array
    return out


def _rows(values: Any) -> Any:
    """Return (n, p) activations, a row per image, where they lie.

    Similarities do not depend on the order of the columns: that of the memory needs no copy of maps
    that are stored channels last.
    """
    strides = values.stride() if hasattr(values, "stride") else values.strides
    axes = sorted(range(1, values.ndim), key=lambda axis: -strides[axis])
    if isinstance(values, np.ndarray):
        return np.ascontiguousarray(values.transpose(0, *axes).reshape(len(values), -1))
    reorder = values.permute if hasattr(values, "permute") else values.transpose
    return reorder(0, *axes).reshape(values.shape[0], -1)
