"""A table or a folder of pictures in, `Images` out; what no training could use is refused."""

from __future__ import annotations

import filecmp
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from histofast._files import path_of, regular_file
from histofast._notes import noted
from histofast._tables import shown
from histofast._words import count, counted, listed, text_of
from histofast.datasets.checking import refuse_leaks, refuse_untrainable
from histofast.datasets.images import Images, ImageTask
from histofast.datasets.targets import Targets, on_missing, targets_of
from histofast.learning import read_json
from histofast.patches import (
    SPLIT_NAMES,
    STANDARDISED,
    GroupKind,
    Picture,
    Pictures,
    read_pictures,
    table_meant,
)


@noted
def open_images(
    path: str | Path,
    *,
    labels: Sequence[str] | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    task: ImageTask | None = None,
    labelled: bool = True,
) -> Images:
    """Open a labelled set: a folder with a folder for each class, or a CSV.

    `file, label[, patient | slide | group, split, mpp]`, names of columns in any case and spelling;
    files lie relative to the table. Groups are what `group_column` says, else the column group, else
    patients, else slides, else the pictures themselves. A picture with several labels has them in one
    cell, divided by ";", or in columns of 0 and 1. A label that is empty, or `NA` and the like, is
    missing: the picture is left out and counted; of columns of 0 and 1, that label of it is not known.

    Args:
        path: of the table; of a folder of classes, or of train, val and test with classes in them; of
            a folder that `dataset standardise` made.
        labels: names of the columns of 0 and 1.
        label_column: where labels are, if not in a column label.
        group_column: what tells groups.
        task: "classification": a label is one class, whatever signs are in it; "multilabel": several,
            divided by ";". None: multilabel if a label has a ";".
        labelled: False: for pictures that are only predicted. Their labels are there if each of them
            has one, and nothing is refused for what training needs.

    Raises:
        TypeError: a name of a column that is no text.
        ValueError: arguments that exclude each other; as `read_pictures`; pictures that are not
            there; one file twice; no labels, one class only, classes that differ in case only, a class
            of one group (it cannot train and be tested) or without pictures to train; a split that
            has no name, or that some pictures lack, or that divides a group.
        FileNotFoundError: no such table or folder.
        ModelError: `dataset.json` of a standardised folder was changed.
    """
    path = path_of("path", path)
    labels = _checked(labels, label_column, task)
    told = _told_by(path)
    if told.task == "multilabel" and labels is None and label_column is None:
        labels = told.classes
    columns = labels or (() if label_column is None else (label_column,))
    pictures = read_pictures(
        path, label_columns=columns, group_column=group_column, labelled=labelled
    )
    rows = _labelled_rows(pictures) if labelled else list(pictures.rows)
    _refuse_files(pictures, rows)
    found: Targets = (task or told.task or "classification", (), np.zeros(0, np.int64))
    if "label" in pictures.has and all(any(row.labels) for row in rows):
        found = targets_of(pictures, rows, labels, task or told.task)
    kind = told.group_kind if told.group_kind and group_column is None else pictures.group_kind
    notes = [*on_missing(pictures, rows, labels=labels or ()), *pictures.notes]
    notes += [*told.notes, *(_on_groups(kind) if labelled else ())]
    images = Images(
        path=pictures.path,
        names=tuple(row.name for row in rows),
        files=tuple(row.file for row in rows),
        task=found[0],
        classes=found[1],
        targets=found[2],
        groups=tuple(pictures.group_of(row) for row in rows),
        group_kind=kind,
        splits=tuple(_split(pictures, row) for row in rows),
        mpp=tuple(row.mpp for row in rows),
        notes=tuple(dict.fromkeys(notes)),
    )
    if labelled:
        refuse_leaks(images)
        refuse_untrainable(images)
    return images


@dataclass(frozen=True, kw_only=True, slots=True)
class _Told:
    """What a standardised folder says of its table."""

    task: ImageTask | None = None
    classes: tuple[str, ...] = ()
    group_kind: GroupKind | None = None
    notes: tuple[str, ...] = ()


def _told_by(path: Path) -> _Told:
    if not all((path / name).is_file() for name in STANDARDISED):
        return _Told()
    told = read_json(path / STANDARDISED[0], remedy="standardise the set again")
    keys = ("task", "group_kind", "classes", "notes")
    task, kind, classes, notes = (told.get(key) for key in keys)
    return _Told(
        task=task if task in get_args(ImageTask) else None,
        classes=tuple(map(str, classes)) if isinstance(classes, list) else (),
        group_kind=kind if kind in get_args(GroupKind) else None,
        notes=tuple(map(str, notes)) if isinstance(notes, list) else (),
    )


def _checked(
    labels: Sequence[str] | None, label_column: str | None, task: ImageTask | None
) -> tuple[str, ...] | None:
    if task is not None and task not in get_args(ImageTask):
        raise ValueError(f"task must be one of {', '.join(get_args(ImageTask))}, got {task!r}")
    if labels is None:
        return None
    if isinstance(labels, str):
        raise TypeError(f"labels must be names of columns, got one text, {labels!r}")
    names = tuple(text_of("labels", name) for name in labels)
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"labels must be different names of columns, got {listed(names) or 'none'}"
        )
    if label_column is not None:
        raise ValueError("label_column must be left out where labels names columns of 0 and 1")
    if task == "classification":
        raise ValueError("task must be multilabel where labels names columns of 0 and 1")
    return names


def _labelled_rows(pictures: Pictures) -> list[Picture]:
    """Return the pictures that have a label."""
    path = pictures.path
    if "label" not in pictures.has:
        if pictures.table is None:
            raise ValueError(
                f"{path} must have a folder for each class, got pictures only"
                f"{table_meant(path) or ': make one for each class'}"
            )
        raise ValueError(
            f"{path} must have a column label, got {pictures.table.header_shown}: "
            "name it with label_column, or columns of 0 and 1 with labels=..."
        )
    rows = [row for row in pictures.rows if any(row.labels)]
    if not rows:
        raise ValueError(f"{path} must have labels, got none in {count(len(pictures.rows), 'row')}")
    return rows


def _split(pictures: Pictures, row: Picture) -> str:
    if row.split and row.split.casefold() not in SPLIT_NAMES:
        raise ValueError(
            f"{pictures.where(row)}: split must be train, val or test, got {shown(row.split)}"
        )
    return SPLIT_NAMES[row.split.casefold()] if row.split else ""


def _on_groups(kind: GroupKind) -> list[str]:
    note = (
        "neither patients nor slides are told: pictures count as groups, and pictures of one patient "
        "may be on both sides of a split"
    )
    return [note] if kind == "image" else []


def _refuse_files(pictures: Pictures, rows: Sequence[Picture]) -> None:
    """Refuse pictures that are not there, and files that are there twice, under any name."""
    absent: list[str] = []
    seen: dict[tuple[int, int], Picture] = {}
    for row in rows:
        try:
            status = row.file.stat()
        except (OSError, ValueError):  # a name too long, or with a NUL, is not there either
            absent.append(row.name)
            continue
        try:
            regular_file(row.file, kind="picture")
        except ValueError as error:
            raise ValueError(
                f"{pictures.where(row)}: {error}: replace it, or remove the line"
            ) from None
        first = seen.setdefault((status.st_dev, status.st_ino), row)
        if first is not row and _is_same(first.file, row.file):
            what = "with one label" if first.labels != row.labels else "once"
            raise ValueError(
                f"{pictures.where(row)}: {row.name} must be there {what}, got the same file as "
                f"{first.name}{_label_of(first)}: remove one"
            )
    if absent:
        raise ValueError(
            f"{pictures.path} must name pictures that are there, got {counted(absent)} that are not: "
            f"their paths are relative to {pictures.path.parent}"
        )


def _is_same(one: Path, other: Path) -> bool:
    """Whether two files of one number are one; some file systems give a number to several."""
    return one.resolve() == other.resolve() or filecmp.cmp(one, other, shallow=False)


def _label_of(row: Picture) -> str:
    label = ", ".join(filter(None, row.labels))
    return f" of {label}" if label else ""
