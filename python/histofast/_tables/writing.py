"""Rows in, CSV out. All CSV is made here."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

from histofast._tables.cells import as_written


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Return rows, the header first, as CSV; texts as `as_written`."""
    text = io.StringIO(newline="")
    plain = csv.writer(text, lineterminator="\n")
    quoting = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in rows:
        cells = [as_written(cell) if isinstance(cell, str) else cell for cell in row]
        # Older versions of Python do not quote a line end of another kind.
        has_returns = any(isinstance(cell, str) and "\r" in cell for cell in cells)
        (quoting if has_returns else plain).writerow(cells)
    return text.getvalue()
