"""Ranges of bytes that are wanted in, blocks that are asked for out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

GAP_BYTES = 64 << 10  # reading so many for nothing takes less time than another request
BLOCK_BYTES = 4 << 20


class Block(NamedTuple):
    """Bytes `start`..`stop` of an object, and which ranges lie in them."""

    start: int
    stop: int
    members: NDArray[np.int64]


def merge_ranges(
    ranges: NDArray[np.int64], *, gap_bytes: int = GAP_BYTES, block_bytes: int = BLOCK_BYTES
) -> list[Block]:
    """Merge ranges that lie near each other.

    Args:
        ranges: (n, 2) int64 offset and number of bytes, in any order; they may overlap.
        gap_bytes: so many bytes between two ranges are read for nothing.
        block_bytes: no block is longer, unless one range is.

    Returns:
        Blocks by their offsets. Every range lies in one.
    """
    if len(ranges) == 0:
        return []
    order = np.argsort(ranges[:, 0], kind="stable")
    blocks: list[Block] = []
    first, start, stop = 0, *_extent(ranges, order[0])
    for i in range(1, len(order)):
        begin, end = _extent(ranges, order[i])
        if begin - stop > gap_bytes or max(end, stop) - start > block_bytes:
            blocks.append(Block(start, stop, order[first:i]))
            first, start, stop = i, begin, end
        stop = max(stop, end)
    blocks.append(Block(start, stop, order[first:]))
    return blocks


def _extent(ranges: NDArray[np.int64], i: np.int64) -> tuple[int, int]:
    offset, count = ranges[i].tolist()
    return offset, offset + count
