"""Tables of ready-made patch images in, bags of them out."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from histofast._files import path_of, regular_file
from histofast._tables import Table, header_of, shown
from histofast._words import one_line, text_of
from histofast.errors import SlideError
from histofast.patches.pictures import Picture, Pictures, read_pictures

_FOLDER = "folder"

OddPatches = Literal["error", "skip", "pad", "resize"]


@dataclass(frozen=True, slots=True)
class PatchImages:
    """Ready-made patch images; whoever reads some takes this in the place of their path.

    Attributes:
        path: a table of images (file[, slide, patient, label, x, y, split]), or a folder of classes.
        bag_from: which of them are one bag; see `read_patch_table`.
        odd_patches: what to do with images of other sizes than most of their bag: "error", "skip", "pad" or
            "resize"; see `fit_bag`.

    Raises:
        TypeError: a path or text that is none.
        ValueError: something else is to be done with odd ones.

    Example:
        extract(patches=PatchImages("tiles", bag_from="folder", odd_patches="pad"), out="features")
    """

    path: str | Path
    bag_from: str | None = None
    odd_patches: OddPatches = "error"

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", path_of("patches", self.path))
        if self.bag_from is not None:
            text_of("bag_from", self.bag_from)
        known = get_args(OddPatches)
        if self.odd_patches not in known:
            raise ValueError(
                f"odd_patches must be one of {', '.join(known)}, got {self.odd_patches!r}"
            )

    @classmethod
    def of(cls, patches: str | Path | PatchImages) -> PatchImages:
        """Take a path for images of which nothing else is told."""
        return patches if isinstance(patches, PatchImages) else cls(patches)


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchBag:
    """Ready-made patch images that belong together (a slide's, a patient's).

    Attributes:
        name: of the bag.
        files: (n) image files, squares of one size but for odd ones, see `fit_bag`.
        coords_l0: (n, 2) int64 from the x and y columns; None when the table has none.
        labels: (n) label of each row as text, "" where the table has none.
        split: "train", "valid", ...; "" when the table has none.
        patient: whose they are; "" when the table has no column of patients.
        names: (n) of the images, as the table spells them; () where nobody has told.
        odd_patches: what is done with images of other sizes, where nobody says otherwise.
    """

    name: str
    files: tuple[Path, ...]
    coords_l0: NDArray[np.int64] | None
    labels: tuple[str, ...]
    split: str
    patient: str = ""
    names: tuple[str, ...] = ()
    odd_patches: OddPatches = "error"

    def __len__(self) -> int:
        return len(self.files)

    def take(self, rows: NDArray[np.int64] | Sequence[int]) -> PatchBag:
        """Return the bag of some of its rows."""
        at = [int(row) for row in rows]
        return replace(
            self,
            files=tuple(self.files[i] for i in at),
            coords_l0=None if self.coords_l0 is None else self.coords_l0[at],
            labels=tuple(self.labels[i] for i in at),
            names=tuple(self.names[i] for i in at) if self.names else (),
        )

    @property
    def coords(self) -> NDArray[np.int64]:
        """(n, 2) int64 `coords_l0`, zeros where they are not known."""
        return np.zeros((len(self), 2), np.int64) if self.coords_l0 is None else self.coords_l0

    @property
    def identity(self) -> str:
        """Changes when a file's content, name or label, or the order of the files, does."""
        digest = hashlib.sha256(json.dumps([self.names, self.labels]).encode())
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


def read_patch_table(
    path: str | Path | PatchImages, *, bag_from: str | None = None
) -> list[PatchBag]:
    """Read a CSV of patch images (file[, slide, patient, label, x, y, split]), or a folder of classes.

    `file` is relative to the CSV's folder. Without a column of slides a patient is a bag, without one
    of patients (or in a folder) each picture is. Columns may be called otherwise: see
    `histofast._tables`; folders are read as `read_pictures` says.

    Args:
        path: of the table or folder; or both arguments, and what is done with odd images, as one.
        bag_from: what bags are instead: "folder", the folder that a picture lies in; a regular expression
            with one group, which is looked for in the file's name as the table or folder has it
            (`"(\\d+)_idx"`); or the name of a column, which comes first where the table has one of it.

    Returns:
        The bags in the order of their first row, rows in the table's order.

    Raises:
        FileNotFoundError: no such table.
        TypeError: `bag_from` is no text.
        ValueError: as `read_pictures`; `bag_from` is no expression of one group, or says nothing of a
            picture, or two folders have one name; a missing column or one that is there twice, an empty table or cell, a repeated
            file, a coordinate that is no number or does not fit 64 bits, a bag that is of two
            patients or in two splits.
    """
    images = path if isinstance(path, PatchImages) else PatchImages(path, bag_from=bag_from)
    return pictures_in_bags(images)[1]


def pictures_in_bags(images: PatchImages) -> tuple[Pictures, list[PatchBag]]:
    """As `read_patch_table`, with the pictures that the bags are of."""
    path, bag_from = Path(images.path), images.bag_from
    is_column = bag_from is not None and _is_column(path, bag_from)
    pictures = read_pictures(path, group_column=bag_from if is_column else None)
    grouped: dict[str, list[Picture]] = {}
    if is_column:
        bags = [pictures.group_of(row) for row in pictures.rows]
    else:
        bags = _bags_from(pictures, bag_from)
    for row, bag in zip(pictures.rows, bags, strict=True):
        # A folder that is a bag is no class.
        is_bag = bag_from == _FOLDER and pictures.table is None and row.labels[0] == bag
        grouped.setdefault(bag, []).append(replace(row, labels=("",)) if is_bag else row)
    if bag_from is None and not pictures.has & {"slide", "patient"}:
        _refuse_one_stem(pictures, grouped)
    return pictures, _bags_of(pictures, grouped, images.odd_patches)


def _is_column(path: Path, bag_from: str) -> bool:
    """Tell a column from the word for folders and from an expression: a column of this name comes first."""
    if bag_from != _FOLDER and "(" not in bag_from:
        return True
    named = " ".join(bag_from.split()).casefold()
    return path.is_file() and named in (name.casefold() for name in header_of(path))


def _bags_from(pictures: Pictures, bag_from: str | None) -> list[str]:
    """Return the name of the bag of each picture."""
    if bag_from is None:
        return [row.slide or row.patient or _stem(row.name) for row in pictures.rows]
    if bag_from == _FOLDER:
        return _folders(pictures)
    try:
        pattern = re.compile(bag_from)
    except re.error as error:
        raise ValueError(
            f"bag_from must be a regular expression, got {bag_from!r} ({error})"
        ) from None
    if pattern.groups != 1:
        raise ValueError(
            f"bag_from must have one group, got {pattern.groups} in {bag_from!r}: write (?:...) for others"
        )
    bags = []
    for row in pictures.rows:
        found = pattern.search(row.name)
        if found is None or not found[1]:
            raise ValueError(
                f"{pictures.where(row)} must have bag_from in its name, got {row.name} and {bag_from!r}"
            )
        bags.append(found[1])
    return bags


def _folders(pictures: Pictures) -> list[str]:
    bags: dict[str, PurePosixPath] = {}
    folders = [PurePosixPath(row.name.replace("\\", "/")).parent for row in pictures.rows]
    for row, folder in zip(pictures.rows, folders, strict=True):
        if folder.name in ("", ".."):
            raise ValueError(
                f"{pictures.where(row)} must lie in a folder, which is its bag, got {row.name}"
            )
        first = bags.setdefault(folder.name, folder)
        if first != folder:
            raise ValueError(
                f"{pictures.path} must have folders of different names where they are bags, got {first} "
                f"and {folder}: rename one, or give an expression as bag_from"
            )
    return [folder.name for folder in folders]


def _bags_of(
    pictures: Pictures, grouped: Mapping[str, Sequence[Picture]], odd_patches: OddPatches
) -> list[PatchBag]:
    bags = []
    for name, members in grouped.items():
        coords = None
        if members[0].xy is not None:
            coords = np.array([_whole_xy(pictures, row) for row in members], np.int64)
        bags.append(
            PatchBag(
                name=name,
                files=tuple(row.file for row in members),
                coords_l0=coords,
                labels=tuple(row.labels[0] for row in members),
                names=tuple(row.name for row in members),
                split=_of_bag(pictures, name, "in one split", {row.split for row in members}),
                patient=_of_bag(pictures, name, "of one patient", {row.patient for row in members}),
                odd_patches=odd_patches,
            )
        )
    return bags


def _stem(name: str) -> str:
    return PurePosixPath(name.replace("\\", "/")).stem


def _refuse_one_stem(pictures: Pictures, grouped: Mapping[str, Sequence[Picture]]) -> None:
    for members in grouped.values():
        if len(members) > 1:
            raise ValueError(
                f"{pictures.where(members[1])} must have a file name of its own where pictures are "
                f"bags, got {members[1].name} beside {members[0].name}: rename one, or give a table "
                "with a column slide"
            )


def _of_bag(pictures: Pictures, name: str, wanted: str, found: set[str]) -> str:
    """Return what all rows of a bag say."""
    if len(found) > 1:
        raise ValueError(
            f"{pictures.path}: bag {name} must be {wanted}, got {', '.join(sorted(found))}"
        )
    return found.pop()


def _whole_xy(pictures: Pictures, row: Picture) -> list[int]:
    assert pictures.table is not None
    assert row.xy is not None
    return [
        _whole(pictures.table, row.line, axis, cell)
        for axis, cell in zip("xy", row.xy, strict=True)
    ]


def _whole(table: Table, line: int, axis: str, cell: str) -> int:
    number = table.number(line, axis, cell)
    value = int(cell) if cell.lstrip("+-").isdecimal() else round(number)
    if not -(2**63) <= value < 2**63:
        raise ValueError(
            f"{table.path}, line {line}: {axis} must be a level-0 pixel below 2**63, "
            f"got {shown(cell)}"
        )
    return value
