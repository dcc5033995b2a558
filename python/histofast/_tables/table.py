"""A CSV file in; its rows, and which column is what, out."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from histofast._tables.cells import as_number, as_read, is_missing, number_remedy, shown
from histofast._tables.reading import records, separator_of
from histofast._words import clipped, listed

Role = Literal["slide", "file", "patient", "group", "split", "label", "mpp", "mask", "x", "y"]

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
    "group": ("group", "group_id"),
    "split": ("split",),
    "label": ("label",),
    "mpp": ("mpp", "spacing_at_level_0", "level0_mpp", "um_per_px", "microns_per_pixel"),
    "mask": ("mask", "mask_path", "mask_file"),
    "x": ("x",),
    "y": ("y",),
}
_SHOWN = 4  # names of a role in an error
_SHOWN_COLUMNS, _SHOWN_CHARACTERS = 20, 300  # of a header in an error
# What no name of a slide or class and no path has; a cell of several lines is a quote left open.
_LINE_ENDS = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029]")
_MOST_COLUMNS = 1 << 21
_LONGEST = 4096  # characters of a cell that is read; the longest path has so many
_OF_PATIENTS = ("patient", "case", "subject", "participant", "donor", "submitter", "individual")


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A CSV file with a header and at least one row.

    Attributes:
        path: of the file.
        header: names of the columns, stripped of white space, on one line.
        columns: those of the header that may be asked for; the cells of others are not kept.
        rows: cells by column, stripped of white space.
        line_numbers: of the rows.
        separator: of the cells.
    """

    path: Path
    header: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[Mapping[str, str], ...]
    line_numbers: tuple[int, ...]
    separator: str = ","

    def lines(self) -> Iterator[tuple[int, Mapping[str, str]]]:
        """Yield rows with their line numbers."""
        yield from zip(self.line_numbers, self.rows, strict=True)

    @property
    def header_shown(self) -> str:
        """The names of the columns as messages have them."""
        names = [name or "''" for name in self.header]
        return clipped(listed(names, most=_SHOWN_COLUMNS), _SHOWN_CHARACTERS)

    def column(self, role: Role) -> str | None:
        """Return the column of this role, None where there is none.

        Two columns of patients that divide the rows alike, such as TCGA's two identifiers of a
        case, are no contradiction: the first is taken.

        Raises:
            ValueError: several columns claim it, or a cell of it is no short text of one line.
        """
        wanted = {_plain(name) for name in NAMES[role]}
        claims = [name for name in self.columns if _plain(name) in wanted]
        if len(claims) > 1 and not (role == "patient" and self._divide_alike(claims)):
            raise self._contradicts(f"for {role}", claims)
        return self._checked(claims[0]) if claims else None

    def needed(self, *roles: Role) -> str:
        """Return the column of the first of these roles that has one.

        Raises:
            ValueError: none of them has, or as `column`.
        """
        for role in roles:
            if (found := self.column(role)) is not None:
                return found
        first, *others = [name for role in roles for name in NAMES[role][:_SHOWN]]
        told = f" (or {', '.join(others)})" if others else ""
        raise ValueError(f"{self.path} must have a column {first}{told}, got {self.header_shown}")

    def named(self, name: str) -> str | None:
        """Return the column of this very name, else the one that differs in spelling only.

        Raises:
            ValueError: several differ in spelling only, or a cell of it is no short text of one line.
        """
        plain = _plain(name)  # "" of a name of signs, which is nothing's other spelling
        claims = [c for c in self.columns if c == name or (plain and _plain(c) == plain)]
        if claims.count(name) == 1:
            return self._checked(name)
        if len(claims) > 1:
            raise self._contradicts(name, claims)
        return self._checked(claims[0]) if claims else None

    def place_of(self, cell: str) -> Path:
        """Return the place of a file that a cell names, relative to the table's folder.

        What Windows divides by backslashes is found under slashes, where no file is called so.
        """
        place = self.path.parent / cell
        if "\\" not in cell or _is_there(place):
            return place
        return self.path.parent / cell.replace("\\", "/")

    def told(self, line: int, column: str, cell: str) -> str:
        """Return a cell that must not be missing, such as whose a picture is.

        Raises:
            ValueError: it is.
        """
        if is_missing(cell):
            got = f"must be told, got {shown(cell)}" if cell else "is empty"
            raise ValueError(f"{self.path}, line {line}: {column} {got}")
        return cell

    def number(self, line: int, column: str, cell: str) -> float:
        """Return the number that a cell of a line holds.

        Raises:
            ValueError: it holds none.
        """
        number = as_number(cell, separator=self.separator)
        if number is None:
            raise ValueError(
                f"{self.path}, line {line}: {column} must be a finite number, got {shown(cell)}"
                f"{number_remedy(cell)}"
            )
        return number

    def unread_patients(self) -> tuple[str, ...]:
        """Return the columns that look like patients under names that are not understood."""
        known = {_plain(name) for name in NAMES["patient"]}
        return tuple(
            name
            for name in self.header
            if _plain(name) not in known and any(word in _plain(name) for word in _OF_PATIENTS)
        )

    def _checked(self, column: str) -> str:
        """Return a column whose cells can be names."""
        for line, row in self.lines():
            cell = row[column]
            if len(cell) > _LONGEST or _LINE_ENDS.search(cell):
                raise ValueError(
                    f"{self.path}, line {line}: {clipped(column, _SHOWN_CHARACTERS)} must be text "
                    f"of one line and at most {_LONGEST} characters, got {shown(cell)}: "
                    "is a quote not closed?"
                )
        return column

    def _contradicts(self, wanted: str, claims: Sequence[str]) -> ValueError:
        got = clipped(" and ".join(claims), _SHOWN_CHARACTERS)
        return ValueError(
            f"{self.path} must have one column {wanted}, got {got}: rename or remove the others"
        )

    def _divide_alike(self, columns: Sequence[str]) -> bool:
        if len(set(columns)) < len(columns):
            return False
        together = {tuple(row[name] for name in columns) for row in self.rows}
        return all(len({row[name] for row in self.rows}) == len(together) for name in columns)


def read_table(path: Path, *, named: Collection[str] = ()) -> Table:
    """Read a CSV file: its first column, those of a role, and those of these names in any spelling.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no CSV text file, no row, a row of another length than the header.
    """
    wanted = {_plain(name) for names in (*NAMES.values(), named) for name in names} - {""}
    rows = records(path)
    header = _header(path, rows)
    kept = [i for i, name in enumerate(header) if i == 0 or name in named or _plain(name) in wanted]
    columns = tuple(header[i] for i in kept)
    read: list[Mapping[str, str]] = []
    line_numbers = []
    for line, cells in rows:
        if len(cells) > len(header) and not any(cells[len(header) :]):
            cells = cells[: len(header)]  # separators at the end of a row, and nothing between them
        if len(cells) != len(header):
            raise ValueError(
                f"{path}, line {line}: must have {len(header)} cells like the header, "
                f"got {len(cells)}: fill the row up with empty cells, or remove what is too many"
            )
        read.append(dict(zip(columns, (as_read(cells[i].strip()) for i in kept), strict=True)))
        line_numbers.append(line)
    if not read:
        raise ValueError(f"{path} must have a header and at least one row")
    return Table(
        path=path,
        header=header,
        columns=columns,
        rows=tuple(read),
        line_numbers=tuple(line_numbers),
        separator=separator_of(path),
    )


def header_of(path: Path) -> tuple[str, ...]:
    """Return the names of the columns of a CSV file, as `Table.header` has them.

    Raises:
        FileNotFoundError, ValueError: as `read_table`.
    """
    return _header(path, records(path))


def _header(path: Path, rows: Iterator[tuple[int, list[str]]]) -> tuple[str, ...]:
    _, first = next(rows, (1, []))
    if len(first) > _MOST_COLUMNS:
        raise ValueError(f"{path} must have at most {_MOST_COLUMNS} columns, got {len(first)}")
    return tuple(" ".join(as_read(name.strip()).split()) for name in first)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # longer than names can be
        return False


def _plain(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())
