"""A comparison as a few lines of a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from histofast._words import count
from histofast.comparison.words import basis_of, describe_comparison, pairs_of, title_of
from histofast.report import interval, number, percent
from histofast.similarity import Comparison


def comparison_text(comparison: Comparison, *, most: int = 20) -> str:
    """Return the diagonal as a table of at most `most` rows, and what it says in words."""
    lines = [f"{title_of(comparison)}: {comparison.measure}, {basis_of(comparison)}"]
    pairs = pairs_of(comparison)
    shown = pairs[:most]
    if shown:
        columns = [
            ["", *(pair.name for pair in shown)],
            ["similarity", *(_cell(pair.value) for pair in shown)],
        ]
        if comparison.low is not None and comparison.high is not None:
            head = f"{percent(comparison.confidence)} interval"
            columns.append([head, *(_interval(pair.low, pair.high) for pair in shown)])
        if comparison.permuted is not None:
            columns.append(["shuffled", *(_cell(pair.permuted) for pair in shown)])
        if comparison.random is not None:
            columns.append(["random", *(_cell(pair.random) for pair in shown)])
        lines += _aligned(columns)
    if len(pairs) > most:
        lines.append(f"and {count(len(pairs) - most, 'more', 'more')}")
    return "\n".join([*lines, *describe_comparison(comparison)])


def _cell(value: float | None) -> str:
    if value is None:
        return ""
    return "undefined" if math.isnan(value) else number(value)


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else interval(low, high)


def _aligned(columns: Sequence[Sequence[str]]) -> list[str]:
    """Return lines: names to the left, numbers to the right."""
    first, *others = columns
    padded = [[cell.ljust(max(map(len, first))) for cell in first]]
    padded += [[cell.rjust(max(map(len, column))) for cell in column] for column in others]
    return ["  ".join(row).rstrip() for row in zip(*padded, strict=True)]
