"""Feature files and a table of labels in, bags of patches with their targets out.

A *bag* is one slide: the (n, d) features of its patches. Opening reads no features; `Bags.read` maps
one bag at a time, so that the whole may be larger than memory.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from histofast._notes import noted
from histofast._words import counted
from histofast.errors import FeatureError
from histofast.features import (
    FeatureFile,
    content_sha256,
    list_features,
    open_features,
    options_of,
    shared_options,
)
from histofast.learning import NAMED, Labels, LabelsOfPatients, Missing, Task, read_labels

Paths = str | Path | Sequence[str | Path]
OnCount = Callable[[int, int], None]  # done, in all

_ROWS = 4096  # looked at together for NaN


class _Place(NamedTuple):
    """Where the numbers of a file are, and what tells that it is still the same file."""

    dtype: np.dtype[Any]
    offset: int
    stamp: tuple[int, int]
    sha256: str | None  # that the file states


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
        options: with which the features were made, as far as their files tell.
        empty: (e) names of slides without a patch, which are left out of all of the above.
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
    options: Mapping[str, Any] = field(default_factory=dict)
    empty: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    _places: tuple[_Place | None, ...] = field(default=(), repr=False)
    _whole: Bags | None = field(default=None, repr=False)  # that these hold some rows of
    _rows: tuple[NDArray[np.int64], ...] = field(default=(), repr=False)

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
            FeatureError: the file is broken, is another than when opened, or holds NaN or infinity.
            FileNotFoundError: the file is gone.
            IndexError: no such bag.
        """
        if self._whole is not None:
            some: NDArray[Any] = self._whole.read(i)[self._rows[i]]
            return some
        path, shape = self.paths[i], (int(self.sizes[i]), self.d)
        place = self._places[i] if self._places else None
        features: NDArray[Any]
        # Opening a file anew costs more than reading a small bag.
        if place is not None and place.stamp == _stamp(path):
            features = np.memmap(path, place.dtype, "r", place.offset, shape)
        else:
            file = open_features(path)
            features = file.features
            if place is not None and features.shape == shape and file.sha256 != place.sha256:
                raise FeatureError(f"{path} must be as when opened, got other features: start anew")
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
        found = tuple(content_sha256(path) for path in self.paths)
        if self._whole is None:
            return found
        return tuple(
            hashlib.sha256(content.encode() + rows.astype("<i8").tobytes()).hexdigest()
            for content, rows in zip(found, self._rows, strict=True)
        )

    def chosen(self, rows: Sequence[NDArray[np.int64]]) -> Bags:
        """Return the same bags with some of their patches.

        Args:
            rows: (b) of each bag the patches to keep, (k,) int64, rising, at least one.

        Raises:
            ValueError: rows of another number of bags, none, or such as a bag does not have.
        """
        if len(rows) != len(self):
            raise ValueError(f"rows must be of {len(self)} bags, got {len(rows)}")
        for name, size, kept in zip(self.names, self.sizes.tolist(), rows, strict=True):
            if not len(kept) or (np.diff(kept) <= 0).any() or kept[0] < 0 or kept[-1] >= size:
                raise ValueError(f"rows of {name} must be some of 0..{size - 1}, rising, each once")
        if self._whole is not None:
            within = [own[kept] for own, kept in zip(self._rows, rows, strict=True)]
            return self._whole.chosen(within)
        sizes = np.array([len(kept) for kept in rows], np.int64)
        return replace(self, sizes=sizes, _whole=self, _rows=tuple(rows))

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
            options=self.options,
            _places=tuple(self._places[i] for i in chosen) if self._places else (),
            _whole=None if self._whole is None else self._whole.part(chosen),
            _rows=tuple(self._rows[i] for i in chosen) if self._rows else (),
        )


@noted
def open_bags(
    features: Paths,
    labels: str | Path | LabelsOfPatients | None,
    *,
    task: Task = "classification",
    missing: Missing = "error",
    label_column: str = "label",
    on_progress: OnCount | None = None,
) -> Bags:
    """Open feature files as bags, and give them the labels of a table.

    The table is a CSV file: `slide` (or wsi, slide_id, bag, file ...; else the first column) holds
    names with or without folder and suffix; `label`, or `time` and `event`; `patient` (or patient_id,
    case_id, submitter_id ...) and `split` (train, val, test) if known. Names of columns are read in
    any case and spelling. A table with patients and no slides has one bag for each patient.

    Args:
        features: a folder that is searched through for feature files (see `find_features`), or files and
            folders.
        labels: the table, or two, see `LabelsOfPatients`; None to open bags without targets.
        task: "classification" (labels are names of classes, ordered as numbers if all are whole
            numbers), "regression" (numbers) or "survival" (time > 0 and event 0 or 1).
        missing: what to do about labels without features and features without labels.
        label_column: where the labels of classification and regression are.
        on_progress: called with the files that were looked at and those in all.

    Returns:
        The bags sorted by name. Slides without a patch are left out, whatever `missing` says:
        `empty` names them. `notes` says what was left out, and that slides count as patients where
        there is no column of patients.

    Raises:
        FeatureError: a broken file, files of several encoders, options or widths; labels, and no
            slide that has a patch.
        FileNotFoundError: no such file, folder or table, or a folder without feature files.
        ValueError: an unknown option; a table without the columns, with two columns for one thing,
            with a slide twice, a slide or patient without a name, an unusable cell, one class or no
            event only; slides that do not match (see `missing`); two files of one slide.
    """
    files, notes = list_features(features)
    if labels is None:
        return _bags(_look(files, on_progress), None, task=task, notes=notes)
    asked = partial(
        read_labels,
        labels,
        {file.stem for file in files},
        task=task,
        missing=missing,
        label_column=label_column,
    )
    found = asked()
    named = set(found.names)
    looked = _look([file for file in files if file.stem in named], on_progress)
    empty = [file.path.stem for file in looked if not file.size]
    if len(empty) == len(looked):
        raise FeatureError(
            f"bags must have patches, got none in all {counted(empty)}: was no tissue found?"
        )
    if empty:
        found = asked(without=empty)
    return _bags(looked, found, task=task, notes=notes)


def open_labels(
    labels: str | Path | LabelsOfPatients,
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
    found = read_labels(labels, names, task=task, missing=missing, label_column=label_column)
    return Bags(
        names=found.names,
        paths=tuple(Path(f"{name}.h5") for name in found.names),  # to be made
        sizes=np.zeros(len(found.names), np.int64),
        task=task,
        targets=found.targets,
        classes=found.classes,
        patients=found.patients,
        splits=found.splits,
        d=0,
        encoder={},
        notes=found.notes,
    )


# --- Feature files -----------------------------------------------------------------------------


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except FileNotFoundError:
        raise FileNotFoundError(f"no such feature file: {path}") from None
    return found.st_size, found.st_mtime_ns


class _Looked(NamedTuple):
    """What is to be known of a feature file."""

    path: Path
    size: int
    d: int
    encoder: dict[str, Any]
    options: dict[str, Any]
    place: _Place | None


def _look(files: Sequence[Path], on_progress: OnCount | None) -> list[_Looked]:
    """Look at files one by one; refuse those that are no features."""
    found = []
    for path in files:
        stamp = _stamp(path)
        file = open_features(path)
        features = file.features
        if not np.issubdtype(features.dtype, np.floating):
            raise FeatureError(
                f"features of {path} must be floating point, got {features.dtype.name}"
            )
        place = None
        if isinstance(features, np.memmap):
            place = _Place(features.dtype, features.offset, stamp, file.sha256)
        n, d = features.shape
        found.append(_Looked(path, n, d, _encoder(file), options_of(file), place))
        if on_progress is not None:
            on_progress(len(found), len(files))
    return found


def _bags(
    looked: Sequence[_Looked], labels: Labels | None, *, task: Task, notes: Sequence[str]
) -> Bags:
    """Make bags of those files that have patches; refuse files that do not go together."""
    _refuse_mixed(
        "made by one encoder", [_name_of(file.encoder) for file in looked], "name the folder of one"
    )
    options = shared_options((file.path, file.options) for file in looked)
    _refuse_mixed(
        "of one width",
        [f"{file.d} per patch" for file in looked],
        "they are of different encoders",
    )
    for one, other in pairwise([file.path for file in looked]):
        if one.stem == other.stem:
            raise ValueError(
                f"features must hold one file per slide, got {one} and {other}: name the folder "
                "of one scale"
            )
    files = [file for file in looked if file.size]
    unknown = ("",) * len(files)
    empty = tuple(file.path.stem for file in looked if not file.size)
    notes = [*notes, *(() if labels is None else labels.notes)]
    if labels is None and empty:
        notes.append(f"slides without a patch: {counted(empty, most=NAMED)}")
    return Bags(
        names=tuple(file.path.stem for file in files),
        paths=tuple(file.path for file in files),
        sizes=np.array([file.size for file in files], np.int64),
        task=task,
        targets=np.zeros(0) if labels is None else labels.targets,
        classes=() if labels is None else labels.classes,
        patients=unknown if labels is None else labels.patients,
        splits=unknown if labels is None else labels.splits,
        d=looked[0].d,
        encoder=looked[0].encoder,
        options=options,
        empty=empty,
        notes=tuple(notes),
        _places=tuple(file.place for file in files),
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
