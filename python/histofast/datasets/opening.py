"""A table or a folder of pictures in, `Images` out; what no training could use is refused here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast._files import path_of
from histofast._tables import shown
from histofast._words import count, counted, listed
from histofast.datasets.images import GroupKind, Images, ImageTask
from histofast.patches import SPLIT_NAMES, Picture, Pictures, read_pictures, table_meant

_WHOLE = re.compile(r"[+-]?\d{1,300}")
_YES, _NO = {"1", "1.0", "true", "yes"}, {"0", "0.0", "false", "no"}


def open_images(
    path: str | Path,
    *,
    labels: Sequence[str] | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    labelled: bool = True,
) -> Images:
    """Open a labelled set: a folder with a folder for each class, or a CSV.

    `file, label[, patient | slide | group, split, mpp]`, names of columns in any case and spelling;
    files lie relative to the table. Groups are what `group_column` says, else the column group, else
    patients, else slides, else the pictures themselves. A picture with several labels has them in one cell,
    divided by ";", or in columns of 0 and 1. A label that is empty, or `NA` and the like, is missing:
    the picture is left out and counted; of columns of 0 and 1, that label of it is not known.

    Args:
        path: of the table; of a folder of classes, or of train, val and test with classes in them; of
            a folder that `standardise` made.
        labels: names of the columns of 0 and 1.
        label_column: where labels are, if not in a column label.
        group_column: what tells groups.
        labelled: False: pictures that are only predicted; labels that there are, are read.

    Raises:
        FileNotFoundError: no such table or folder.
        ValueError: as `read_pictures`; no labels, one class only, a class of one group (it cannot
            train and be tested), two labels of one picture, a split that divides a group, a split
            that has no name, pictures that are not there.
    """
    path = path_of("path", path)
    if labels is not None and label_column is not None:
        raise ValueError("label_column must be left out where labels names columns of 0 and 1")
    columns = tuple(labels or (() if label_column is None else (label_column,)))
    pictures = read_pictures(path, label_columns=columns, group_column=group_column)
    _refuse_absent(pictures)
    if "label" not in pictures.has:
        if labelled:
            raise _unlabelled(pictures, path)
        return _made(pictures, pictures.rows, "classification", (), np.zeros(0, np.int64), [])
    rows = [row for row in pictures.rows if any(row.labels)]
    notes = _on_missing(pictures, rows)
    if not rows:
        raise ValueError(
            f"{pictures.path} must have labels, got none in {count(len(pictures.rows), 'row')}"
        )
    if labels is not None:
        images = _made(
            pictures, rows, "multilabel", tuple(labels), _of_columns(pictures, rows, labels), notes
        )
    elif any(";" in row.labels[0] for row in rows):
        classes, targets = _of_lists(rows)
        images = _made(pictures, rows, "multilabel", classes, targets, notes)
    else:
        classes, numbers = _of_cells(rows)
        images = _made(pictures, rows, "classification", classes, numbers, notes)
    _refuse_same_file(pictures, rows)
    if labelled:
        _refuse_untrainable(images)
    return images


def _unlabelled(pictures: Pictures, path: Path) -> ValueError:
    if pictures.table is None:
        meant = table_meant(path) or ": make one for each class"
        return ValueError(f"{path} must have a folder for each class, got pictures only{meant}")
    return ValueError(
        f"{pictures.path} must have a column label, got {pictures.table.header_shown}: "
        "name it with label_column, or columns of 0 and 1 with labels"
    )


def _made(
    pictures: Pictures,
    rows: Sequence[Picture],
    task: ImageTask,
    classes: tuple[str, ...],
    targets: NDArray[Any],
    notes: list[str],
) -> Images:
    kinds: tuple[GroupKind, ...] = ("group", "patient", "slide")
    kind: GroupKind = next((k for k in kinds if k in pictures.has), "image")
    if kind == "image" and classes:
        notes = [
            *notes,
            (
                "neither patients nor slides are told: pictures count as groups, and pictures of one "
                "patient may be on both sides of a split"
            ),
        ]
    groups = [row.name if kind == "image" else getattr(row, kind) for row in rows]
    images = Images(
        path=pictures.path,
        names=tuple(row.name for row in rows),
        files=tuple(row.file for row in rows),
        task=task,
        classes=classes,
        targets=targets,
        groups=tuple(groups),
        group_kind=kind,
        splits=_splits(pictures, rows),
        mpp=tuple(row.mpp for row in rows),
        notes=(*notes, *pictures.problems),
    )
    _refuse_leaks(images)
    return images


# --- Targets -----------------------------------------------------------------------------------


def _of_cells(rows: Sequence[Picture]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    classes = _ordered({row.labels[0] for row in rows})
    number = {name: i for i, name in enumerate(classes)}
    return classes, np.array([number[row.labels[0]] for row in rows], np.int64)


def _of_lists(rows: Sequence[Picture]) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """Several labels in a cell; one that is not among them is not there."""
    sets = [{part.strip() for part in row.labels[0].split(";")} - {""} for row in rows]
    classes = _ordered(set().union(*sets))
    return classes, np.array([[float(name in found) for name in classes] for found in sets])


def _of_columns(
    pictures: Pictures, rows: Sequence[Picture], labels: Sequence[str]
) -> NDArray[np.float64]:
    values = {"": np.nan, **dict.fromkeys(_YES, 1.0), **dict.fromkeys(_NO, 0.0)}
    targets = np.empty((len(rows), len(labels)))
    for i, row in enumerate(rows):
        for j, (name, cell) in enumerate(zip(labels, row.labels, strict=True)):
            if cell.casefold() not in values:
                raise ValueError(f"{pictures.where(row)}: {name} must be 0 or 1, got {shown(cell)}")
            targets[i, j] = values[cell.casefold()]
    return targets


def _ordered(names: set[str]) -> tuple[str, ...]:
    ordered = sorted(names)
    if all(_WHOLE.fullmatch(name) for name in ordered):
        ordered.sort(key=int)
    return tuple(ordered)


def _on_missing(pictures: Pictures, rows: Sequence[Picture]) -> list[str]:
    kept = {row.name for row in rows}
    missing = [row for row in pictures.rows if row.name not in kept]
    if not missing:
        return []
    first = f", first in line {missing[0].line}" if missing[0].line else ""
    return [f"left out {count(len(missing), 'picture')} without a label{first}"]


# --- Groups and splits -------------------------------------------------------------------------


def _splits(pictures: Pictures, rows: Sequence[Picture]) -> tuple[str, ...]:
    found = []
    for row in rows:
        if row.split and row.split.casefold() not in SPLIT_NAMES:
            raise ValueError(
                f"{pictures.where(row)}: split must be train, val or test, got {shown(row.split)}"
            )
        found.append(SPLIT_NAMES[row.split.casefold()] if row.split else "")
    return tuple(found)


def _refuse_leaks(images: Images) -> None:
    splits_of: dict[str, set[str]] = {}
    for group, split in zip(images.groups, images.splits, strict=True):
        splits_of.setdefault(group, set()).add(split)
    leaking = sorted(group for group, splits in splits_of.items() if len(splits) > 1)
    if leaking:
        raise ValueError(
            f"{images.path} must have each {images.group_kind} in one split, got several for "
            f"{counted(leaking)}: remove the column split, or deal groups anew"
        )


def _refuse_untrainable(images: Images) -> None:
    if images.task == "multilabel":
        return
    if len(images.classes) < 2:
        raise ValueError(
            f"{images.path} must have at least two classes, got only {images.classes[0]} of "
            f"{count(len(images), 'picture')}"
        )
    groups_of: list[set[str]] = [set() for _ in images.classes]
    for group, target in zip(images.groups, images.targets, strict=True):
        groups_of[target].add(group)
    single = [
        name for name, groups in zip(images.classes, groups_of, strict=True) if len(groups) == 1
    ]
    if single:
        raise ValueError(
            f"{images.path} must have two {images.group_kind}s or more of every class, got one of "
            f"{listed(single)}: it cannot train and be tested; remove the class, or tell groups with "
            "group_column"
        )


# --- Files -------------------------------------------------------------------------------------


def _refuse_absent(pictures: Pictures) -> None:
    if pictures.table is None:  # they were seen
        return
    absent = [row.name for row in pictures.rows if not row.file.exists()]
    if absent:
        raise ValueError(
            f"{pictures.path} must name pictures that are there, got {counted(absent)} that are not: "
            f"their paths are read relative to {pictures.path.parent}"
        )


def _refuse_same_file(pictures: Pictures, rows: Sequence[Picture]) -> None:
    seen: dict[Path, Picture] = {}
    for row in rows:
        first = seen.setdefault(row.file.resolve(), row)
        if first is not row and first.labels != row.labels:
            raise ValueError(
                f"{pictures.where(row)} must have one label, got another for the same file as "
                f"{first.name}"
            )
