"""Tables of ready-made patch images in, bags of them out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histofast._files import path_of, regular_file
from histofast._tables import as_number, number_remedy, read_table, shown
from histofast._words import one_line
from histofast.errors import SlideError


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchBag:
    """Ready-made patch images that belong together (a slide's, a patient's).

    Attributes:
        name: of the bag.
        files: (n) image files, all of one square size.
        coords_l0: (n, 2) int64 from the x and y columns; None when the table has none.
        labels: (n) label of each row as text, "" where the table has none.
        split: "train", "valid", ...; "" when the table has none.
        patient: whose they are; "" when the table has no column of patients.
    """

    name: str
    files: tuple[Path, ...]
    coords_l0: NDArray[np.int64] | None
    labels: tuple[str, ...]
    split: str
    patient: str = ""

    def __len__(self) -> int:
        return len(self.files)

    @property
    def coords(self) -> NDArray[np.int64]:
        """(n, 2) int64 `coords_l0`, zeros where they are not known."""
        return np.zeros((len(self), 2), np.int64) if self.coords_l0 is None else self.coords_l0

    @property
    def identity(self) -> str:
        """Changes when a file's content, or the order of the files, does."""
        digest = hashlib.sha256()
        for file in self.files:
            try:
                content = regular_file(file, kind="patch image", error=SlideError).read_bytes()
            except FileNotFoundError as error:
                raise SlideError(one_line(error)) from error
            except OSError as error:
                raise SlideError(f"cannot read {file}: {error.strerror}") from error
            digest.update(hashlib.sha256(content).digest())
        if self.coords_l0 is not None:
            digest.update(self.coords_l0.astype("<i8").tobytes())
        return f"patches:{len(self)};sha256:{digest.hexdigest()}"


def read_patch_table(path: str | Path) -> list[PatchBag]:
    """Read a CSV of patch images: file, slide[, patient, label, x, y, split].

    `file` is relative to the CSV's folder. Without a column of slides a patient is a bag. Columns
    may be called otherwise: see `histofast._tables`.

    Returns:
        The bags in the order of their first row, rows in the table's order.

    Raises:
        FileNotFoundError: no such table.
        ValueError: a missing column or one that is there twice, an empty table or cell, a repeated
            file, a coordinate that is no number or does not fit 64 bits, a bag that is of two
            patients or in two splits.
    """
    table = read_table(path_of("path", path))
    file_column, bag_column = table.needed("file"), table.needed("slide", "patient")
    patient, split, label = (table.column(role) for role in ("patient", "split", "label"))
    axes = [table.column("x"), table.column("y")]
    if (axes[0] is None) != (axes[1] is None):
        raise ValueError(f"{path} must have both of the columns x and y, or neither")
    grouped: dict[str, list[tuple[int, Mapping[str, str]]]] = {}
    seen: dict[str, int] = {}
    for line, row in table.lines():
        for column in (file_column, bag_column, patient):
            if column is not None and not row[column]:
                raise ValueError(f"{path}, line {line}: {column} is empty")
        file = row[file_column]
        if file in seen:
            raise ValueError(
                f"{path}, line {line}: {file} is there twice (first in line {seen[file]})"
            )
        seen[file] = line
        grouped.setdefault(row[bag_column], []).append((line, row))

    bags = []
    for name, members in grouped.items():
        coords = None
        if None not in axes:
            coords = np.array(
                [
                    [_whole(table.path, line, row, str(axis)) for axis in axes]
                    for line, row in members
                ],
                np.int64,
            )
        bags.append(
            PatchBag(
                name=name,
                files=tuple(table.path.parent / row[file_column] for _, row in members),
                coords_l0=coords,
                labels=tuple(row[label] if label else "" for _, row in members),
                split=_of_bag(table.path, name, "in one split", members, split),
                patient=_of_bag(table.path, name, "of one patient", members, patient),
            )
        )
    return bags


def _of_bag(
    path: Path,
    name: str,
    wanted: str,
    members: Sequence[tuple[int, Mapping[str, str]]],
    column: str | None,
) -> str:
    """Return what all rows of a bag say."""
    found = sorted({row[column] for _, row in members}) if column else [""]
    if len(found) > 1:
        raise ValueError(f"{path}: bag {name} must be {wanted}, got {', '.join(found)}")
    return found[0]


def _whole(path: Path, line: int, row: Mapping[str, str], axis: str) -> int:
    cell = row[axis]
    number = as_number(cell)
    if number is None:
        raise ValueError(
            f"{path}, line {line}: {axis} must be a finite number, got {shown(cell)}"
            f"{number_remedy(cell)}"
        )
    value = int(cell) if cell.lstrip("+-").isdecimal() else round(number)
    if not -(2**63) <= value < 2**63:
        raise ValueError(
            f"{path}, line {line}: {axis} must be a level-0 pixel below 2**63, got {shown(cell)}"
        )
    return value
