"""Pictures averaged to 12 x 12 in, pairs of them that show the same thing out, turned or mirrored too.

A pair is found if one of the eight symmetries of the square makes one nearly the other. Nothing is
left to the luck of a hash: what cannot be near by sums over places that the symmetries exchange is
not looked at, everything else is. Memory grows with the pictures, not with pairs of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histofast._stopping import stop_if_asked

PRINT_PX = 12
NEAR_LEVELS = 4  # mean difference of what is nearly equal, of 255
ALIKE = 0.9  # least correlation of what is nearly equal
_FLAT = 2.0  # levels about the mean of a channel: less is no structure
_MOST_COMPARED = 20_000_000  # pairs, pixel by pixel
_MOST_PAIRS = 10_000
_CHUNK = 4096  # pairs compared at a time
_VALUES = PRINT_PX * PRINT_PX * 3
_APART = NEAR_LEVELS * _VALUES
# Mirrored left to right or not, then so many quarter turns to the left.
_TURNS = tuple((mirrored, quarters) for mirrored in (False, True) for quarters in range(4))
_WORDS = (
    *("", "turned by 90°", "turned by 180°", "turned by 270°"),
    *(
        "mirrored",
        "mirrored, turned by 90°",
        "mirrored, turned by 180°",
        "mirrored, turned by 270°",
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class NearCopies:
    """Pairs that are nearly equal.

    Attributes:
        pairs: (i, j, turn), i < j, at most 10,000; the turn makes i to j: "turned by 90°", to the left,
            "mirrored", left to right, or "mirrored, turned by 90°"; "": none.
        found: how many there are.
        searched: pictures that were held against all others.
        flat: pictures without structure, which are not looked for.
    """

    pairs: tuple[tuple[int, int, str], ...]
    found: int
    searched: int
    flat: int


def near_copies(prints: NDArray[np.uint8], *, most: int = _MOST_COMPARED) -> NearCopies:
    """Find pictures that are nearly equal, under any of the eight symmetries of the square.

    Nearly: the averages of their largest centred squares differ by at most 4 of 255 levels in the mean,
    and correlate by at least 0.9 about the mean of each channel.

    Args:
        prints: (n, 12, 12, 3) uint8, the averages.
        most: pairs to compare pixel by pixel; then the search ends, and says how far it came.

    Determinism: bitwise.
    """
    rows, colours, orbits = _sums(prints)
    totals = colours.sum(axis=1)
    ends = np.searchsorted(totals, totals + _APART, side="right")
    pairs: list[tuple[int, int, str]] = []
    found = compared = 0
    for p, (i, end) in enumerate(zip(rows.tolist(), ends.tolist(), strict=True)):
        stop_if_asked()
        # Sums cannot be further apart than what is summed, and a turn does not change these.
        close = np.abs(colours[p + 1 : end] - colours[p]).sum(axis=1) <= _APART
        others = np.flatnonzero(close) + p + 1
        others = others[np.abs(orbits[others] - orbits[p]).sum(axis=1) <= _APART]
        compared += len(others)
        if compared > most:
            return NearCopies(
                pairs=tuple(sorted(pairs)), found=found, searched=p, flat=len(prints) - len(rows)
            )
        for j, turn in _near(prints, i, rows[others]):
            found += 1
            if len(pairs) < _MOST_PAIRS:
                pairs.append((i, j, _WORDS[turn]) if i < j else (j, i, _WORDS[_inverse(turn)]))
    return NearCopies(
        pairs=tuple(sorted(pairs)), found=found, searched=len(rows), flat=len(prints) - len(rows)
    )


def _sums(
    prints: NDArray[np.uint8],
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
    """Return the pictures with structure from dark to bright, (m,), and what turns do not change.

    That is the sums of each channel, (m, 3), and those over each set of places that the symmetries
    exchange, (m, 3 * 21).
    """
    places = np.arange(PRINT_PX * PRINT_PX).reshape(PRINT_PX, PRINT_PX)
    first = np.min([_turned(places, turn).ravel() for turn in _TURNS], axis=0)
    member = (first == np.unique(first)[:, None]).astype(np.int32)  # (21, 144)
    kept, orbits = [np.zeros(0, np.int64)], [np.zeros((0, 3 * len(member)), np.int32)]
    for start in range(0, len(prints), _CHUNK):
        part = prints[start : start + _CHUNK]
        wide = part.reshape(len(part), PRINT_PX * PRINT_PX, 3).astype(np.int32)
        apart = wide - wide.mean(axis=1, keepdims=True)
        has_structure = (apart**2).mean(axis=(1, 2)) >= _FLAT**2
        kept.append(np.flatnonzero(has_structure) + start)
        orbits.append((member @ wide[has_structure]).reshape(-1, 3 * len(member)))
    rows, sums = np.concatenate(kept), np.concatenate(orbits)
    colours = sums.reshape(len(rows), len(member), 3).sum(axis=1, dtype=np.int32)
    order = np.argsort(colours.sum(axis=1), kind="stable")
    return rows[order], colours[order], sums[order]


def _near(
    prints: NDArray[np.uint8], i: int, others: NDArray[np.int64]
) -> Iterator[tuple[int, int]]:
    """Yield which of `others` are nearly i, and the turn of i that comes nearest."""
    turns = np.stack([_turned(prints[i], turn) for turn in _TURNS]).reshape(len(_TURNS), -1)
    turns = turns.astype(np.int32)
    for start in range(0, len(others), _CHUNK):
        part = others[start : start + _CHUNK]
        them = prints[part].reshape(len(part), -1).astype(np.int32)
        apart = np.stack([np.abs(them - turn).sum(axis=1) for turn in turns])  # (8, k)
        for k in np.flatnonzero((apart <= _APART).any(axis=0)):
            alike = [_correlation(turn, them[k]) >= ALIKE for turn in turns]
            left = np.where(alike, apart[:, k], _APART + 1)
            if left.min() <= _APART:
                yield int(part[k]), int(left.argmin())


def _correlation(a: NDArray[np.int32], b: NDArray[np.int32]) -> float:
    u, v = (x.reshape(-1, 3) - x.reshape(-1, 3).mean(axis=0) for x in (a, b))
    return float((u * v).sum() / np.sqrt((u * u).sum() * (v * v).sum()))


def _turned(picture: NDArray[np.generic], turn: tuple[bool, int]) -> NDArray[np.generic]:
    mirrored, quarters = turn
    return np.rot90(picture[:, ::-1] if mirrored else picture, quarters)


def _inverse(turn: int) -> int:
    mirrored, quarters = _TURNS[turn]
    return turn if mirrored else -quarters % 4
