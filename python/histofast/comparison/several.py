"""Many pairs among a few networks on the same images: each network runs once.

    network -> View (Grams of the layers by batch, maps for the published protocol) -> pairs -> Alike

A view is made when the first pair needs it and forgotten after the last: order pairs so that those of one
network are near each other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast._arrays import to_numpy
from histofast.comparison.gram_sums import Grams, LayerSums, grams_of
from histofast.comparison.other_measures import drawn_images, needed_images
from histofast.comparison.source import Array
from histofast.comparison.subjects import MIN_IMAGES, batches_of, pairs_of, source_of
from histofast.similarity import MEASURES

_BATCH = 64
_CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Alike:
    """How alike two networks are, layer by layer of the same name.

    Attributes:
        layers: (k) that both have.
        cka: (k,) debiased linear CKA of the whole maps; NaN of a constant layer.
        low, high: (k,) its interval over groups; NaN where there are too few.
        cca: (k,) mean CCA by the published protocol; NaN where it was not asked for, the images are too
            few for a layer, or it has no maps.
        n, groups: images, and whose they are.
    """

    layers: tuple[str, ...]
    cka: Array
    low: Array
    high: Array
    cca: Array
    n: int
    groups: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _View:
    """What is kept of a network that has seen the images.

    Attributes:
        names: of its layers.
        grams: of each batch.
        maps: of layers, of as many images as the published protocol takes.
    """

    names: tuple[str, ...]
    grams: tuple[Grams, ...]
    maps: dict[str, NDArray[np.float32]]


def compare_pairs(
    pairs: Sequence[tuple[Hashable, Hashable]],
    network_of: Callable[[Any], Any],
    pixels: NDArray[np.uint8],
    *,
    groups: Sequence[str],
    layers: Sequence[str] | None = None,
    with_cca: bool = False,
    resamples: int = 1000,
    seed: int = 0,
) -> Iterator[Alike]:
    """Compare pairs of networks on the same images, as `compare` does without nulls; each network runs once.

    Args:
        pairs: names of two networks each.
        network_of: makes a network of `histofast.networks`, in evaluation mode, by its name.
        pixels: (n, h, w, 3) uint8, n >= 32.
        groups: (n) of the images, for the interval.
        layers: of all networks; None: their blocks.
        with_cca: mean CCA by the published protocol as well.
        resamples: of the groups.
        seed: of the order of the images and of everything else that is random.

    Yields:
        One for each pair, in their order.

    Raises:
        ModelError: no such layer.
        ValueError: fewer than 32 images; NaN or infinity in a layer.
    """
    if len(pixels) < MIN_IMAGES:
        raise ValueError(f"images must be at least {MIN_IMAGES}, got {len(pixels)}")
    group_of = np.unique(np.asarray(groups).astype(str), return_inverse=True)[1]
    order = np.random.default_rng(seed).permutation(len(pixels))
    batches = batches_of(order, _BATCH)
    left = Counter(name for pair in pairs for name in pair)
    views: dict[Hashable, _View] = {}
    for pair in pairs:
        for name in pair:
            if name not in views:
                views[name] = _viewed(network_of(name), layers, pixels, batches, with_cca=with_cca)
        a, b = (views[name] for name in pair)
        yield _alike(a, b, batches, group_of, resamples=resamples, seed=seed)
        for name in pair:
            left[name] -= 1
            if not left[name]:
                del views[name]


def _viewed(
    network: Any,
    layers: Sequence[str] | None,
    pixels: NDArray[np.uint8],
    batches: Sequence[NDArray[np.int64]],
    *,
    with_cca: bool,
) -> _View:
    source = source_of(network, layers)
    found: dict[str, list[NDArray[np.float32]]] = {}

    def keep(name: str, values: Any) -> None:
        if values.ndim != 4:
            return
        had = found.setdefault(name, [])
        lacking = drawn_images(*values.shape[2:]) - sum(map(len, had))
        if lacking > 0:
            had.append(np.array(to_numpy(values[:lacking])))

    grams = []
    for batch in batches:
        seen, _ = grams_of(
            source,
            pixels[batch],
            kernel="linear",
            mode="flatten",
            also=keep if with_cca else None,
        )
        grams.append(seen)
    maps = {name: np.concatenate(parts) for name, parts in found.items()}
    return _View(names=source.names, grams=tuple(grams), maps=maps)


def _alike(
    a: _View,
    b: _View,
    batches: Sequence[NDArray[np.int64]],
    group_of: NDArray[np.int64],
    *,
    resamples: int,
    seed: int,
) -> Alike:
    pairs = pairs_of(a.names, b.names)
    sums = LayerSums(
        (len(a.names), len(b.names)),
        pairs=pairs,
        group_of=group_of,
        resamples=resamples,
        permuted=np.zeros((0, len(pairs))),
        rng=np.random.default_rng(seed + 1),
    )
    for of_a, of_b, batch in zip(a.grams, b.grams, batches, strict=True):
        sums.add(of_a, of_b, batch)
    i, j = pairs.T
    layers = tuple(a.names[k] for k in i)
    none = np.full(len(i), np.nan)
    bounds = sums.bounds(_CONFIDENCE)
    return Alike(
        layers=layers,
        cka=sums.matrix()[i, j],
        low=bounds.get("low", none),
        high=bounds.get("high", none),
        cca=np.array([_by_protocol(a.maps.get(n), b.maps.get(n), seed=seed) for n in layers]),
        n=len(group_of),
        groups=int(group_of.max()) + 1,
    )


def _by_protocol(
    x: NDArray[np.float32] | None, y: NDArray[np.float32] | None, *, seed: int
) -> float:
    """Return NaN where the protocol does not go: no maps, of two sizes, of too few images."""
    if x is None or y is None or x.shape != y.shape:
        return float("nan")
    if len(x) < needed_images(*x.shape[2:]):
        return float("nan")
    return float(MEASURES["published"].function(x, y, seed=seed))
