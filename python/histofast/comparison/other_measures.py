"""Measures beside CKA: canonical correlations of pooled features, and the published protocol."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast._arrays import to_numpy
from histofast.comparison.source import Source
from histofast.similarity import MEASURES, Measure, Protocol

_BATCH = 8  # maps of early layers are large, and few images give enough places


def needed_images(h: int, w: int) -> int:
    """Return how many images the published protocol takes of maps of h x w places."""
    return max(1, round(Protocol().n_rows / (h * w)))


def drawn_images(h: int, w: int) -> int:
    """Return how many images `by_protocol` draws those from, where there are as many."""
    return -(-needed_images(h, w) // _BATCH) * _BATCH


def by_pooled_features(
    a: Source, b: Source, pixels: NDArray[np.uint8], *, measure: Measure, batch_size: int
) -> dict[str, Any]:
    """Apply a measure of features to all pairs of layers, each pooled to (n, c)."""

    def pooled(source: Source) -> list[NDArray[np.float32]]:
        found: dict[str, list[NDArray[np.float32]]] = {name: [] for name in source.names}

        def keep(name: str, values: Any) -> None:
            pooled = values.mean((2, 3)) if values.ndim == 4 else values
            found[name].append(np.array(to_numpy(pooled)))

        for start in range(0, len(pixels), batch_size):
            source.run(np.ascontiguousarray(pixels[start : start + batch_size]), keep)
        return [np.concatenate(found[name]) for name in source.names]

    layers_a, layers_b = pooled(a), pooled(b)
    return {
        "matrix": np.array([[measure.function(x, y) for y in layers_b] for x in layers_a]),
        "convention": {"mode": "pool: the mean of the map over the picture is one row"},
    }


def by_protocol(
    a: Source, b: Source, pixels: NDArray[np.uint8], pairs: NDArray[np.int64], *, seed: int
) -> dict[str, Any]:
    """Apply the published protocol to layers of the same name, one after the other."""
    matrix = np.full((len(a.names), len(b.names)), np.nan)
    for i, j in pairs:
        maps = []
        for source, name in ((a, a.names[i]), (b, b.names[j])):
            found: list[NDArray[np.float32]] = []

            def keep(
                got: str,
                values: Any,
                name: str = name,
                found: list[NDArray[np.float32]] = found,
            ) -> None:
                if got == name:
                    found.append(np.array(to_numpy(values)))

            needed = len(pixels)
            start = 0
            while start < needed:
                source.run(np.ascontiguousarray(pixels[start : start + _BATCH]), keep)
                start += _BATCH
                if found[0].ndim != 4:
                    raise ValueError(
                        f"layer {name} must give maps (n, c, h, w), got {found[0].shape}"
                    )
                h, w = found[0].shape[2:]
                needed = needed_images(h, w)
                if needed > len(pixels):
                    raise ValueError(
                        f"images must be at least {needed} for layer {name} with its {h} x {w} "
                        f"places, got {len(pixels)}: take more (n=...)"
                    )
            maps.append(np.concatenate(found))
        matrix[i, j] = MEASURES["published"].function(*maps, seed=seed)
    return {
        "matrix": matrix,
        "convention": {"layers": "of the same name only"},
    }
