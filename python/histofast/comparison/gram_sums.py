"""Debiased CKA of all pairs of layers, from the Grams of batches of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from histofast._arrays import beside, dtype_name, empty, is_on_gpu, to_numpy
from histofast.comparison.resampling import resampled, shuffled
from histofast.comparison.source import Array, Source
from histofast.comparison.sums import CONSTANT, Sums
from histofast.learning import LEAST_GROUPS
from histofast.similarity import MEASURES, Kernel, check_grams, gram_products, start_grams, unpack

# Measures that are added up over the Grams of batches, and the kernel of each.
KERNELS: dict[str, Kernel] = {
    MEASURES["cka"].name: "linear",
    MEASURES["cka-rbf"].name: "rbf",
}


@dataclass(frozen=True, slots=True, eq=False)
class Grams:
    """The layers of a network on one batch of images.

    Attributes:
        packed: (l, m) centred Grams, packed, where the network is.
        own: (l,) sums of their squares before centring.
    """

    packed: Any
    own: Array


def grams_of(
    source: Source,
    pixels: NDArray[np.uint8],
    *,
    kernel: Kernel,
    mode: Literal["flatten", "pool"],
    also: Callable[[str, Any], None] | None = None,
) -> tuple[Grams, NDArray[np.float32]]:
    """Run a batch; return the Grams of its layers, and what the network gives.

    Args:
        source: the network.
        pixels: (n, h, w, 3) uint8.
        kernel, mode: of the Grams, see `compare`.
        also: called with each layer's name and activations as well, which it must not keep.

    Raises:
        ValueError: NaN or infinity in a layer.
    """
    found: dict[str, tuple[Any, Any, Any]] = {}

    def check(names: Sequence[str], squares: Any, problems: Any) -> Array:
        shown = [f"layer {name}" for name in names]
        return check_grams(squares, problems, n=len(pixels), names=shown)

    def reduce(name: str, values: Any) -> None:
        if also is not None:
            also(name, values)
        if values.ndim == 4 and mode == "pool":
            values = values.mean((2, 3))
        packed, squares, problems = start_grams(
            [_rows(values)], kernel=kernel, names=[f"layer {name}"]
        )
        if not is_on_gpu(packed):
            check([name], squares, problems)  # before the rest of the network is run
        found[name] = packed, squares, problems

    out = source.run(np.ascontiguousarray(pixels), reduce)
    packed, squares, problems = (
        _stacked([found[name][part] for name in source.names]) for part in range(3)
    )
    return Grams(packed, check(source.names, squares, problems)), out


class LayerSums:
    """What is added up of the Grams of two networks, batch by batch.

    Args:
        shape: how many layers each has.
        pairs: (k, 2) places of those that get an interval and shuffles.
        group_of: (n,) the number of the group of each image.
        resamples: of the groups; 0: none, as with fewer than `LEAST_GROUPS`.
        permuted: (p, k) that p shuffles of the second network's images are added to.
        rng: draws groups, then shuffles.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        *,
        pairs: NDArray[np.int64],
        group_of: NDArray[np.int64],
        resamples: int,
        permuted: Array,
        rng: np.random.Generator,
    ) -> None:
        la, lb = shape
        self._cross, self._square_a, self._square_b = np.zeros((la, lb)), np.zeros(la), np.zeros(lb)
        self._own_a, self._own_b = np.zeros(la), np.zeros(lb)  # before centring
        self._pairs, self._group_of, self._permuted, self._rng = pairs, group_of, permuted, rng
        n_groups = int(group_of.max()) + 1
        self.few = n_groups if n_groups < LEAST_GROUPS else 0
        # One number for every group and resample: no wider than needed.
        self.draws = np.zeros((0 if self.few else resamples, n_groups), np.uint16)
        for draw in self.draws:
            draw[:] = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups))
        self._resampled = np.zeros((3, len(self.draws), len(pairs)))

    def add(self, a: Grams, b: Grams, rows: NDArray[np.int64]) -> None:
        """Add a batch of images `rows`."""
        x, y = a.packed, b.packed
        if is_on_gpu(x) != is_on_gpu(y):
            x, y = to_numpy(x), to_numpy(y)
        self._cross += to_numpy(gram_products(x, y))
        self._square_a += 2 * to_numpy((x * x).sum(1))
        self._square_b += 2 * to_numpy((y * y).sum(1))
        self._own_a += a.own
        self._own_b += b.own
        if len(self._pairs) and (len(self.draws) or len(self._permuted)):
            self._add_pairs(x, y, rows)

    def _add_pairs(self, a: Any, b: Any, rows: NDArray[np.int64]) -> None:
        """Resample and shuffle the layers of the same name."""
        same = (self._group_of[rows][:, None] == self._group_of[rows]).astype(np.float64)
        drawn = self.draws[:, self._group_of[rows]].astype(np.float64)  # (resamples, n_b)
        orders = np.empty((len(self._permuted), len(rows)), np.int64)
        for order in orders:
            order[:] = self._rng.permutation(len(rows))
        same, drawn, orders = (beside(array, a) for array in (same, drawn, orders))
        found = []
        for i, j in self._pairs:
            x, y = unpack(a[i]), unpack(b[j])
            sums = resampled(x, y, drawn=drawn, same=same, groups=self.draws.shape[1])
            found.append((sums, shuffled(x, y, orders)))
        # Read when all is enqueued: a GPU would else wait for every pair.
        for k, (sums, null) in enumerate(found):
            for s, values in enumerate(sums):
                self._resampled[s, :, k] += to_numpy(values)
            self._permuted[:, k] += to_numpy(null)

    def matrix(self) -> Array:
        """Return (la, lb) similarities; NaN where a layer is constant."""
        norm_a, norm_b = self.norms()
        found: Array = self._cross / (norm_a[:, None] * norm_b)
        return found

    def norms(self) -> tuple[Array, Array]:
        """Return (la,) and (lb,) what similarities are divided by; NaN of a constant layer."""

        def norm(square: Array, own: Array) -> Array:
            defined = square > CONSTANT * own
            return np.where(defined, np.sqrt(np.maximum(square, 0)), np.nan)

        return norm(self._square_a, self._own_a), norm(self._square_b, self._own_b)

    def bounds(self, confidence: float) -> dict[str, Array]:
        """Return (k,) low and high of the pairs, if there are resamples."""
        if not len(self.draws):
            return {}
        tail = (1 - confidence) / 2
        norm_a, norm_b = self.norms()
        i, j = self._pairs.T
        cross, square_a, square_b = self._resampled
        found = np.full((2, len(i)), np.nan)
        for k in np.flatnonzero(np.isfinite(norm_a[i]) & np.isfinite(norm_b[j])):
            squares = square_a[:, k] * square_b[:, k]
            # A resample of one group alone has no pairs.
            drawn = cross[squares > 0, k] / np.sqrt(squares[squares > 0])
            if len(drawn):
                found[:, k] = np.quantile(drawn, (tail, 1 - tail))
        return {"low": found[0], "high": found[1]}


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
        self._layers = LayerSums(
            (la, lb),
            pairs=self.pairs,
            group_of=self.group_of,
            resamples=self.resamples,
            permuted=self._permuted,
            rng=self._rng,
        )
        self._of_random = np.zeros((3, len(self.random), la))  # a with it, a and it with themselves

    def add(self, pixels: NDArray[np.uint8], rows: NDArray[np.int64]) -> None:
        """Run one batch through the networks."""
        a, out_a = self._grams(self.a, pixels)
        b, out_b = self._grams(self.b, pixels)
        if self.keep_outputs:
            self.outputs[0].append(out_a)
            self.outputs[1].append(out_b)
        for seed in next(self._turns):
            r, _ = self._grams(self.random[seed], pixels)
            x, y = a.packed, r.packed
            if is_on_gpu(x) != is_on_gpu(y):
                x, y = to_numpy(x), to_numpy(y)
            for term, product in zip(self._of_random[:, seed], (x * y, x * x, y * y), strict=True):
                term += 2 * to_numpy(product.sum(1))
        self._layers.add(a, b, rows)

    def _grams(self, source: Source, pixels: NDArray[np.uint8]) -> tuple[Grams, Any]:
        return grams_of(source, pixels, kernel=self.kernel, mode=self.mode)

    def result(self, confidence: float, batch_size: int) -> dict[str, Any]:
        """Return what goes into a `Comparison`."""
        i, j = self.pairs.T
        norm_a, norm_b = self._layers.norms()
        values: dict[str, Any] = {"matrix": self._layers.matrix()} | self._layers.bounds(confidence)
        values |= self._against_shuffles(norm_a[i] * norm_b[j], values["matrix"][i, j], confidence)
        if self.random:
            with np.errstate(invalid="ignore", divide="ignore"):
                cross_r, square_a, square_r = self._of_random
                found = cross_r / np.sqrt(square_a * square_r)
            values["random"] = np.where(np.isfinite(norm_a), found, np.nan)[:, i]
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
        if self._layers.few:
            return (
                f"none: {LEAST_GROUPS} slides or patients are needed, these are {self._layers.few}"
            )
        if not len(self._layers.draws):
            return "none"
        return f"{confidence:.0%}, {len(self._layers.draws)} resamples of groups of images"


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
