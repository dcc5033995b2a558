"""Cells of labels in; classes or labels by name, and what each picture is of, out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast._tables import as_flag, ordered, shown
from histofast._words import count
from histofast.datasets.images import ImageTask
from histofast.patches import Picture, Pictures

Targets = tuple[ImageTask, tuple[str, ...], NDArray[Any]]


def targets_of(
    pictures: Pictures,
    rows: Sequence[Picture],
    labels: Sequence[str] | None,
    task: ImageTask | None,
) -> Targets:
    """Return the task, the names of its classes and the targets of some pictures.

    Args:
        pictures: that the rows are of.
        rows: each with a label.
        labels: names of the columns of 0 and 1; None: labels are names in one cell.
        task: what is asked for; None: what the cells say.

    Raises:
        ValueError: a cell of a column of 0 and 1 that is neither.
    """
    if labels is not None:
        return "multilabel", tuple(labels), _of_columns(pictures, rows, labels)
    cells = [row.labels[0] for row in rows]
    # A folder is of one class, whatever its name.
    is_list = pictures.table is not None and any(";" in cell for cell in cells)
    if task == "multilabel" or (task is None and is_list):
        return "multilabel", *_of_lists(cells)
    classes = ordered(set(cells))
    number = {name: i for i, name in enumerate(classes)}
    return "classification", classes, np.array([number[cell] for cell in cells], np.int64)


def _of_lists(cells: Sequence[str]) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """Several labels in a cell; one that is not among them is not there."""
    sets = [{part.strip() for part in cell.split(";")} - {""} for cell in cells]
    classes = ordered(set().union(*sets))
    targets = np.array([[float(name in found) for name in classes] for found in sets])
    return classes, targets.reshape(len(cells), len(classes))


def _of_columns(
    pictures: Pictures, rows: Sequence[Picture], labels: Sequence[str]
) -> NDArray[np.float64]:
    targets = np.full((len(rows), len(labels)), np.nan)
    for i, row in enumerate(rows):
        for j, cell in enumerate(row.labels):
            if cell:
                value = as_flag(cell)
                if value is None:
                    raise ValueError(
                        f"{pictures.where(row)}: {labels[j]} must be 0 or 1, got {shown(cell)}"
                    )
                targets[i, j] = value
    return targets


def on_missing(pictures: Pictures, rows: Sequence[Picture], *, labels: Sequence[str]) -> list[str]:
    """Say how many pictures lack a label, and how many a single one of columns of 0 and 1."""
    kept = {row.name for row in rows}
    notes = []
    missing = [row for row in pictures.rows if row.name not in kept]
    if missing:
        first = f", first in line {missing[0].line}" if missing[0].line else ""
        notes.append(f"left out {count(len(missing), 'picture')} without a label{first}")
    for j, name in enumerate(labels):
        unknown = sum(not row.labels[j] for row in rows)
        if unknown:
            notes.append(f"{name} is not known of {count(unknown, 'picture')}")
    return notes
