"""A folder of pictures in, a row for each out: where they lie says which class and split they are of."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from histofast._tables import alike, is_missing, is_table
from histofast._words import counted, listed, one_line, printable

PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff"})
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
_NAMED = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """A picture in a folder.

    Attributes:
        name: its path within the folder, with slashes.
        file: where it lies.
        label: name of the folder of its class, "" where there is none.
        split: name of the folder of its split, "" where there is none.
    """

    name: str
    file: Path
    label: str = ""
    split: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What is in a folder.

    Attributes:
        pictures: sorted by name.
        others: names of what is no picture.
        problems: by name, why something that may be one, or hold some, is left out.
    """

    pictures: tuple[Placed, ...]
    others: tuple[str, ...]
    problems: Mapping[str, str]

    @property
    def notes(self) -> tuple[str, ...]:
        """Say what was left out, a line each."""
        told = []
        if self.others:
            told.append(f"left out what is no PNG, JPEG or TIFF: {counted(self.others)}")
        if self.problems:
            told.append(f"left out {listed(list(self.problems.values()), most=_NAMED)}")
        return tuple(told)


def pictures_in(folder: Path, *, labelled: bool) -> Found:
    """Find the pictures in a folder and below it, sorted by name.

    The first folder on the way to a picture is its class; or the first its split (train, val, test)
    and the second its class; or the other way round, where all of them are so.

    Args:
        folder: to look into.
        labelled: False: pictures beside the folders of classes are no mistake, but then none has one.

    Raises:
        ValueError: a folder that cannot be looked into or without pictures; pictures beside folders
            of them; a class that no table could name; two classes that differ in case only or are one number; a table
            beside a single class.
    """
    search = _Search(folder)
    names = sorted(search.pictures())
    if not names:
        raise ValueError(
            f"{folder} must have pictures (PNG, JPEG or TIFF) in a folder for each class, got none"
            f"{table_meant(folder)}"
        )
    placed = _placed(folder, names, labelled=labelled)
    if labelled:
        _refuse_classes(folder, placed)
    return Found(
        pictures=tuple(placed), others=tuple(sorted(search.others)), problems=search.problems
    )


def table_meant(folder: Path) -> str:
    """Return the end of a message on a folder without classes: the tables in it, if there are any."""
    tables = [
        str(inner)
        for inner in sorted(folder.iterdir())
        if is_table(inner) and not inner.name.startswith(".")
    ]
    return f": was the table meant, {listed(tables)}?" if tables else ""


class _Search:
    """Looks for pictures, and keeps what it left out."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.others: list[str] = []
        self.problems: dict[str, str] = {}

    def pictures(self) -> Iterator[str]:
        """Yield the names of the pictures; a folder that links lead to as well is looked into once."""
        seen: dict[tuple[int, int], str] = {}
        left, links = [""], list[str]()
        while left or links:
            inside = left.pop() if left else links.pop(0)
            folder = self._root / inside
            try:
                status = folder.stat()
                with os.scandir(folder) as found:
                    entries = sorted(found, key=lambda entry: entry.name)
            except OSError as error:
                if not inside:
                    raise ValueError(f"cannot look into {one_line(error)}") from error
                self.problems[inside] = f"cannot look into {one_line(error)}"
                continue
            first = seen.setdefault((status.st_dev, status.st_ino), inside)
            if first != inside:
                self.problems[inside] = f"{inside} is a link to {first or self._root}"
                continue
            for entry in entries:
                name = f"{inside}/{entry.name}" if inside else entry.name
                if entry.name.startswith("."):
                    self.others.append(name)
                elif _is(entry.is_dir):
                    (links if entry.is_symlink() else left).append(name)
                elif self._is_picture(entry, name):
                    yield name

    def _is_picture(self, entry: os.DirEntry[str], name: str) -> bool:
        if PurePosixPath(entry.name).suffix.lower() not in PICTURE_SUFFIXES:
            self.others.append(name)
        elif printable(name) != name:  # no table could hold it
            self.problems[printable(name)] = (
                f"{printable(name)} must have a name of printable UTF-8: rename it"
            )
        elif not _is(entry.is_file):
            self.problems[name] = f"{name} is no file that can be read"
        else:
            return True
        return False


def _is(kind: Callable[[], bool]) -> bool:
    """What is there; links in a circle are nothing."""
    try:
        return kind()
    except OSError:
        return False


def _placed(folder: Path, names: Sequence[str], *, labelled: bool) -> list[Placed]:
    """Say of each picture which folder is its class and which its split."""
    ways = [name.split("/")[:-1] for name in names]
    split_first = all(way and way[0].casefold() in SPLIT_NAMES for way in ways)
    class_first = all(len(way) > 1 and way[1].casefold() in SPLIT_NAMES for way in ways)
    if split_first:
        splits, classes = [way[0] for way in ways], [way[1:] for way in ways]
    elif class_first:
        splits, classes = [way[1] for way in ways], ways
    else:
        splits, classes = ["" for _ in ways], ways
    beside = [name for name, way in zip(names, classes, strict=True) if not way]
    if beside and labelled and len(beside) < len(names):
        raise ValueError(
            f"{folder} must have pictures within the folders of their classes, got "
            f"{counted(beside)} beside them: move them, or remove them"
        )
    return [
        Placed(name=name, file=folder / name, label="" if beside else way[0], split=split)
        for name, way, split in zip(names, classes, splits, strict=True)
    ]


def _refuse_classes(folder: Path, placed: Sequence[Placed]) -> None:
    labels = sorted({picture.label for picture in placed} - {""})
    if len(labels) == 1 and (meant := table_meant(folder)):
        raise ValueError(f"{folder} must have a folder for each class, got only {labels[0]}{meant}")
    if (two := alike(labels)) is not None:
        raise ValueError(
            f"{folder} must have classes of different names, got {two}: join them, or rename one"
        )
    for label in labels:
        if is_missing(label):
            raise ValueError(
                f"{folder} must have folders named by their classes, got {label}, which tables read "
                "as no label: rename it"
            )
