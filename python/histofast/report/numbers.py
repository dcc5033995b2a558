"""Numbers as words: equal numbers give equal words, on pages, in charts and in sentences."""

from __future__ import annotations


def number(value: float) -> str:
    """Write three decimals, and no minus sign on a zero."""
    text = f"{value:.3f}"
    return "0.000" if text == "-0.000" else text


def signed(value: float) -> str:
    """Write a difference: three decimals and its sign, none on a zero."""
    text = number(value)
    return f"+{text}" if value > 0 and text != "0.000" else text


def percent(share: float) -> str:
    """Write a share: 0.95 is 95 %."""
    return f"{100 * share:g} %"


def round_number(value: float) -> str:
    """Write a rate with about three digits."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}"


def size(n_bytes: float) -> str:
    """Write a size in millions of bytes with about three digits."""
    return f"{round_number(n_bytes / 1e6)} MB"


def interval(low: float, high: float) -> str:
    """Write the two bounds of an interval."""
    return f"{number(low)} to {number(high)}"
