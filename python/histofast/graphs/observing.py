"""What tensors of a graph hold over patches, channel by channel."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histofast.encoders import INPUT
from histofast.graphs.graph import Graph

# A tensor and which of its axes are channels: 1 of maps (n, c, h, w), -1 of tokens and rows.
Place = tuple[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What a tensor holds in each of n patches, per channel: (n, c) float32 each."""

    low: NDArray[np.float32]
    high: NDArray[np.float32]
    mean: NDArray[np.float32]
    square: NDArray[np.float32]  # mean of the squares


def observe(graph: Graph, places: Iterable[Place], patches: NDArray[np.uint8]) -> dict[Place, Seen]:
    """Return what tensors of float32 hold.

    Args:
        graph: in the pixel-in form.
        places: tensors and the axes of their channels.
        patches: (n, h, w, 3) uint8.

    Raises:
        ModelError: the graph cannot be run.
    """
    collected: dict[Place, list[NDArray[np.float32]]] = {place: [] for place in sorted(set(places))}
    tensors = sorted({tensor for tensor, _ in collected})
    if not tensors:
        return {}
    opened = graph.opened(tensors)
    for i in range(len(patches)):  # one by one: all inner tensors of a batch are gigabytes
        found = dict(zip(tensors, opened.run({INPUT: patches[i : i + 1]}, tensors), strict=True))
        for (tensor, axis), kept in collected.items():
            kept.append(_of_channels(found[tensor], axis))
    return {
        place: Seen(low=low, high=high, mean=mean, square=square)
        for place, kept in collected.items()
        for low, high, mean, square in [np.stack(kept, axis=1)]
    }


def _of_channels(value: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Return least, largest, mean and mean square of each channel: (4, c)."""
    axes = tuple(i for i in range(value.ndim) if i != axis % max(value.ndim, 1))
    reach = [value.min(axes), value.max(axes)]
    return np.stack([*reach, value.mean(axes), np.square(value).mean(axes)])
