"""A table of labels and names of slides in, their targets, patients and splits out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from histofast._files import path_of
from histofast._notes import noted
from histofast._tables import (
    Table,
    alike,
    as_flag,
    as_number,
    is_missing,
    number_remedy,
    ordered,
    read_table,
    shown,
)
from histofast._words import counted, did_you_mean, listed
from histofast.learning.matching import matched, zeros_lost
from histofast.learning.weighted import Task
from histofast.patches import SPLIT_NAMES

Missing = Literal["error", "skip"]

NAMED = 20  # slides that are left out, in a note


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Labels:
    """What a table says of slides.

    Attributes:
        names: (b) of the slides, each once, sorted.
        targets: (b,) int64 class, (b,) float64 value, or (b, 2) float64 time and event.
        classes: names of the classes in the order of their numbers; () for other tasks.
        patients: (b) patient of each slide, "" where not known.
        splits: (b) "train", "validation" or "test", "" where not given.
        notes: what was left out or is unusual, one line each.
    """

    names: tuple[str, ...]
    targets: NDArray[Any]
    classes: tuple[str, ...]
    patients: tuple[str, ...]
    splits: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LabelsOfPatients:
    """Two tables, labels of patients and whose each slide is; stands wherever one table of labels does.

    STAMP keeps labels so, in its clinical and its slide table.

    Attributes:
        labels: patient, label (or time and event), a row for each patient.
        slides: patient, slide (or file, filename ...), a row for each slide.

    Example:
        train("features", LabelsOfPatients("clini.csv", "slide.csv"), label_column="isMSIH", out="run")
    """

    labels: str | Path
    slides: str | Path

    def __post_init__(self) -> None:
        for name in ("labels", "slides"):
            object.__setattr__(self, name, path_of(name, getattr(self, name)))

    def __str__(self) -> str:
        """As messages name it."""
        return str(self.labels)


@noted
def read_labels(
    path: str | Path | LabelsOfPatients,
    names: Iterable[str],
    *,
    task: Task = "classification",
    missing: Missing = "error",
    label_column: str = "label",
    classes: Sequence[str] | None = None,
    without: Collection[str] = (),
) -> Labels:
    """Read the labels of some slides from a CSV table.

    `slide` (or wsi, slide_id, bag, file ...; else the first column) holds names with or without folder
    and suffix; `label`, or `time` and `event`; `patient` (or patient_id, case_id, submitter_id ...)
    and `split` (train, val, test) if known. Names of columns are read in any case and spelling. A
    table with patients and no slides has one bag for each patient. Names are matched with and without
    the suffix of a slide, which either side may have, where only one slide can be meant. A slide whose
    label is empty, or `NA` and the like, is left out, whatever `missing` says: the table tells that it
    has none.

    Args:
        path: the table, or two.
        names: of the slides that there are.
        task: "classification" (labels are names of classes, ordered as numbers if all are
            numbers), "regression" (numbers) or "survival" (time > 0 and event 0 or 1, false or true).
        missing: what to do about labels of other slides and slides without labels.
        label_column: where the labels of classification and regression are.
        classes: of classification, where they are known, in the order of their numbers; the table need not
            have all of them. None: those of the table, two or more.
        without: names among these that have no patch, and are left out for it.

    Returns:
        Those of the slides that both have. `notes` says what was left out, and that slides count as
        patients where there is no column of patients.

    Raises:
        FileNotFoundError: no such table.
        ValueError: an unknown option; a table without the columns, with two columns for one thing,
            with a slide twice, a slide or patient without a name, an unusable cell, a class that is none of
            `classes`, one class or no event only, two classes that differ in case only or are one number;
            slides that do not match (see `missing`).
    """
    slides_of = path.slides if isinstance(path, LabelsOfPatients) else None
    path = path_of("path", path.labels if isinstance(path, LabelsOfPatients) else path)
    for option, value, wanted in (
        ("task", task, tuple(t for t in get_args(Task) if t != "multilabel")),
        ("missing", missing, get_args(Missing)),
    ):
        if value not in wanted:
            raise ValueError(f"{option} must be one of {', '.join(wanted)}, got {value!r}")
    columns = ("time", "event") if task == "survival" else (label_column,)
    table = read_table(path, named=columns)
    told, notes_on_slides = _read_rows(table, columns), list[str]()
    if slides_of is not None:
        told, notes_on_slides = _by_slide(table, told, read_table(Path(slides_of)))
    rows, notes = _match(path, told, set(names), missing)
    notes += notes_on_slides or _notes_on_patients(table)
    unlabelled = {name: rows.pop(name) for name, row in list(rows.items()) if row.is_unlabelled}
    notes += _notes_on_unlabelled(unlabelled)
    if not rows:
        raise ValueError(f"{path} must have labels of the features' slides, got none of any")
    left_out = {name: rows.pop(name) for name in without if name in rows}
    notes += _notes_on_left_out(left_out, rows, task=task)
    targets: NDArray[Any]
    named: tuple[str, ...] = ()
    if task == "classification":
        targets, named = _classes(path, columns[0], rows, known=classes)
        notes += _two_faced(rows)
    elif task == "regression":
        targets = _numbers(path, columns[0], rows, 0, separator=table.separator)
    else:
        targets = _times(path, rows, separator=table.separator)
    return Labels(
        names=tuple(rows),
        targets=targets,
        classes=named,
        patients=tuple(row.patient for row in rows.values()),
        splits=tuple(row.split for row in rows.values()),
        notes=tuple(notes),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    name: str
    cells: tuple[str, ...]
    line: int
    patient: str
    split: str

    @property
    def is_unlabelled(self) -> bool:
        return any(map(is_missing, self.cells))


def _read_rows(table: Table, columns: Sequence[str]) -> list[_Row]:
    wanted = [table.named(column) for column in columns]
    lacking = [column for column, name in zip(columns, wanted, strict=True) if name is None]
    if lacking:
        remedy = (
            ": name it so in the header" if "time" in columns else ": name it with label_column"
        )
        raise ValueError(
            f"{table.path} must have a column {' and a column '.join(lacking)}, "
            f"got {table.header_shown}{remedy}"
        )
    cells = [name for name in wanted if name is not None]
    patient, split_column = table.column("patient"), table.column("split")
    slide = _slide_column(table, {*cells, split_column, patient})
    rows = []
    for line, row in table.lines():
        # A slide whose patient is not known could be on both sides of a fold.
        for column in (slide, patient):
            if column is not None:
                table.told(line, column, row[column])
        split = ""
        cells_of = tuple(row[name] for name in cells)
        if split_column and not any(map(is_missing, cells_of)):
            if row[split_column].casefold() not in SPLIT_NAMES:
                raise ValueError(
                    f"{table.path}, line {line}: split must be train, val or test, "
                    f"got {shown(row[split_column])}"
                )
            split = SPLIT_NAMES[row[split_column].casefold()]
        rows.append(
            _Row(
                name=row[slide],
                cells=cells_of,
                line=line,
                patient=row[patient] if patient else "",
                split=split,
            )
        )
    return rows


def _by_slide(table: Table, rows: Sequence[_Row], slides: Table) -> tuple[list[_Row], list[str]]:
    """Return the labels of patients as rows of their slides, and what is to be noted of the tables."""
    table.needed("patient")
    twice = [name for name, n in Counter(row.patient for row in rows).items() if n > 1]
    if twice:
        raise ValueError(
            f"{table.path} must name each patient once where another table tells their slides, got "
            f"several rows for {counted(twice)}"
        )
    of = {row.patient: row for row in rows}
    name, patient = slides.needed("file", "slide"), slides.needed("patient")
    found, strangers = [], []
    for line, cells in slides.lines():
        slide = slides.told(line, name, cells[name])
        row = of.get(slides.told(line, patient, cells[patient]))
        if row is None:
            strangers.append(slide)
        else:
            found.append(replace(row, name=slide))
    if not found:
        raise ValueError(
            f"{slides.path} must name slides of the patients in {table.path}, got none of "
            f"{counted(list(of))}"
        )
    without = sorted(of.keys() - {row.patient for row in found})
    told = [
        ("patients without a slide", without),
        ("slides of patients without a label", strangers),
    ]
    return found, [f"{what}: {counted(each, most=NAMED)}" for what, each in told if each]


def _slide_column(table: Table, others: set[str | None]) -> str:
    """Return the column of slides: by its name, else the first one, else that of patients."""
    found = table.column("slide") or table.column("file")
    if found is None and table.header[0] and table.header[0] not in others:
        found = table.named(table.header[0])
    return found or table.needed("slide", "patient")


def _notes_on_patients(table: Table) -> list[str]:
    if table.column("patient"):
        return []
    notes = ["no column of patients: slides count as patients"]
    if strange := table.unread_patients():
        notes.append(
            f"columns that may be patients and are not read: {listed(strange, most=NAMED)}: "
            "call the right one patient"
        )
    return notes


def _notes_on_unlabelled(rows: Mapping[str, _Row]) -> list[str]:
    if not rows:
        return []
    first = min(row.line for row in rows.values())
    return [
        f"left out slides without a label: {counted(sorted(rows), most=NAMED)}, first in line {first}"
    ]


def _notes_on_left_out(
    left_out: Mapping[str, _Row], rows: Mapping[str, _Row], *, task: Task
) -> list[str]:
    """Say which slides have no patch, and which patients and classes no other slide."""
    if not left_out:
        return []
    lost = {"patients": {row.patient for row in left_out.values()} - {""}}
    lost["patients"] -= {row.patient for row in rows.values()}
    if task == "classification":
        lost["classes"] = {row.cells[0] for row in left_out.values()}
        lost["classes"] -= {row.cells[0] for row in rows.values()}
    return [
        f"left out slides without a patch: {counted(sorted(left_out), most=NAMED)}",
        *(
            f"left out {what} without another slide: {counted(sorted(names), most=NAMED)}"
            for what, names in lost.items()
            if names
        ),
    ]


def _match(
    path: Path, rows: Sequence[_Row], stems: set[str], missing: Missing
) -> tuple[dict[str, _Row], list[str]]:
    """Return the rows that have features by the name of the slide, sorted, and what was skipped."""
    keys = matched([row.name for row in rows], stems)
    twice = [key for key, n in Counter(keys).items() if n > 1]
    if twice:
        raise ValueError(f"{path} must name each slide once, got several rows for {counted(twice)}")
    found = dict(sorted((k, row) for k, row in zip(keys, rows, strict=True) if k in stems))
    if not found:
        remedy = zeros_lost(keys, stems)
        raise ValueError(
            f"{path} and features must be of the same slides, got no common name: labels of "
            f"{counted([row.name for row in rows])}, features of {counted(sorted(stems))}"
            f"{remedy and f': {remedy}'}"
        )
    # A row without a label says of a slide without features nothing that is lost.
    unseen = [
        key
        for key, row in zip(keys, rows, strict=True)
        if key not in stems and not row.is_unlabelled
    ]
    notes = []
    for what, names in (
        ("labels without features", unseen),
        ("features without labels", sorted(stems - found.keys())),
    ):
        if names:
            notes.append(f"{what}: {counted(names)}")
    if notes and missing == "error":
        remedy = zeros_lost(unseen, stems - found.keys())
        raise ValueError(
            f"{path} and features must be of the same slides, got {'; '.join(notes)}: "
            f'{remedy and f"{remedy}, or "}leave them out with missing="skip"'
        )
    return found, [f"left out {note}" for note in notes]


def _classes(
    path: Path, column: str, rows: Mapping[str, _Row], *, known: Sequence[str] | None
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    classes = tuple(known) if known is not None else _named(path, column, rows)
    number = {name: i for i, name in enumerate(classes)}
    for row in rows.values():
        if row.cells[0] not in number:
            raise ValueError(
                f"{path}, line {row.line}: {column} must be one of {', '.join(classes)}, got "
                f"{shown(row.cells[0])}{did_you_mean(row.cells[0], classes)}"
            )
    targets = [number[row.cells[0]] for row in rows.values()]
    return np.array(targets, np.int64), classes


def _named(path: Path, column: str, rows: Mapping[str, _Row]) -> tuple[str, ...]:
    """Return the classes that rows name, in their order."""
    found = ordered(row.cells[0] for row in rows.values())
    if len(found) < 2:
        raise ValueError(
            f"{column} of {path} must have at least two classes, "
            f"got only {found[0]} in {len(rows)} bags"
        )
    if (two := alike(found)) is not None:
        raise ValueError(
            f"{column} of {path} must have classes of different names, got {two}: "
            "write them in one way"
        )
    return found


def _two_faced(rows: Mapping[str, _Row]) -> list[str]:
    """A note on patients whose slides are in several classes."""
    seen: dict[str, set[str]] = {}
    for row in rows.values():
        if row.patient:
            seen.setdefault(row.patient, set()).add(row.cells[0])
    several = sorted(patient for patient, classes in seen.items() if len(classes) > 1)
    return [f"patients with slides in several classes: {counted(several)}"] if several else []


def _numbers(
    path: Path, column: str, rows: Mapping[str, _Row], i: int, *, separator: str
) -> NDArray[np.float64]:
    values = [as_number(row.cells[i], separator=separator) for row in rows.values()]
    bad = [name for name, value in zip(rows, values, strict=True) if value is None]
    if bad:
        first = rows[bad[0]]
        raise ValueError(
            f"{path}, line {first.line}: {column} must be a finite number, got "
            f"{shown(first.cells[i])} first for {counted(bad)}{number_remedy(first.cells[i])}"
        )
    return np.array(values, np.float64)


def _times(path: Path, rows: Mapping[str, _Row], *, separator: str) -> NDArray[np.float64]:
    time = _numbers(path, "time", rows, 0, separator=separator)
    flags = [as_flag(row.cells[1]) for row in rows.values()]
    event = (
        _numbers(path, "event", rows, 1, separator=separator)
        if None in flags
        else np.array(flags, np.float64)
    )
    names = np.array(list(rows))
    for column, wanted, values, wrong in (
        ("time", "above 0", time, time <= 0),
        ("event", "0 or 1", event, ~np.isin(event, (0, 1))),
    ):
        if wrong.any():
            raise ValueError(
                f"{column} of {path} must be {wanted}, "
                f"got {values[wrong][0]:g} first for {counted(names[wrong].tolist())}"
            )
    if not event.any():
        raise ValueError(f"event of {path} must be 1 in some rows, got 0 in all {len(event)}")
    return np.stack([time, event], axis=1)
