"""What a comparison of two networks, or of several encoders, found: numbers and their conventions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast._tables import csv_text


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Similarities of the layers of one network with those of another, on the same images.

    `matrix` is (la, lb). `pairs` are the k (row, column) of layers that have the same name in both,
    in order; the arrays below it have one entry per pair. NaN in `matrix` is where a layer does not
    vary over the images: the similarity is undefined there, and shown as such.

    Attributes:
        label_a, label_b: what the two networks are called.
        names_a, names_b: of their layers, from pixels to the end.
        matrix: (la, lb) float64.
        measure: "debiased linear CKA", "mean CCA", ... in words, for headings.
        convention: everything that decides the numbers, in words: mode, estimator, kernel, ...
        n: images; groups: slides or patients they come from.
        images_sha256: of the ids of the images, in order: the same for both networks.
        pairs: (k, 2) int.
        low, high: (k,) bounds of the interval of each pair's similarity; None: not computed.
        confidence: of that interval.
        permuted: (k,) upper bound of what pairs with shuffled images reach, at that confidence.
        permuted_p: (k,) of the similarity among those, (1 + those that reach it) / (1 + all).
        random: (s, k) similarities of network a's layers with those of s randomly initialised
            networks, one per seed; None: not computed.
        predictions: agreement, its chance level, error consistency, Jensen-Shannon divergence ...
            of the two networks' classes; empty: they have none.
    """

    label_a: str
    label_b: str
    names_a: tuple[str, ...]
    names_b: tuple[str, ...]
    matrix: NDArray[np.float64]
    measure: str
    convention: Mapping[str, str]
    n: int
    groups: int
    images_sha256: str
    pairs: NDArray[np.int64]
    low: NDArray[np.float64] | None = None
    high: NDArray[np.float64] | None = None
    confidence: float = 0.95
    permuted: NDArray[np.float64] | None = None
    permuted_p: NDArray[np.float64] | None = None
    random: NDArray[np.float64] | None = None
    predictions: Mapping[str, float] = field(default_factory=dict)

    @property
    def diagonal(self) -> NDArray[np.float64]:
        """(k,) the similarities of the pairs."""
        return self.matrix[self.pairs[:, 0], self.pairs[:, 1]]

    @property
    def pair_names(self) -> tuple[str, ...]:
        """The names of the k layers that both networks have."""
        return tuple(self.names_a[i] for i in self.pairs[:, 0])

    @property
    def random_range(self) -> NDArray[np.float64] | None:
        """(2, k) the least and the most that a randomly initialised network gives."""
        if self.random is None:
            return None
        return np.stack([self.random.min(axis=0), self.random.max(axis=0)])

    def to_json(self) -> str:
        """Return all of it; NaN is null."""
        values: dict[str, Any] = {
            name: getattr(self, name)
            for name in self.__dataclass_fields__
            if not isinstance(getattr(self, name), np.ndarray)
        }
        for name in ("matrix", "pairs", "low", "high", "permuted", "permuted_p", "random"):
            array = getattr(self, name)
            values[name] = None if array is None else _plain(array.tolist())
        values["convention"] = dict(self.convention)
        values["predictions"] = _plain(dict(self.predictions))
        return json.dumps(values, indent=1) + "\n"

    def to_csv(self) -> str:
        """Return the matrix, one row per pair of layers, with what is known of it."""
        between = self.random_range
        known = {
            "low": self.low,
            "high": self.high,
            "permuted": self.permuted,
            "permuted_p": self.permuted_p,
            "random_low": None if between is None else between[0],
            "random_high": None if between is None else between[1],
        }
        rows: list[list[str]] = [["a", "b", "similarity", *known]]
        position = {(int(i), int(j)): k for k, (i, j) in enumerate(self.pairs)}
        for i, a in enumerate(self.names_a):
            for j, b in enumerate(self.names_b):
                k = position.get((i, j))
                extra = [
                    "" if k is None or array is None else repr(float(array[k]))
                    for array in known.values()
                ]
                rows.append([a, b, repr(float(self.matrix[i, j])), *extra])
        return csv_text(rows)


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and np.isnan(value) else value
