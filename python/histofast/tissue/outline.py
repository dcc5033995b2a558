"""Masks to polygons along the edges of their pixels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Polygon = tuple[NDArray[np.float64], list[NDArray[np.float64]]]


def trace(mask: NDArray[np.uint8]) -> list[Polygon]:
    """Polygons of a mask in mask pixels, along the edges of pixels.

    The corners of all rings are found at once, from the 2 x 2 pixels around each grid point. On a
    grid line they are paired from the left (from the top): every pair is one side of a ring. Where
    two pixels touch only by a corner there are two ring corners, one to each pixel.
    """
    h, w = mask.shape
    padded = np.zeros((h + 2, w + 2), np.uint8)
    padded[1:-1, 1:-1] = mask != 0
    around = padded[:-1, :-1] | padded[:-1, 1:] << 1 | padded[1:, :-1] << 2 | padded[1:, 1:] << 3
    is_corner = np.isin(around, (1, 2, 4, 8, 7, 11, 13, 14, 6, 9))
    y, x = np.nonzero(is_corner)
    if len(y) == 0:
        return []
    code = around[y, x]
    is_double = (code == 6) | (code == 9)
    repeats = np.where(is_double, 2, 1)
    x, y, code = (np.repeat(values, repeats) for values in (x, y, code))
    # Of the two corners at one point, the first ends the side from the left. In code 6 (the pixels
    # right above and left below) it goes down, so the other one is first on the vertical line.
    second = np.zeros(len(x), bool)
    second[1:] = (x[1:] == x[:-1]) & (y[1:] == y[:-1])
    across = np.arange(len(x))
    down = np.lexsort((second != (code == 6), y, x))
    partner_across = np.empty(len(x), np.int64)
    partner_down = np.empty(len(x), np.int64)
    for order, partner in ((across, partner_across), (down, partner_down)):
        partner[order[::2]], partner[order[1::2]] = order[1::2], order[::2]

    points = np.stack([x, y], axis=1)
    exteriors: list[NDArray[np.int64]] = []
    holes: list[NDArray[np.int64]] = []
    for ring in _rings(partner_across.tolist(), partner_down.tolist()):
        for loop in _simple_loops(points[ring]):
            # The trace may run either way round; the tissue beside its first side tells which.
            exterior, oriented = _orient(loop, padded)
            (exteriors if exterior else holes).append(oriented)
    return _nest(exteriors, holes, mask)


def _rings(partner_across: list[int], partner_down: list[int]) -> Iterator[list[int]]:
    seen = bytearray(len(partner_across))
    for start in range(len(partner_across)):
        if seen[start]:
            continue
        ring = []
        at = start
        while not seen[at]:
            seen[at] = 1
            ring.append(at)
            at = partner_across[at]
            seen[at] = 1
            ring.append(at)
            at = partner_down[at]
        yield ring


def _simple_loops(ring: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Cut a ring at the points it visits twice."""
    points = [(x, y) for x, y in ring.tolist()]
    if len(set(points)) == len(points):
        yield ring
        return
    path: list[tuple[int, int]] = []
    place: dict[tuple[int, int], int] = {}
    for point in points:
        if point in place:
            loop = path[place[point] :]
            del path[place[point] :]
            for passed in loop:
                del place[passed]
            yield np.array(loop, np.int64)
        place[point] = len(path)
        path.append(point)
    yield np.array(path, np.int64)


def _orient(loop: NDArray[np.int64], padded: NDArray[np.uint8]) -> tuple[bool, NDArray[np.int64]]:
    """Whether the loop is an exterior, and the loop with its area positive if so, else negative."""
    lowest = np.lexsort((loop[:, 1], loop[:, 0]))[0]
    x, y = loop[lowest]
    # Right below the leftmost topmost corner lies the inside of the loop: tissue, or a hole.
    exterior = bool(padded[y + 1, x + 1])
    ahead = np.roll(loop, -1, axis=0)
    positive = int(np.sum(loop[:, 0] * ahead[:, 1] - ahead[:, 0] * loop[:, 1])) > 0
    return exterior, loop if positive == exterior else loop[::-1]


def _nest(
    exteriors: list[NDArray[np.int64]], holes: list[NDArray[np.int64]], mask: NDArray[np.uint8]
) -> list[Polygon]:
    """Give every hole to the object around it."""
    exteriors.sort(key=lambda ring: (int(ring[:, 1].min()), int(ring[:, 0].min())))
    holes.sort(key=lambda ring: (int(ring[:, 1].min()), int(ring[:, 0].min())))
    polygons: list[Polygon] = [(ring.astype(np.float64), []) for ring in exteriors]
    if not holes:
        return polygons
    # Vertical sides of all rings, found by their x and first y; they never overlap.
    h = mask.shape[0]
    keys, owners = [], []
    for number, ring in enumerate([*exteriors, *holes]):
        ahead = np.roll(ring, -1, axis=0)
        upright = ring[:, 0] == ahead[:, 0]
        keys.append(ring[upright, 0] * (h + 1) + np.minimum(ring[upright, 1], ahead[upright, 1]))
        owners.append(np.full(int(upright.sum()), number))
    key, owner = np.concatenate(keys), np.concatenate(owners)
    order = np.argsort(key)
    key, owner = key[order], owner[order]

    object_of = list(range(len(exteriors)))  # of every ring, holes as they are placed
    for hole in holes:
        # The run of tissue above the hole's top side begins at a ring that is placed already.
        top = int(hole[:, 1].min())
        row = top - 1
        x = int(hole[hole[:, 1] == top, 0].min())
        before = np.flatnonzero(mask[row, :x] == 0)
        begin = int(before[-1]) + 1 if len(before) else 0
        side = int(np.searchsorted(key, begin * (h + 1) + row, side="right")) - 1
        parent = object_of[owner[side]]
        object_of.append(parent)
        polygons[parent][1].append(hole.astype(np.float64))
    return polygons
