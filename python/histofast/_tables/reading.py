"""A CSV file in, its rows with the lines that they begin in out; bounded in memory by its longest row."""

from __future__ import annotations

import codecs
import contextlib
import csv
import re
from collections.abc import Generator, Iterator
from itertools import islice
from pathlib import Path
from typing import TextIO

from histofast._files import refuse_stand_in, regular_file
from histofast._tables.cells import as_read
from histofast._words import one_line

_SUFFIXES = frozenset({".csv", ".tsv", ".txt"})
_ARCHIVE = b"PK\x03\x04"  # xlsx and ods are archives
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_LONGEST = 1 << 24  # characters of a row: a million columns have room
# Spreadsheets write and read this line before the header.
_TOLD = re.compile(r"\"?sep=([,;\t])\"?[\r\n]*")


def is_table(path: Path) -> bool:
    """Whether a path is called like a table: `.csv`, `.tsv` or `.txt`, in any case."""
    return path.suffix.lower() in _SUFFIXES


def records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a user's CSV file that are not blank, each with the line it begins in.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no file that can be read, no text, cells that are divided in two ways, a quote
            that does not end where its cell does, a row or cell without end. All but the first name
            the line.
    """
    separator, first = _separator_of(path)
    for row in filter(_has_text, _rows(path, separator, skipinitialspace=True)):
        if row[0] >= first:
            yield row


def separator_of(path: Path) -> str:
    """Return what separates the cells of a table.

    Raises:
        FileNotFoundError, ValueError: as `records`.
    """
    return _separator_of(path)[0]


def read_csv(path: Path) -> list[list[str]]:
    """Return the rows of a file of what `csv_text` made, as they were; empty lines are left out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no CSV text file.
    """
    rows = _rows(path, ",", skipinitialspace=False)
    return [[as_read(cell) for cell in cells] for _, cells in rows if cells]


def _rows(
    path: Path, separator: str, *, skipinitialspace: bool
) -> Generator[tuple[int, list[str]], None, None]:
    with _opened(path) as file:
        lines = _Lines(path, file)
        reader = csv.reader(
            lines, delimiter=separator, skipinitialspace=skipinitialspace, strict=True
        )
        while True:
            lines.begin_row()
            try:
                cells = next(reader, None)
            except csv.Error as error:
                raise ValueError(f"{path}, line {lines.row_begins}: {_reason(error)}") from None
            if cells is None:
                return
            yield lines.row_begins, cells


class _Lines:
    """The lines of a text file, looked at before they are taken for CSV."""

    def __init__(self, path: Path, file: TextIO) -> None:
        self._path, self._file = path, file
        # What could not be decoded: bytes of no UTF-8, or the mark for them in UTF-16.
        self._wrong = re.compile("[\0\ufffd]" if file.encoding == "utf-16" else "[\0\udc80-\udcff]")
        self._line, self._length = 0, 0
        self.row_begins = 1

    def begin_row(self) -> None:
        self.row_begins, self._length = self._line + 1, 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._file.readline(_LONGEST + 1)
        if not line:
            raise StopIteration
        self._line += 1
        self._length += len(line)
        if self._length > _LONGEST:
            raise ValueError(
                f"{self._path}, line {self.row_begins}: must have rows of at most {_LONGEST} "
                "characters, got a longer one: is it a table?"
            )
        if wrong := self._wrong.search(line):
            got = {"\0": "a NUL", "\ufffd": "half a character"}.get(wrong[0])
            got = got or f"the byte 0x{ord(wrong[0]) - 0xDC00:02x}"
            raise ValueError(
                f"{self._path}, line {self._line}: must be CSV text in UTF-8, got {got}: save it so"
            )
        return line


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    try:
        with regular_file(path, kind="table").open("rb") as raw:
            mark = raw.read(4)
        refuse_stand_in(path)
        if mark == _ARCHIVE:
            raise ValueError(
                f"{path} must be CSV text, got a workbook or another archive: save the sheet as CSV"
            )
        is_utf16 = mark[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        encoding, errors = ("utf-16", "replace") if is_utf16 else ("utf-8-sig", "surrogateescape")
        file = path.open(newline="", encoding=encoding, errors=errors)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"cannot read table {one_line(error)}") from error
    with file:
        yield file


def _separator_of(path: Path) -> tuple[str, int]:
    """Return what separates cells, and the first line that holds any.

    The separator that divides the header and the first row alike, into most cells; else the one that
    divides the header so.
    """
    with _opened(path) as file:
        if told := _TOLD.fullmatch(file.readline(8)):
            return told[1], 2
    found: dict[str, tuple[bool, int]] = {}
    for separator in _SEPARATORS:
        lengths = [0]
        # What is wrong is told when the rows themselves are asked for.
        with contextlib.suppress(ValueError):
            rows = _rows(path, separator, skipinitialspace=True)
            with contextlib.closing(rows):
                lengths = [len(cells) for _, cells in islice(filter(_has_text, rows), 2)] or [0]
        found[separator] = (len(set(lengths)) == 1 < lengths[0], lengths[0])
    best = max(found.values())
    claims = [separator for separator, fit in found.items() if fit == best]
    if best[1] > 1 and len(claims) > 1:
        names = " and by ".join(_SEPARATORS[separator] for separator in claims)
        raise ValueError(
            f"{path}, line 1: must be divided into cells in one way, got the same number by "
            f"{names}: quote the cells that have one"
        )
    return claims[0], 1


def _has_text(row: tuple[int, list[str]]) -> bool:
    return any(cell and not cell.isspace() for cell in row[1])


def _reason(error: csv.Error) -> str:
    """What csv says, in words of the table."""
    said = str(error)
    if "field limit" in said:
        return f"must have cells of at most {csv.field_size_limit()} characters: is a quote not closed?"
    if "unexpected end" in said:
        return "must close its quotes, got one that is open at the end of the file"
    if "expected after" in said:
        return "must have a quote in a quoted cell twice, got one alone: is one not closed before?"
    return f"must be CSV: {one_line(said)}"
