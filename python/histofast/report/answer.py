"""An answer to a question: words, figures, tables, commands. Needs nothing to be made, and draws nothing."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from histofast._tables import csv_text
from histofast.report.charts import Figure, check_name
from histofast.report.numbers import number, round_number, signed, size

Cell = str | float | None | tuple[float | None, ...]
_LINK = r"https?://[^\s]+|[\w.#][^:\\\s]*"


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A column of a table, on the page and in its CSV.

    Attributes:
        title: on the page; "": it is in the CSV only.
        names: in the CSV, one for each number of a cell; empty: it is on the page only.
        form: how cells are written: "text" as it is, "number" with three decimals, "whole", "share"
            as per cent, "rate" and "bytes" with three digits, "interval" (low, high), "difference"
            (value, low, high).
        missing: what is written for None.
        under: written small below the cell before it.
    """

    title: str
    names: tuple[str, ...] = ()
    form: Literal["text", "number", "whole", "share", "rate", "bytes", "interval", "difference"] = (
        "text"
    )
    missing: str = ""
    under: bool = False

    def write(self, cell: Cell) -> str:
        """Return a cell in words; NaN is undefined."""
        if cell is None:
            return self.missing
        if isinstance(cell, str):
            return cell
        if isinstance(cell, tuple):
            return self._write_several(cell)
        if math.isnan(cell):
            return "— undefined"
        return {
            "whole": lambda value: f"{value:,.0f}",
            "share": lambda value: f"{100 * value:.0f} %",
            "rate": round_number,
            "bytes": size,
        }.get(self.form, number)(cell)

    def _write_several(self, cell: tuple[float | None, ...]) -> str:
        known = [value for value in cell if value is not None and not math.isnan(value)]
        if not known:
            return self.missing if None in cell else "— undefined"
        write = signed if self.form == "difference" else number
        words = [write(value) for value in known]
        if self.form == "difference":
            return words[0] if len(words) < 3 else f"{words[0]} ({words[1]} to {words[2]})"
        return " to ".join(words)


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows of the page, and of a CSV file.

    Attributes:
        name: of the file.
        title, caption: above it on the page.
        columns: the first names the rows.
        rows: cells in the order of the columns.
        highlighted, aside: numbers of rows that matter most, and least.
        shown: rows on the page, where the CSV may have more; None: all. Without rows to show there is a CSV only.
    """

    name: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    title: str = ""
    caption: str = ""
    highlighted: frozenset[int] = frozenset()
    aside: frozenset[int] = frozenset()
    shown: int | None = None

    def __post_init__(self) -> None:
        check_name("name of a table", self.name)
        for row in self.rows:
            if len(row) != len(self.columns):
                k = len(self.columns)
                raise ValueError(f"rows of table {self.name} must have {k} cells, got {len(row)}")
            for column, cell in zip(self.columns, row, strict=True):
                parts = cell if isinstance(cell, tuple) else (cell,)
                if any(isinstance(part, float) and math.isinf(part) for part in parts):
                    raise ValueError(
                        f"{column.title} must be finite or NaN, got {cell} in {row[0]}"
                    )

    def to_csv(self) -> str:
        """Return the rows; a number that is undefined is nan, one that is not known is empty."""
        names = [name for column in self.columns for name in column.names]
        return csv_text([names, *([row[name] for name in names] for row in self.records())])

    def records(self) -> list[dict[str, Any]]:
        """Return the rows as the CSV has them, by name."""
        return [
            {
                name: part
                for column, cell in zip(self.columns, row, strict=True)
                for name, part in zip(column.names, _parts(column, cell), strict=True)
            }
            for row in self.rows
        ]


def _parts(column: Column, cell: Cell) -> tuple[Any, ...]:
    parts: tuple[Any, ...] = cell if isinstance(cell, tuple) else (cell,)
    k = len(column.names)
    return (parts + (None,) * k)[:k]


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """All that a page shows, and a folder holds.

    Attributes:
        name: of its JSON file.
        title: a few words.
        question: one sentence; "": the title says it.
        basis: what it was measured on.
        findings: sentences; the same numbers give the same ones.
        limits: sentences on what must not be concluded from it.
        figures, tables: in order.
        commands: (what it does, shell command), in order.
        method: everything that decides the numbers, in words.
        links: places to read on: paths relative to the page, or web addresses.
        data: what the JSON holds; None: findings, tables, commands and method.
        files: further texts to save and to offer, by their names: "matrix.csv".

    Raises:
        ValueError: two figures, tables or files of one name, a link to anything else.
    """

    name: str
    title: str
    findings: tuple[str, ...]
    question: str = ""
    basis: str = ""
    limits: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    commands: tuple[tuple[str, str], ...] = ()
    method: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, Any] | None = None
    files: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name("name of an answer", self.name)
        for name in self.files:
            check_name("name of a file", name.replace(".", "-"))
        taken = [f"{self.name}.json", *(f"{table.name}.csv" for table in self.tables), *self.files]
        _check_differ("files", taken)
        _check_differ("figures", [figure.name for figure in self.figures])
        for name, to in self.links.items():
            if not re.fullmatch(_LINK, to):
                raise ValueError(
                    f"links[{name!r}] must be a relative path or a web address, got {to!r}"
                )

    def to_json(self) -> str:
        """Return the data; NaN is null."""
        data = self.data
        if data is None:
            data = {
                "title": self.title,
                "question": self.question,
                "basis": self.basis,
                "findings": list(self.findings),
                "limits": list(self.limits),
                **{table.name: table.records() for table in self.tables},
                "commands": [list(command) for command in self.commands],
                "method": dict(self.method),
            }
        return json.dumps(_plain(data), indent=1) + "\n"


def _check_differ(what: str, names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"names of {what} must differ, got {name!r} twice")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value
