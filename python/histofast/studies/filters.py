"""The first convolution of a network: its filters as a picture, and how far training moved each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from histofast.networks import Network

_GAP = 1  # px between filters
_SIDE = 28  # px of a filter in a picture, about
_PAPER = 255

Filters = NDArray[np.float64]  # (n, 3, k, k)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Moved:
    """How far training moved the filters of a convolution.

    Attributes:
        cosine: (n,) of each filter before and after; NaN where one of them is 0.
        distance: (n,) length of what was added, over that of the filter before; NaN where that is 0.
    """

    cosine: NDArray[np.float64]
    distance: NDArray[np.float64]


def first_filters(network: Network) -> Filters:
    """Return (n, 3, k, k) float64 weights of the first convolution."""
    first = next(m for m in network.modules() if isinstance(m, nn.Conv2d))
    return np.asarray(first.weight.detach().double().cpu().numpy(), np.float64)


def filters_moved(before: Filters, after: Filters) -> Moved:
    """Return how far each filter went.

    Args:
        before, after: (n, c, k, k) weights of the same convolution.

    Raises:
        ValueError: weights of two shapes.
    """
    if before.shape != after.shape:
        raise ValueError(f"after must be filters of shape {before.shape}, got {after.shape}")
    a, b = (np.asarray(f, np.float64).reshape(len(f), -1) for f in (before, after))
    length, other = (np.linalg.norm(f, axis=1) for f in (a, b))
    with np.errstate(divide="ignore", invalid="ignore"):
        cosine = (a * b).sum(axis=1) / (length * other)
        distance = np.linalg.norm(b - a, axis=1) / length
    empty = length == 0
    return Moved(cosine=cosine, distance=np.where(empty, np.nan, distance))


def filter_grid(*stages: Filters, columns: int | None = None) -> NDArray[np.uint8]:
    """Draw filters in rows; those of several stages one block below the other, filter under filter.

    Each filter is on a scale of its own, grey is 0, so that what it looks for shows, whatever its size.

    Args:
        stages: (n, 3, k, k) each, such as before and after a training.
        columns: filters in a row; None: so that one block is about twice as wide as high.

    Returns:
        (h, w, 3) uint8.
    """
    blocks = [_block(filters, columns) for filters in stages]
    gap = np.full((6 * _GAP, blocks[0].shape[1], 3), _PAPER, np.uint8)
    parts: list[Any] = [blocks[0]]
    for block in blocks[1:]:
        parts += [gap, block]
    return np.concatenate(parts)


def _block(filters: Filters, columns: int | None) -> NDArray[np.uint8]:
    n, _, k, _ = filters.shape
    columns = columns or min(n, 2 ** math.ceil(math.log2(math.sqrt(2 * n))))
    times = max(1, _SIDE // k)
    cell = k * times + _GAP
    rows = -(-n // columns)
    drawn = np.full((rows * cell - _GAP, columns * cell - _GAP, 3), _PAPER, np.uint8)
    for i, one in enumerate(filters):
        largest = float(np.abs(one).max())
        shown = np.rint(127.5 + 127.5 * (one / largest if largest else one)).astype(np.uint8)
        y, x = i // columns * cell, i % columns * cell
        whole = shown.transpose(1, 2, 0).repeat(times, axis=0).repeat(times, axis=1)
        drawn[y : y + k * times, x : x + k * times] = whole
    return drawn
