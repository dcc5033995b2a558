"""The text of a cell to what it means, and back."""

from __future__ import annotations

import math
import re

from histofast._words import clipped

_SHOWN_CHARACTERS = 80
# What begins a formula, in full width too, after any apostrophes that are there already.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_TEXT_FORMULA = re.compile(r'="([^"]*)"')
_MINUS = "\u2212"  # as spreadsheets of some countries write it
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-](inf|nan)")
_FINITE = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_COMMA = re.compile(r"[+-]?(\d+,\d*|,\d+)([eE][+-]?\d+)?", re.ASCII)
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}", re.ASCII)  # or a decimal comma: who knows
_NOTHING = frozenset(
    {"", "na", "n/a", "#n/a", "#na", "<na>", "nan", "-nan", "nat", "null", "missing"}
)
# What spreadsheets save where a formula failed.
_FAILED = frozenset(
    {"#ref!", "#value!", "#name?", "#div/0!", "#null!", "#num!", "#calc!", "#spill!"}
)
_FLAGS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
# Numbers as people group and point them, which mean one thing here and another there.
_POINTED_OTHERWISE = re.compile(r"[+-]?\d[\d.,'_ \u00a0\u2009\u2019\u202f]*([eE][+-]?\d+)?")


def as_written(text: str) -> str:
    """Return the text of a cell so that no spreadsheet takes it for a formula; numbers stay as they are.

    Example:
        >>> [as_written(text) for text in ("=1+1", "-0.5", "-a", "'=b", "it's")]
        ["'=1+1", '-0.5', "'-a", "''=b", "it's"]
    """
    is_formula = _FORMULA.match(text) and not _NUMBER.fullmatch(text)
    return f"'{text}" if is_formula else text


def as_read(cell: str) -> str:
    """Return the text that `as_written` made a cell of, or a formula that is one text; others as they are.

    Formulas like `="007"` keep spreadsheets from reading a number.

    Example:
        >>> [as_read(cell) for cell in ("'-a", '="007"', '="a"&"b"', "it's")]
        ['-a', '007', '="a"&"b"', "it's"]
    """
    if (text := _TEXT_FORMULA.fullmatch(cell)) is not None:
        return text[1]
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def is_missing(cell: str) -> bool:
    """Whether a cell says that there is no value: empty, or what R, spreadsheets, pandas, SQL write.

    Example:
        >>> [is_missing(cell) for cell in ("", "NA", "#N/A", "NaN", "#REF!", "0", "none")]
        [True, True, True, True, True, False, False]
    """
    plain = cell.strip().casefold()
    return plain in _NOTHING or plain in _FAILED


def as_flag(cell: str) -> bool | None:
    """Return what a cell of 0 and 1, true and false, yes and no says; None where it is none of them.

    Example:
        >>> [as_flag(cell) for cell in ("1", "TRUE", "no", "0.0", "2", "maybe")]
        [True, True, False, False, None, None]
    """
    found = _FLAGS.get(cell.casefold())
    number = as_number(cell)
    return bool(number) if found is None and number in (0.0, 1.0) else found


def as_number(cell: str, *, separator: str = ",") -> float | None:
    r"""Return the finite number that a cell holds, None where there is none.

    A comma is a decimal one where the cells are separated by semicolons, as spreadsheets of such
    countries write tables; elsewhere unless it could divide thousands ("1,234").

    Example:
        >>> [as_number(cell) for cell in ("-1.5", "2e3", "1,5", "1,234", "1_0", "nan", "1e309")]
        [-1.5, 2000.0, 1.5, None, None, None, None]
        >>> as_number("1,234", separator=";"), as_number("\u22121.5")
        (1.234, -1.5)
    """
    if cell.startswith(_MINUS):
        cell = f"-{cell[1:]}"
    if _COMMA.fullmatch(cell) and (separator == ";" or not _THOUSANDS.fullmatch(cell)):
        cell = cell.replace(",", ".")
    if not _FINITE.fullmatch(cell):
        return None
    number = float(cell)
    return number if math.isfinite(number) else None


def number_remedy(cell: str) -> str:
    """Return the end of a message on a cell that `as_number` reads no number from, often nothing."""
    if _POINTED_OTHERWISE.fullmatch(cell) and not _FINITE.fullmatch(cell):
        return ": write decimals with a point and thousands without a mark"
    return ""


def shown(cell: str) -> str:
    """Return a cell as messages have it: quoted, escaped, not at any length."""
    return repr(clipped(cell, _SHOWN_CHARACTERS))
