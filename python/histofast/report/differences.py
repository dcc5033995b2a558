"""A difference that is told among several, as columns, cells and words; equal numbers give equal ones."""

from __future__ import annotations

import math
from typing import Literal, Protocol

from histofast.report.answer import Cell, Column
from histofast.report.numbers import signed

Finding = Literal["better", "worse", "not shown", "no interval", "undefined"]


class Told(Protocol):
    """What of a difference is told: `learning.Difference`."""

    @property
    def value(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def low_adjusted(self) -> float: ...
    @property
    def high_adjusted(self) -> float: ...
    @property
    def p_adjusted(self) -> float: ...
    @property
    def is_shown(self) -> bool:
        """Whether the adjusted interval excludes 0."""


def finding_of(one: Told | None, *, sign: int = 1) -> Finding:
    """Return what a comparison says, in a few words; `sign` is -1 where less is better."""
    if one is None or math.isnan(one.value):
        return "undefined"
    if math.isnan(one.low + one.high):
        return "no interval"
    if not one.is_shown:
        return "not shown"
    return "better" if one.value * sign > 0 else "worse"


def after_holm(one: Told) -> str:
    """Return a difference, with the interval that decides whether it is shown if there is one."""
    low, high = one.low_adjusted, one.high_adjusted
    bounds = "" if math.isnan(low + high) else f", {signed(low)} to {signed(high)} after Holm"
    return f"{signed(one.value)}{bounds}"


def difference_columns(title: str, name: str) -> list[Column]:
    """Return the columns of a comparison; of a cell that is not compared `difference_cells(None)` are the cells.

    Args:
        title: on the page.
        name: what names in the CSV begin with.
    """
    return [
        Column(
            title=title,
            names=(name, f"{name}_low", f"{name}_high"),
            form="difference",
            missing="—",
        ),
        Column(title="", names=(f"{name}_low_adjusted", f"{name}_high_adjusted"), form="interval"),
        Column(title="", names=(f"{name}_p_adjusted",), form="number"),
        Column(title="finding", names=(f"{name}_finding",)),
    ]


def difference_cells(one: Told | None, *, sign: int = 1) -> tuple[Cell, ...]:
    """Return the cells of a comparison; `sign` is -1 where less is better."""
    if one is None:
        return (None, None, None, "")
    return (
        (one.value, one.low, one.high),
        (one.low_adjusted, one.high_adjusted),
        one.p_adjusted,
        finding_of(one, sign=sign),
    )
