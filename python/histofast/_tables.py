"""Tables: a CSV file that users give in, its rows and which column is what out; and rows to CSV.

One vocabulary for every table: of slides, of patch images, of labels. A name is read in any case, with
or without spaces, hyphens and underscores: `Patient ID`, `patient_id` and `PATIENT-ID` are one.
A patient is always a group of slides; a bag is a slide.

Spreadsheets calculate a cell that begins as a formula does (`=cmd|...`), also one that came as CSV. What
is written here begins with an apostrophe then, which they take for text, and is read here without it.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Role = Literal["slide", "file", "patient", "split", "label", "mpp", "mask", "x", "y"]

# What users of other tools call these columns; the first name of each is ours.
NAMES: Mapping[Role, tuple[str, ...]] = {
    "slide": ("slide", "wsi", "slide_id", "bag", "slide_name", "wsi_id", "wsi_name", "bag_id"),
    "file": (
        *("file", "path", "image_path", "patch", "file_path", "file_name", "image", "image_file"),
        *("patch_path", "patch_file", "slide_path", "slide_file", "wsi_path", "wsi_file"),
    ),
    "patient": (
        *("patient", "patient_id", "case", "case_id", "submitter_id", "case_submitter_id"),
        *("patient_name", "patient_code", "patient_number", "patient_nr", "bcr_patient_barcode"),
        *("patient_barcode", "subject", "subject_id", "participant", "participant_id"),
    ),
    "split": ("split",),
    "label": ("label",),
    "mpp": ("mpp", "spacing_at_level_0", "level0_mpp", "um_per_px", "microns_per_pixel"),
    "mask": ("mask", "mask_path", "mask_file"),
    "x": ("x",),
    "y": ("y",),
}
_SHOWN = 4  # names of a role in an error
# What begins a formula, in full width too, after any apostrophes that are there already.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-](inf|nan)")
_OF_PATIENTS = ("patient", "case", "subject", "participant", "donor", "submitter", "individual")


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A CSV file with a header and at least one row.

    Attributes:
        path: of the file.
        header: names of the columns, stripped of white space.
        rows: cells by column, stripped of white space.
    """

    path: Path
    header: tuple[str, ...]
    rows: tuple[Mapping[str, str], ...]

    def lines(self) -> Iterator[tuple[int, Mapping[str, str]]]:
        """Yield rows with their line numbers."""
        yield from enumerate(self.rows, start=2)

    def column(self, role: Role) -> str | None:
        """Return the column of this role, None where there is none.

        Two columns of patients that divide the rows alike, such as TCGA's two identifiers of a
        case, are no contradiction: the first is taken.

        Raises:
            ValueError: several columns claim it.
        """
        wanted = [_plain(name) for name in NAMES[role]]
        claims = [name for name in self.header if _plain(name) in wanted]
        if len(claims) > 1 and not (role == "patient" and self._divide_alike(claims)):
            raise ValueError(
                f"{self.path} must have one column for {role}, got {' and '.join(claims)}: "
                "rename or remove the others"
            )
        return claims[0] if claims else None

    def needed(self, *roles: Role) -> str:
        """Return the column of the first of these roles that has one.

        Raises:
            ValueError: none of them has, or several columns claim one.
        """
        for role in roles:
            if (found := self.column(role)) is not None:
                return found
        first, *others = [name for role in roles for name in NAMES[role][:_SHOWN]]
        header = ", ".join(self.header)
        separated = len(self.header) == 1 and ";" in header
        hint = ": separate the cells by commas" if separated else ""
        told = f" (or {', '.join(others)})" if others else ""
        raise ValueError(f"{self.path} must have a column {first}{told}, got {header}{hint}")

    def named(self, name: str) -> str | None:
        """Return the column of this very name, else the one that differs in spelling only.

        Raises:
            ValueError: several differ in spelling only.
        """
        claims = [column for column in self.header if _plain(column) == _plain(name)]
        if self.header.count(name) == 1:
            return name
        if len(claims) > 1:
            raise ValueError(
                f"{self.path} must have one column {name}, got {' and '.join(claims)}: "
                "rename or remove the others"
            )
        return claims[0] if claims else None

    def unread_patients(self) -> tuple[str, ...]:
        """Return the columns that look like patients under names that are not understood."""
        known = {_plain(name) for name in NAMES["patient"]}
        return tuple(
            name
            for name in self.header
            if _plain(name) not in known and any(word in _plain(name) for word in _OF_PATIENTS)
        )

    def _divide_alike(self, columns: Sequence[str]) -> bool:
        if len(set(columns)) < len(columns):
            return False
        together = {tuple(row[name] for name in columns) for row in self.rows}
        return all(len({row[name] for row in self.rows}) == len(together) for name in columns)


def read_table(path: Path) -> Table:
    """Read a CSV file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no CSV text file, no row, a row of another length than the header.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no such table: {path}")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = [as_read(name.strip()) for name in next(reader, [])]
            rows = []
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise ValueError(
                        f"{path}, line {reader.line_num}: must have {len(header)} cells like the "
                        f"header, got {len(cells)}"
                    )
                stripped = (as_read(cell.strip()) for cell in cells)
                rows.append(dict(zip(header, stripped, strict=True)))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} must be a CSV text file: {error}") from error
    if not rows:
        raise ValueError(f"{path} must have a header and at least one row")
    return Table(path=path, header=tuple(header), rows=tuple(rows))


def as_written(text: str) -> str:
    """Return the text of a cell so that no spreadsheet takes it for a formula; numbers stay as they are.

    Example:
        >>> [as_written(text) for text in ("=1+1", "-0.5", "-a", "'=b", "it's")]
        ["'=1+1", '-0.5', "'-a", "''=b", "it's"]
    """
    is_formula = _FORMULA.match(text) and not _NUMBER.fullmatch(text)
    return f"'{text}" if is_formula else text


def as_read(cell: str) -> str:
    """Return the text that `as_written` made a cell of; other cells are as they are."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Return rows, the header first, as CSV; texts as `as_written`. All CSV is made here."""
    text = io.StringIO(newline="")
    plain = csv.writer(text, lineterminator="\n")
    quoting = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in rows:
        cells = [as_written(cell) if isinstance(cell, str) else cell for cell in row]
        # Older versions of Python do not quote a line end of another kind.
        has_returns = any(isinstance(cell, str) and "\r" in cell for cell in cells)
        (quoting if has_returns else plain).writerow(cells)
    return text.getvalue()


def read_csv(path: Path) -> list[list[str]]:
    """Return the rows of a file of what `csv_text` made, as they were; empty lines are left out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no CSV text file.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return [[as_read(cell) for cell in row] for row in csv.reader(file) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} must be a CSV text file: {error}") from error


def _plain(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())
