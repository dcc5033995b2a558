"""A patch in, the patches whose features point in the most similar direction out.

Alike is cosine: x . q / (|x| |q|). A patch whose features are all zero (shorter than 1e-30), or not all finite,
points nowhere and is nobody's neighbour. Of patches as alike the earlier row comes first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_ROWS = 8192  # features that are not float32 are read so many together
_UNIT = 2.0**-24  # rounding of float32
_SHORT = 1e-30  # what is shorter has no direction that float32 could tell


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Alike:
    """The rows that are most alike, the most alike first.

    Attributes:
        rows: (<= k,) int64.
        cosines: (<= k,) float64.
    """

    rows: NDArray[np.int64]
    cosines: NDArray[np.float64]


def lengths_of(features: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the lengths (n,) of rows (n, d); NaN for rows that point nowhere."""
    lengths = np.empty(len(features), np.float32)
    for start, block in _blocks(features):
        with np.errstate(over="ignore", invalid="ignore"):
            squares = np.einsum("nd,nd->n", block, block, dtype=np.float64)
            lengths[start : start + len(block)] = np.sqrt(squares)
    lengths[~(np.isfinite(lengths) & (lengths > _SHORT))] = np.nan
    return lengths


def points_somewhere(query: NDArray[np.floating]) -> bool:
    """Whether a row of features (d,) has a direction that others can be like."""
    return bool(np.isfinite(lengths_of(query[None]))[0])


def alike(
    features: NDArray[np.floating],
    lengths: NDArray[np.float32],
    query: NDArray[np.floating],
    *,
    k: int,
    without: int | None = None,
) -> Alike:
    """Find the k rows of features that are most alike to a query.

    One product of float32 finds who may be among them, however it rounds; their cosines are float64.

    Args:
        features: (n, d) float32 or float16, such as a map of a file; nothing of its size is made.
        lengths: (n,) of its rows, from `lengths_of`.
        query: (d,) that points somewhere.
        k: how many at most.
        without: a row to leave out.
    """
    wide = query.astype(np.float64)
    length = np.sqrt((wide * wide).sum())
    rough = _products(features, (wide / length).astype(np.float32))
    with np.errstate(invalid="ignore"):
        rough /= lengths
    if without is not None:
        rough[without] = np.nan
    rough[~np.isfinite(rough)] = -np.inf
    k = min(k, int((rough > -np.inf).sum()))
    if k == 0:
        return Alike(rows=np.zeros(0, np.int64), cosines=np.zeros(0))
    least = np.partition(rough, len(rough) - k)[len(rough) - k]
    error = 2 * (features.shape[1] + 8) * _UNIT  # of a product of so many terms, at most
    rows = np.flatnonzero(rough >= least - 2 * error)
    cosines = np.concatenate(
        [_cosines(features[rows[at : at + _ROWS]], wide) for at in range(0, len(rows), _ROWS)]
    )
    order = np.argsort(-cosines, kind="stable")[:k]
    return Alike(rows=rows[order], cosines=cosines[order])


def _cosines(rows: NDArray[np.floating], query: NDArray[np.float64]) -> NDArray[np.float64]:
    """As the definition has it; each row by itself, so that equal rows have equal cosines."""
    wide = rows.astype(np.float64)
    lengths = np.sqrt((wide * wide).sum(axis=1))
    along = (wide * query).sum(axis=1) / lengths
    cosines: NDArray[np.float64] = along / np.sqrt((query * query).sum())
    return cosines


def _products(
    features: NDArray[np.floating], direction: NDArray[np.float32]
) -> NDArray[np.float32]:
    if features.dtype == np.float32:
        with np.errstate(over="ignore", invalid="ignore"):
            product: NDArray[np.float32] = np.asarray(features) @ direction
        return product
    found = np.empty(len(features), np.float32)
    for start, block in _blocks(features):
        found[start : start + len(block)] = block @ direction
    return found


def _blocks(features: NDArray[np.floating]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    for start in range(0, len(features), _ROWS):
        yield start, np.asarray(features[start : start + _ROWS], np.float32)
