"""A table or a folder of pictures in, a row for each picture out.

The one reader of `extract --patches`, `train` and `classify`: what a picture is called, where it lies,
what it shows and whose it is are told here; bags and data sets are made of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from histofast._files import path_of
from histofast._numbers import mpp_number
from histofast._tables import Role, Table, is_missing, read_table
from histofast._words import counted, did_you_mean, listed
from histofast.patches.folders import pictures_in

GroupKind = Literal["patient", "slide", "group", "image"]

_GROUPS: tuple[Literal["group", "patient", "slide"], ...] = ("group", "patient", "slide")
_ROLES: tuple[Role, ...] = ("slide", "patient", "group", "split", "mpp")
STANDARDISED = ("dataset.json", "images.csv")  # what `dataset standardise` leaves in its folder


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One row: a picture and what is told of it, "" where nothing is.

    Attributes:
        name: as the table spells it, or its path within the folder.
        file: where it lies.
        line: of the table, 0 in a folder.
        labels: cells of the label columns, as they are spelt; "" where missing.
        slide, patient, group: whose it is.
        split: as it is spelt.
        mpp: um per pixel, None where not told.
        xy: cells of the columns x and y.
    """

    name: str
    file: Path
    line: int = 0
    labels: tuple[str, ...] = ("",)
    slide: str = ""
    patient: str = ""
    group: str = ""
    split: str = ""
    mpp: float | None = None
    xy: tuple[str, str] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Pictures:
    """The rows of a table or a folder.

    Attributes:
        path: of the table or folder.
        rows: in the order of the table, or sorted by name.
        table: None for a folder.
        has: the roles that there are: "label", "slide", "patient", "group", "split" ...
        group_kind: the role that tells groups; "image" where none does.
        notes: what was left out or may not be meant, a line each.
        problems: by name, why what may be a picture is left out.
    """

    path: Path
    rows: tuple[Picture, ...]
    table: Table | None
    has: frozenset[str]
    group_kind: GroupKind = "image"
    notes: tuple[str, ...] = ()
    problems: Mapping[str, str] = field(default_factory=dict)

    def where(self, row: Picture) -> str:
        """Return how a message begins that is about a row."""
        return f"{self.path}, line {row.line}" if row.line else f"{self.path}: {row.name}"

    def group_of(self, row: Picture) -> str:
        """Return the group that a row is of; its own name where nothing tells groups."""
        group: str = row.name if self.group_kind == "image" else getattr(row, self.group_kind)
        return group


def read_pictures(
    path: str | Path,
    *,
    label_columns: Sequence[str] = (),
    group_column: str | None = None,
    labelled: bool = True,
) -> Pictures:
    """Read a table of pictures, or a folder with a folder for each class.

    A table has `file` (relative to its folder) and what else there is: `label`, `slide`, `patient`,
    `group`, `split`, `mpp`, `x`, `y`, under the usual names in any case and spelling. In a folder, the
    folder in it is the class, or the split (train, val, test) and the folder in that the class, or
    the other way round; the pictures may lie deeper. Names that begin with a dot and what is no PNG,
    JPEG or TIFF by its suffix are left out, and noted.

    Args:
        path: of the table or folder; a folder of `dataset standardise` is its images.csv.
        label_columns: of the table; () for the one that is called label, if there is one.
        group_column: what tells groups: a column group, else patients, else slides, when None.
        labelled: False: pictures may lie in a folder as they like.

    Raises:
        FileNotFoundError: there is no such table or folder.
        ValueError: a missing column or one that is there twice, an empty table, an empty cell of a
            file, slide, patient or group, a repeated file, an mpp out of range; a folder as
            `pictures_in` refuses it, or one and names of columns.
    """
    path = path_of("path", path)
    if path.is_dir():
        if not all((path / name).is_file() for name in STANDARDISED):
            if label_columns or group_column is not None:
                raise ValueError(
                    f"{path} must be a table where columns are named, got a folder: give its table, "
                    "or leave the columns out"
                )
            return _of_folder(path, labelled=labelled)
        path = path / STANDARDISED[1]
    return _of_table(path, label_columns, group_column)


# --- Tables ------------------------------------------------------------------------------------


def _of_table(path: Path, label_columns: Sequence[str], group_column: str | None) -> Pictures:
    asked = [*label_columns, *([group_column] if group_column is not None else [])]
    table = read_table(path, named=asked)
    file = table.needed("file")
    labels = [_asked(table, column) for column in label_columns]
    if not label_columns and (found := table.column("label")) is not None:
        labels = [found]
    roles = {role: table.column(role) for role in _ROLES}
    kind: GroupKind = _first_of(roles)
    if group_column is not None:
        found = _asked(table, group_column)
        kind = _first_of({role: found if roles[role] == found else None for role in _GROUPS})
        if kind == "image":
            kind, roles["group"] = "group", found
    axes = [table.column("x"), table.column("y")]
    if (axes[0] is None) != (axes[1] is None):
        raise ValueError(f"{path} must have both of the columns x and y, or neither")
    rows = [
        _row(table, line, row, file=file, labels=labels, roles=roles, axes=axes)
        for line, row in table.lines()
    ]
    _refuse_repeated(table, rows)
    has = {role for role, column in roles.items() if column is not None}
    return Pictures(
        path=path,
        rows=tuple(rows),
        table=table,
        has=frozenset({*has, *(["label"] if labels else [])}),
        group_kind=kind,
        notes=tuple(_on_groups(table, rows, kind)),
    )


def _first_of(roles: Mapping[Role, str | None]) -> GroupKind:
    for role in _GROUPS:
        if roles[role] is not None:
            return role
    return "image"


def _asked(table: Table, column: str) -> str:
    name = table.named(column)
    if name is None:
        raise ValueError(
            f"{table.path} must have a column {column}, got {table.header_shown}"
            f"{did_you_mean(column, table.header)}"
        )
    return name


def _on_groups(table: Table, rows: Sequence[Picture], kind: GroupKind) -> list[str]:
    """Say what may be of one patient and on two sides of a split all the same."""
    notes = []
    if kind != "patient" and (strange := table.unread_patients()):
        notes.append(
            f"columns that may be patients and are not read: {listed(strange)}: call the right one "
            "patient, or name it with group_column"
        )
    if kind in ("slide", "group"):
        groups_of: dict[str, set[str]] = {}
        for row in rows:
            groups_of.setdefault(row.patient, set()).add(getattr(row, kind))
        divided = [name for name, groups in groups_of.items() if name and len(groups) > 1]
        if divided:
            notes.append(
                f"patients that are told have several {kind}s and may be on both sides of a split: "
                f"{counted(divided)}"
            )
    return notes


def _row(
    table: Table,
    line: int,
    row: Mapping[str, str],
    *,
    file: str,
    labels: Sequence[str],
    roles: Mapping[Role, str | None],
    axes: Sequence[str | None],
) -> Picture:
    # A picture whose group is not known could be on both sides of a split.
    for column in (file, roles["slide"], roles["patient"], roles["group"]):
        if column is not None:
            table.told(line, column, row[column])
    mpp = None
    if (column := roles["mpp"]) is not None and not is_missing(row[column]):
        mpp = mpp_number(
            f"{table.path}, line {line}: {column}", table.number(line, column, row[column])
        )
    told = {role: row[column] if column else "" for role, column in roles.items() if role != "mpp"}
    if is_missing(told["split"]):
        told["split"] = ""
    return Picture(
        name=row[file],
        file=table.place_of(row[file]),
        line=line,
        labels=tuple("" if is_missing(row[column]) else row[column] for column in labels) or ("",),
        mpp=mpp,
        xy=None if axes[0] is None else (row[str(axes[0])], row[str(axes[1])]),
        **told,
    )


def _refuse_repeated(table: Table, rows: Sequence[Picture]) -> None:
    seen: dict[str, Picture] = {}
    for row in rows:
        first = seen.setdefault(row.name, row)
        if first is row:
            continue
        if first.labels != row.labels:
            one, other = (", ".join(cell or "none" for cell in r.labels) for r in (first, row))
            raise ValueError(
                f"{table.path}, line {row.line}: {row.name} must have one label, got {other}, and "
                f"{one} in line {first.line}: several labels of a picture are one cell, divided by ;"
            )
        raise ValueError(
            f"{table.path}, line {row.line}: {row.name} is there twice (first in line {first.line}): "
            "remove one"
        )


# --- Folders -----------------------------------------------------------------------------------


def _of_folder(path: Path, *, labelled: bool) -> Pictures:
    found = pictures_in(path, labelled=labelled)
    rows = tuple(
        Picture(name=placed.name, file=placed.file, labels=(placed.label,), split=placed.split)
        for placed in found.pictures
    )
    has = {
        role for role, first in (("label", rows[0].labels[0]), ("split", rows[0].split)) if first
    }
    return Pictures(
        path=path,
        rows=rows,
        table=None,
        has=frozenset(has),
        notes=found.notes,
        problems=found.problems,
    )
