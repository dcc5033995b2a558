"""A table or a folder of pictures in, a row for each picture out.

The one reader of `extract --patches`, `train` and `classify`: what a picture is called, where it lies,
what it shows and whose it is are told here; bags and data sets are made of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from histofast._files import path_of
from histofast._numbers import mpp_number
from histofast._tables import Role, Table, is_missing, read_table, shown
from histofast._words import listed
from histofast.errors import SlideError
from histofast.slides import ListedSlide, find_slides

STANDARDISED = ("dataset.json", "images.csv")  # what `dataset standardise` leaves in its folder
SPLIT_NAMES: Mapping[str, str] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}


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
        problems: of files that cannot be looked at, a line each.
    """

    path: Path
    rows: tuple[Picture, ...]
    table: Table | None
    has: frozenset[str]
    problems: tuple[str, ...] = ()

    def where(self, row: Picture) -> str:
        """Return how a message begins that is about a row."""
        return f"{self.path}, line {row.line}" if row.line else f"{self.path}: {row.name}"


def read_pictures(
    path: str | Path,
    *,
    label_columns: Sequence[str] = (),
    group_column: str | None = None,
) -> Pictures:
    """Read a table of pictures, or a folder with a folder for each class.

    A table has `file` (relative to its folder) and what else there is: `label`, `slide`, `patient`,
    `group`, `split`, `mpp`, `x`, `y`, under the usual names in any case and spelling. In a folder, the
    folder in it is the class, or the split (train, val, test) and the folder in that the class; the
    pictures may lie deeper. Names that begin with a dot and what is no picture by its suffix are left out.

    Args:
        path: of the table or folder; a folder of `dataset standardise` is its images.csv.
        label_columns: of the table; () for the one that is called label, if there is one.
        group_column: what tells groups, instead of a column group.

    Raises:
        FileNotFoundError: there is no such table or folder.
        ValueError: a missing column or one that is there twice, an empty table or cell, a repeated
            file, an mpp out of range; a folder without pictures, or with pictures beside folders of
            them, or with folders whose names differ in case only.
    """
    path = path_of("path", path)
    if path.is_dir():
        if all((path / name).is_file() for name in STANDARDISED):
            path = path / STANDARDISED[1]
        else:
            for name, value in (("label_column", label_columns), ("group_column", group_column)):
                if value:
                    raise ValueError(f"{name} must be of a table, {path} is a folder: leave it out")
            return _of_folder(path)
    return _of_table(path, label_columns, group_column)


# --- Tables ------------------------------------------------------------------------------------


def _of_table(path: Path, label_columns: Sequence[str], group_column: str | None) -> Pictures:
    asked = [*label_columns, *([group_column] if group_column is not None else [])]
    table = read_table(path, named=asked)
    file = table.needed("file")
    labels = _asked_columns(table, label_columns, "label_column")
    if not label_columns and (found := table.column("label")) is not None:
        labels = [found]
    roles: dict[str, str | None] = {
        role: table.column(role) for role in _roles("slide", "patient", "group", "split", "mpp")
    }
    if group_column is not None:
        roles["group"] = _asked_columns(table, [group_column], "group_column")[0]
    axes = [table.column("x"), table.column("y")]
    if (axes[0] is None) != (axes[1] is None):
        raise ValueError(f"{path} must have both of the columns x and y, or neither")
    has = {role for role, column in roles.items() if column is not None}
    if labels:
        has.add("label")
    rows = [
        _row(table, line, row, file=file, labels=labels, roles=roles, axes=axes)
        for line, row in table.lines()
    ]
    _refuse_repeated(table, rows)
    return Pictures(path=path, rows=tuple(rows), table=table, has=frozenset(has))


def _roles(*roles: Role) -> tuple[Role, ...]:
    return roles


def _asked_columns(table: Table, columns: Sequence[str], argument: str) -> list[str]:
    found = []
    for column in columns:
        name = table.named(column)
        if name is None:
            raise ValueError(
                f"{argument} must be one of {table.path}, {table.header_shown}, got {column!r}"
            )
        found.append(name)
    return found


def _row(
    table: Table,
    line: int,
    row: Mapping[str, str],
    *,
    file: str,
    labels: Sequence[str],
    roles: Mapping[str, str | None],
    axes: Sequence[str | None],
) -> Picture:
    # A picture whose group is not known could be on both sides of a split.
    for column in (file, roles["slide"], roles["patient"], roles["group"]):
        if column is not None and is_missing(row[column]):
            raise ValueError(
                f"{table.path}, line {line}: {column} is empty"
                if not row[column]
                else f"{table.path}, line {line}: {column} must be told, got {shown(row[column])}"
            )
    mpp = None
    if (column := roles["mpp"]) is not None and not is_missing(row[column]):
        mpp = mpp_number(
            f"{table.path}, line {line}: {column}", table.number(line, column, row[column])
        )
    told = {role: row[column] if column else "" for role, column in roles.items() if role != "mpp"}
    return Picture(
        name=row[file],
        file=table.path.parent / row[file],
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
            f"{table.path}, line {row.line}: {row.name} is there twice (first in line {first.line})"
        )


# --- Folders -----------------------------------------------------------------------------------


def _of_folder(path: Path) -> Pictures:
    folders = _folders_in(path)
    parts = [folder for folder in folders if folder.name.casefold() in SPLIT_NAMES]
    problems: list[str] = []
    if folders and len(parts) == len(folders):
        rows = [
            row
            for part in parts
            for row in _of_classes(path, _folders_in(part), part.name, problems)
        ]
    else:
        rows = _of_classes(path, folders, "", problems)
    if not rows:
        rows = [_picture(path, slide, problems) for slide in _pictures_in(path, recursive=False)]
        has: set[str] = set()
    else:
        has = {"label", *(["split"] if parts and len(parts) == len(folders) else [])}
        beside = _pictures_in(path, recursive=False)
        if beside:
            raise ValueError(
                f"{path} must have pictures within the folders of their classes, got "
                f"{len(beside)} beside them, first {beside[0].path.name}: move them"
            )
    kept = [row for row in rows if row is not None]
    if not kept:
        raise ValueError(
            f"{path} must have pictures in a folder for each class, got none{table_meant(path)}"
        )
    return Pictures(
        path=path,
        rows=tuple(sorted(kept, key=lambda row: row.name)),
        table=None,
        has=frozenset(has),
        problems=tuple(problems),
    )


def table_meant(path: Path) -> str:
    """Return the end of a message on a folder without classes: the tables in it, if there are any."""
    tables = sorted(
        inner.name for inner in path.iterdir() if inner.suffix.lower() in {".csv", ".tsv", ".txt"}
    )
    return (
        f": was the table meant, {listed([str(path / name) for name in tables])}?" if tables else ""
    )


def _folders_in(path: Path) -> list[Path]:
    try:
        inside = sorted(inner for inner in path.iterdir() if not inner.name.startswith("."))
        return [inner for inner in inside if inner.is_dir()]
    except OSError as error:
        raise ValueError(f"{path} must be a folder to look into: {error.strerror}") from error


def _pictures_in(folder: Path, *, recursive: bool) -> list[ListedSlide]:
    try:
        return find_slides([folder], recursive=recursive)
    except SlideError:  # none in it
        return []


def _of_classes(
    root: Path, folders: Sequence[Path], split: str, problems: list[str]
) -> list[Picture | None]:
    named: dict[str, str] = {}
    rows: list[Picture | None] = []
    for folder in folders:
        first = named.setdefault(folder.name.casefold(), folder.name)
        if first != folder.name:
            raise ValueError(
                f"{folder.parent} must have classes of different names, got {first} and "
                f"{folder.name}, which differ in case only: rename one, or join them"
            )
        for slide in _pictures_in(folder, recursive=True):
            rows.append(_picture(root, slide, problems, label=folder.name, split=split))
    return rows


def _picture(
    root: Path, slide: ListedSlide, problems: list[str], *, label: str = "", split: str = ""
) -> Picture | None:
    if slide.problem:
        problems.append(slide.problem)
        return None
    return Picture(
        name=slide.path.relative_to(root).as_posix(), file=slide.path, labels=(label,), split=split
    )
