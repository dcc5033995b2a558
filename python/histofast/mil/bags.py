"""Feature files and a table of labels in, bags of patches with their targets out.

A *bag* is one slide: the (n, d) features of its patches. Opening reads no features; `Bags.read` maps
one bag at a time, so that the whole may be larger than memory.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path, PurePath
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from histofast._tables import Table, read_table
from histofast.errors import FeatureError
from histofast.features import FeatureFile, content_sha256, read_features
from histofast.learning import Task
from histofast.slides import SLIDE_SUFFIXES

Missing = Literal["error", "skip"]
Paths = str | Path | Sequence[str | Path]

SPLITS: Mapping[str, str] = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
# Cut off the names in a table. Other endings may be part of a name, as in "case.2".
_SUFFIXES = SLIDE_SUFFIXES | {".czi", ".h5", ".isyntax", ".pt", ".vsi"}
_ROWS = 4096  # looked at together for NaN


class _Place(NamedTuple):
    """Where the numbers of a file are, and what tells that it is still the same file."""

    dtype: np.dtype[Any]
    offset: int
    stamp: tuple[int, int]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Bags:
    """Slides as bags of patch features, with what is to be learnt of them.

    Attributes:
        names: (b) of the slides, each once, sorted.
        paths: (b) feature files.
        sizes: (b,) int64 patches per bag, all at least 1.
        task: what the targets are.
        targets: (b,) int64 class, (b,) float64 value, or (b, 2) float64 time and event; (0,) when
            there are no labels.
        classes: names of the classes in the order of their numbers; () for other tasks.
        patients: (b) patient of each slide, "" where not known.
        splits: (b) "train", "validation" or "test", "" where not given.
        d: features per patch.
        encoder: name and sha256 of what made the features; {} for files of other tools.
        notes: what was left out or is unusual, one line each.
    """

    names: tuple[str, ...]
    paths: tuple[Path, ...]
    sizes: NDArray[np.int64]
    task: Task
    targets: NDArray[Any]
    classes: tuple[str, ...]
    patients: tuple[str, ...]
    splits: tuple[str, ...]
    d: int
    encoder: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    _places: tuple[_Place | None, ...] = field(default=(), repr=False)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def has_targets(self) -> bool:
        """Whether there are labels."""
        return len(self.targets) == len(self)

    @property
    def groups(self) -> tuple[str, ...]:
        """(b) patient of each slide; the slide itself where the patient is not known."""
        return tuple(p or name for p, name in zip(self.patients, self.names, strict=True))

    @property
    def unit(self) -> Literal["patient", "slide"]:
        """What a group is, and so what folds deal and intervals resample."""
        return "patient" if len(self) and all(self.patients) else "slide"

    def read(self, i: int) -> NDArray[Any]:
        """Return the features of bag `i`, checked in one pass.

        Returns:
            (n, d) float32 or float16, a read-only map of the file. What cannot be mapped (compressed
            files of other tools, float64) is read, float64 as float32.

        Raises:
            FeatureError: the file is broken, is of another shape than when opened, or holds NaN
                or infinity.
            FileNotFoundError: the file is gone.
            IndexError: no such bag.
        """
        path, shape = self.paths[i], (int(self.sizes[i]), self.d)
        place = self._places[i] if self._places else None
        features: NDArray[Any]
        # Opening a file anew costs more than reading a small bag.
        if place is not None and place.stamp == _stamp(path):
            features = np.memmap(path, place.dtype, "r", place.offset, shape)
        else:
            features = open_features(path).features
        if features.shape != shape:
            raise FeatureError(
                f"features of {path} must be of shape {shape} as when opened, got {features.shape}"
            )
        if features.dtype not in (np.float16, np.float32):
            with np.errstate(over="ignore"):
                features = features.astype(np.float32)
        _refuse_infinite(path, features)
        return features

    def contents(self) -> tuple[str, ...]:
        """(b) checksums of the features; see `features.content_sha256`.

        Raises:
            FeatureError, FileNotFoundError: as `read`.
        """
        return tuple(content_sha256(path) for path in self.paths)

    def part(self, rows: Sequence[int] | NDArray[np.integer[Any]]) -> Bags:
        """Return the bags of these indices, in their order; classes stay as they are."""
        chosen = np.asarray(rows, np.int64).reshape(-1)
        return Bags(
            names=tuple(self.names[i] for i in chosen),
            paths=tuple(self.paths[i] for i in chosen),
            sizes=self.sizes[chosen],
            task=self.task,
            targets=self.targets[chosen] if self.has_targets else self.targets,
            classes=self.classes,
            patients=tuple(self.patients[i] for i in chosen),
            splits=tuple(self.splits[i] for i in chosen),
            d=self.d,
            encoder=self.encoder,
            _places=tuple(self._places[i] for i in chosen) if self._places else (),
        )


def open_bags(
    features: Paths,
    labels: str | Path | None,
    *,
    task: Task = "classification",
    missing: Missing = "error",
    label_column: str = "label",
) -> Bags:
    """Open feature files as bags, and give them the labels of a table.

    The table is a CSV file: `slide` (or wsi, slide_id, bag, file ...; else the first column) holds
    names with or without folder and suffix; `label`, or `time` and `event`; `patient` (or patient_id,
    case_id, submitter_id ...) and `split` (train, val, test) if known. Names of columns are read in
    any case and spelling. A table with patients and no slides has one bag for each patient.

    Args:
        features: a folder that is searched through for `.h5` files, or files and folders.
        labels: the table; None to open bags without targets.
        task: "classification" (labels are names of classes, ordered as numbers if all are whole
            numbers), "regression" (numbers) or "survival" (time > 0 and event 0 or 1).
        missing: what to do about labels without features and features without labels.
        label_column: where the labels of classification and regression are.

    Returns:
        The bags sorted by name. `notes` says what was left out, and that slides count as patients
        where there is no column of patients.

    Raises:
        FeatureError: a broken file, files of several encoders or widths, a bag without patches.
        FileNotFoundError: no such file, folder or table, or a folder without feature files.
        ValueError: an unknown option; a table without the columns, with two columns for one thing,
            with a slide twice, an empty or unusable cell, one class or no event only; slides that do not match (see `missing`); two
            files of one slide.
    """
    _check_choices(task, missing)
    files = _list_files(features)
    if labels is None:
        return _bags(files, rows={}, task=task, targets=np.zeros(0), classes=(), notes=[])
    rows, targets, classes, notes = _labelled(
        Path(labels), {file.stem for file in files}, task, missing, label_column
    )
    return _bags(
        [file for file in files if file.stem in rows],
        rows=rows,
        task=task,
        targets=targets,
        classes=classes,
        notes=notes,
    )


def open_labels(
    labels: str | Path,
    names: Iterable[str],
    *,
    task: Task = "classification",
    missing: Missing = "error",
    label_column: str = "label",
) -> Bags:
    """Return what `open_bags` will make of a table once these slides have features.

    Bags without files, to find out before hours of work whether labels, slides and folds agree.

    Args:
        labels: the table.
        names: of the slides.
        task, missing, label_column: see `open_bags`.

    Raises:
        FileNotFoundError, ValueError: as `open_bags`, what concerns the table.
    """
    _check_choices(task, missing)
    rows, targets, classes, notes = _labelled(Path(labels), set(names), task, missing, label_column)
    return Bags(
        names=tuple(rows),
        paths=tuple(Path(f"{name}.h5") for name in rows),  # to be made
        sizes=np.zeros(len(rows), np.int64),
        task=task,
        targets=targets,
        classes=classes,
        patients=tuple(row.patient for row in rows.values()),
        splits=tuple(row.split for row in rows.values()),
        d=0,
        encoder={},
        notes=tuple(notes),
    )


def _check_choices(task: str, missing: str) -> None:
    for option, value, wanted in (
        ("task", task, get_args(Task)),
        ("missing", missing, get_args(Missing)),
    ):
        if value not in wanted:
            raise ValueError(f"{option} must be one of {', '.join(wanted)}, got {value!r}")


def _labelled(
    path: Path, stems: set[str], task: Task, missing: Missing, label_column: str
) -> tuple[dict[str, _Row], NDArray[Any], tuple[str, ...], list[str]]:
    """Return the rows of the slides, by their names, with targets, classes and what was left out."""
    columns = ("time", "event") if task == "survival" else (label_column,)
    table = read_table(path)
    rows, notes = _match(path, _read_labels(table, columns), stems, missing)
    notes += _notes_on_patients(table)
    _refuse_cells(path, columns, rows)
    targets: NDArray[Any]
    classes: tuple[str, ...] = ()
    if task == "classification":
        targets, classes = _classes(path, columns[0], rows)
        notes += _two_faced(rows)
    elif task == "regression":
        targets = _numbers(path, columns[0], rows, 0)
    else:
        targets = _times(path, rows)
    return rows, targets, classes, notes


# --- Feature files -----------------------------------------------------------------------------


def _list_files(features: Paths) -> list[Path]:
    given = [features] if isinstance(features, str | Path) else list(features)
    if not given:
        raise ValueError("features must name at least one file or folder, got none")
    files: list[Path] = []
    for path in map(Path, given):
        if path.is_dir():
            found = sorted(p for p in path.rglob("*.h5") if not p.name.startswith("."))
            if not found:
                raise FileNotFoundError(f"no feature file (.h5) in {path}")
            files += found
        elif path.is_file():
            files.append(path)
        else:
            raise FileNotFoundError(f"no such feature file or folder: {path}")
    once = {path.resolve(): path for path in reversed(files)}
    return sorted(once.values(), key=lambda path: (path.stem, str(path)))


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except FileNotFoundError:
        raise FileNotFoundError(f"no such feature file: {path}") from None
    return found.st_size, found.st_mtime_ns


def open_features(path: Path) -> FeatureFile:
    """Map a feature file, or read it where it is not one plain run of numbers."""
    try:
        return read_features(path, mmap=True)
    except FeatureError:
        return read_features(path, mmap=False)


def _bags(
    files: Sequence[Path],
    *,
    rows: Mapping[str, _Row],
    task: Task,
    targets: NDArray[Any],
    classes: tuple[str, ...],
    notes: list[str],
) -> Bags:
    sizes, widths, makers, places = [], [], [], []
    for path in files:
        stamp = _stamp(path)
        file = open_features(path)
        if not np.issubdtype(file.features.dtype, np.floating):
            raise FeatureError(
                f"features of {path} must be floating point, got {file.features.dtype.name}"
            )
        sizes.append(file.features.shape[0])
        widths.append(file.features.shape[1])
        makers.append(_encoder(file))
        places.append(
            _Place(file.features.dtype, file.features.offset, stamp)
            if isinstance(file.features, np.memmap)
            else None
        )
    _refuse_mixed(
        "made by one encoder", [_name_of(maker) for maker in makers], "name the folder of one"
    )
    _refuse_mixed(
        "of one width", [f"{d} per patch" for d in widths], "they are of different encoders"
    )
    for one, other in pairwise(files):
        if one.stem == other.stem:
            raise ValueError(
                f"features must hold one file per slide, got {one} and {other}: name the folder "
                "of one scale"
            )
    empty = [path.stem for path, n in zip(files, sizes, strict=True) if n == 0]
    if empty:
        raise FeatureError(
            f"bags must have at least one patch, got none in {_some(empty)}: remove the files"
        )
    names = tuple(path.stem for path in files)
    return Bags(
        names=names,
        paths=tuple(files),
        sizes=np.array(sizes, np.int64),
        task=task,
        targets=targets,
        classes=classes,
        patients=tuple(rows[name].patient if rows else "" for name in names),
        splits=tuple(rows[name].split if rows else "" for name in names),
        d=widths[0],
        encoder=makers[0],
        notes=tuple(notes),
        _places=tuple(places),
    )


def _encoder(file: FeatureFile) -> dict[str, Any]:
    encoder = (file.identity or {}).get("encoder")
    if not isinstance(encoder, Mapping):
        return {}
    return {key: encoder[key] for key in ("name", "sha256") if key in encoder}


def _name_of(encoder: Mapping[str, Any]) -> str:
    if not encoder:
        return "an unknown one"
    return f"{encoder.get('name')} (sha256 {str(encoder.get('sha256'))[:12]})"


def _refuse_mixed(wanted: str, found: Sequence[str], remedy: str) -> None:
    counts = Counter(found)
    if len(counts) > 1:
        got = ", ".join(f"{count} of {name}" for name, count in counts.most_common(3))
        got += ", ..." if len(counts) > 3 else ""
        raise FeatureError(f"features must be {wanted}, got {got}: {remedy}")


def _refuse_infinite(path: Path, features: NDArray[Any]) -> None:
    for start in range(0, len(features), _ROWS):
        chunk = features[start : start + _ROWS]
        if not _is_finite(chunk):
            bad = int((~np.isfinite(chunk)).any(axis=1).argmax())
            raise FeatureError(
                f"features of {path} must be finite, got NaN or infinity in row {start + bad}"
            )


def _is_finite(features: NDArray[Any]) -> bool:
    if features.dtype == np.float16:
        # Ten times as fast as converting: NaN and infinity have all bits of the exponent set.
        return not ((features.view(np.uint16) & 0x7C00) == 0x7C00).any()
    with np.errstate(over="ignore", invalid="ignore"):
        # One pass: NaN and infinity survive any sum. A sum that overflows is looked at closely.
        return bool(np.isfinite(features.sum()) or np.isfinite(features).all())


# --- Labels ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    name: str
    cells: tuple[str, ...]
    patient: str
    split: str


def _read_labels(table: Table, columns: Sequence[str]) -> list[_Row]:
    wanted = [table.named(column) for column in columns]
    lacking = [column for column, name in zip(columns, wanted, strict=True) if name is None]
    if lacking:
        remedy = "" if "time" in columns else ": name it with label_column"
        raise ValueError(
            f"{table.path} must have a column {' and a column '.join(lacking)}, "
            f"got {', '.join(table.header)}{remedy}"
        )
    cells = [name for name in wanted if name is not None]
    patient, split_column = table.column("patient"), table.column("split")
    slide = _slide_column(table, {*cells, split_column, patient})
    rows = []
    for line, row in table.lines():
        # A slide whose patient is not known could be on both sides of a fold.
        for column in (slide, patient):
            if column is not None and not row[column]:
                raise ValueError(f"{table.path}, line {line}: {column} is empty")
        split = ""
        if split_column:
            if row[split_column].lower() not in SPLITS:
                raise ValueError(
                    f"{table.path}, line {line}: split must be train, val or test, "
                    f"got {row[split_column]!r}"
                )
            split = SPLITS[row[split_column].lower()]
        rows.append(
            _Row(
                name=row[slide],
                cells=tuple(row[name] for name in cells),
                patient=row[patient] if patient else "",
                split=split,
            )
        )
    return rows


def _slide_column(table: Table, others: set[str | None]) -> str:
    """Return the column of slides: by its name, else the first one, else that of patients."""
    found = table.column("slide") or table.column("file")
    if found is None and table.header[0] and table.header[0] not in others:
        return table.header[0]
    return found or table.needed("slide", "patient")


def _notes_on_patients(table: Table) -> list[str]:
    if table.column("patient"):
        return []
    notes = ["no column of patients: slides count as patients"]
    if strange := table.unread_patients():
        notes.append(
            f"columns that may be patients and are not read: {', '.join(strange)}: "
            "call the right one patient"
        )
    return notes


def _match(
    path: Path, rows: Sequence[_Row], stems: set[str], missing: Missing
) -> tuple[dict[str, _Row], list[str]]:
    """Return the rows that have features by the name of the slide, sorted, and what was skipped."""
    keys = [_key(row.name, stems) for row in rows]
    twice = [key for key, count in Counter(keys).items() if count > 1]
    if twice:
        raise ValueError(f"{path} must name each slide once, got several rows for {_some(twice)}")
    found = dict(sorted((k, row) for k, row in zip(keys, rows, strict=True) if k in stems))
    if not found:
        raise ValueError(
            f"{path} and features must be of the same slides, got no common name: labels of "
            f"{_some([row.name for row in rows])}, features of {_some(sorted(stems))}"
        )
    notes = []
    for what, names in (
        ("labels without features", [k for k in keys if k not in stems]),
        ("features without labels", sorted(stems - found.keys())),
    ):
        if names:
            notes.append(f"{what}: {_some(names)}")
    if notes and missing == "error":
        raise ValueError(
            f"{path} and features must be of the same slides, got {'; '.join(notes)}: "
            "missing 'skip' leaves them out"
        )
    return found, [f"left out {note}" for note in notes]


def _key(name: str, stems: set[str]) -> str:
    """The name of the slide that a table calls `name`."""
    if name in stems:
        return name
    last = PurePath(name.replace("\\", "/")).name or name
    plain = PurePath(last)
    if last in stems or plain.suffix.lower() not in _SUFFIXES:
        return last
    return plain.stem


def _refuse_cells(path: Path, columns: Sequence[str], rows: Mapping[str, _Row]) -> None:
    for i, column in enumerate(columns):
        empty = [name for name, row in rows.items() if not row.cells[i]]
        if empty:
            raise ValueError(f"{column} of {path} must not be empty, got none for {_some(empty)}")


def _classes(
    path: Path, column: str, rows: Mapping[str, _Row]
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    labels = [row.cells[0] for row in rows.values()]
    classes: list[str] = sorted(set(labels))
    if len(classes) < 2:
        raise ValueError(
            f"{column} of {path} must have at least two classes, "
            f"got only {classes[0]} in {len(labels)} bags"
        )
    if all(name.lstrip("+-").isdecimal() for name in classes):
        classes.sort(key=int)
    number = {name: i for i, name in enumerate(classes)}
    return np.array([number[label] for label in labels], np.int64), tuple(classes)


def _two_faced(rows: Mapping[str, _Row]) -> list[str]:
    """A note on patients whose slides are in several classes."""
    seen: dict[str, set[str]] = {}
    for row in rows.values():
        if row.patient:
            seen.setdefault(row.patient, set()).add(row.cells[0])
    several = sorted(patient for patient, classes in seen.items() if len(classes) > 1)
    return [f"patients with slides in several classes: {_some(several)}"] if several else []


def _numbers(path: Path, column: str, rows: Mapping[str, _Row], i: int) -> NDArray[np.float64]:
    values: list[float] = []
    bad: list[str] = []
    for name, row in rows.items():
        try:
            values.append(float(row.cells[i]))
        except ValueError:
            values.append(math.nan)
        if not math.isfinite(values[-1]):
            bad.append(name)
    if bad:
        raise ValueError(
            f"{column} of {path} must be a finite number, "
            f"got {rows[bad[0]].cells[i]!r} first for {_some(bad)}"
        )
    return np.array(values, np.float64)


def _times(path: Path, rows: Mapping[str, _Row]) -> NDArray[np.float64]:
    time, event = (_numbers(path, c, rows, i) for i, c in enumerate(("time", "event")))
    names = np.array(list(rows))
    for column, wanted, values, wrong in (
        ("time", "above 0", time, time <= 0),
        ("event", "0 or 1", event, ~np.isin(event, (0, 1))),
    ):
        if wrong.any():
            raise ValueError(
                f"{column} of {path} must be {wanted}, "
                f"got {values[wrong][0]:g} first for {_some(names[wrong].tolist())}"
            )
    if not event.any():
        raise ValueError(f"event of {path} must be 1 in some rows, got 0 in all {len(event)}")
    return np.stack([time, event], axis=1)


def _some(names: Sequence[str]) -> str:
    """How many there are, and the first three."""
    return f"{len(names)} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
