"""Where numbers and names go on an axis."""

from __future__ import annotations

import math
from collections.abc import Sequence

_STEPS = (1.0, 2.0, 5.0, 10.0)
_ROUNDING = 1e-9  # of a step


def ticks(low: float, high: float, *, most: int = 6) -> tuple[float, ...]:
    """Return at most `most` round numbers from `low` to `high`, evenly apart."""
    size = 10.0 ** math.floor(math.log10((high - low) / most))
    for step in (size * factor for factor in _STEPS):
        first = math.ceil(low / step - _ROUNDING)
        last = math.floor(high / step + _ROUNDING)
        if last - first < most:
            break
    return tuple(round(k * step, 12) for k in range(first, last + 1))


def log_ticks(low: float, high: float) -> tuple[float, ...]:
    """Return 1, 2 and 5 times the powers of ten from `low` to `high`."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [factor * 10.0**power for power in powers for factor in _STEPS[:3]]
    return tuple(tick for tick in found if low <= tick <= high)


def range_of(values: Sequence[float], *, spare: float = 0.06) -> tuple[float, float]:
    """Return bounds a little outside of `values`, but not outside of 0..1 if all are inside."""
    low, high = min(values), max(values)
    least = 0.02 * max(abs(low), abs(high), 0.1)  # so that no difference is blown up at will
    room = max(spare * (high - low), least)
    share = low >= 0 and high <= 1
    return (max(low - room, 0.0), min(high + room, 1.0)) if share else (low - room, high + room)


def spread(wanted: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """Move positions apart, in their order and as little as possible.

    Args:
        wanted: positions, in any order.
        gap: the least distance between two; less where they do not fit otherwise.
        low, high: no position is outside.

    Returns:
        The positions, in the order of `wanted`.
    """
    n = len(wanted)
    gap = min(gap, (high - low) / max(n - 1, 1))
    order = sorted(range(n), key=lambda i: wanted[i])
    # Less the gaps before them, positions need only not fall: means of runs that would.
    runs: list[tuple[float, int]] = []
    for rank, i in enumerate(order):
        runs.append((wanted[i] - rank * gap, 1))
        while len(runs) > 1 and runs[-2][0] >= runs[-1][0]:
            (b, nb), (a, na) = runs.pop(), runs.pop()
            runs.append(((a * na + b * nb) / (na + nb), na + nb))
    means = [mean for mean, size in runs for _ in range(size)]
    moved = [0.0] * n
    for rank, i in enumerate(order):
        moved[i] = min(max(means[rank], low), high - (n - 1) * gap) + rank * gap
    return moved
