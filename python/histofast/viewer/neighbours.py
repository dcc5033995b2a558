"""A patch in, the patches whose features point in the most similar direction out.

Alike is cosine: x . q / (|x| |q|). A patch whose features are all zero (shorter than 1e-30), or not all finite,
points nowhere and is nobody's neighbour. Of patches as alike the earlier row comes first.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from histofast._machine import available_cpus

_ROWS = 4096  # whose cosines are computed together in float64
_BLOCK_BYTES = 1 << 20  # of float32: what stays in a processor's cache
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
    squares = np.empty(len(features), np.float32)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for start, block in _blocks(features):
            np.einsum("nd,nd->n", block, block, out=squares[start : start + len(block)])
        lengths = np.sqrt(squares)
        odd = np.flatnonzero(~(np.isfinite(squares) & (squares > _SHORT)))
        for at in range(0, len(odd), _ROWS):  # whose squares float32 cannot tell
            wide = features[odd[at : at + _ROWS]].astype(np.float64)
            lengths[odd[at : at + _ROWS]] = np.sqrt((wide * wide).sum(axis=1))
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

    def multiply(first: int, end: int) -> None:
        for start, block in _blocks(features[first:end]):
            at = first + start
            np.matmul(block, direction, out=found[at : at + len(block)])

    # Most of such a search is making float32 of float16, which NumPy does with one thread.
    ends = np.linspace(0, len(features), available_cpus() + 1).astype(int).tolist()
    with ThreadPoolExecutor(available_cpus()) as pool:
        for done in [pool.submit(multiply, *part) for part in pairwise(ends)]:
            done.result()
    return found


def _blocks(features: NDArray[np.floating]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield rows as float32, those of another type in one piece of memory that is used again."""
    n, d = features.shape
    rows = max(1, _BLOCK_BYTES // (4 * max(1, d)))
    block = np.empty((min(rows, n), d), np.float32)
    for start in range(0, n, rows):
        part = features[start : start + rows]
        if part.dtype == np.float32:
            yield start, part
            continue
        with np.errstate(over="ignore", invalid="ignore"):
            np.copyto(block[: len(part)], part, casting="same_kind")
        yield start, block[: len(part)]
