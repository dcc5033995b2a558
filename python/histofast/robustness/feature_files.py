"""Feature files of several encoders and a table of labels in, the robustness of each out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast import report
from histofast._files import path_of
from histofast._notes import noted
from histofast._numbers import whole_number
from histofast._tables import read_table
from histofast._words import counted
from histofast.errors import FeatureError
from histofast.features import find_features, open_features
from histofast.learning import Labels, LabelsOfPatients, Missing, read_labels
from histofast.robustness.dependence import NEAREST, NEIGHBOURS, Robustness, robustness_of

_LEAST = 8  # rows whose neighbours mean anything

OnCount = Callable[[int, int], None]  # done, in all


@dataclass(frozen=True, kw_only=True, slots=True)
class RobustnessResult:
    """How much encoders depend on a confounder, on the same patches.

    Attributes:
        column: of the table: what the confounder is called.
        unit: what groups are, "patient" or "slide".
        encoders: robustness by the name of the encoder, in the order given.
        slides: whose patches these are.
        notes: what was left out or is unusual, a line each.
    """

    column: str
    unit: str
    encoders: Mapping[str, Robustness]
    slides: int
    notes: tuple[str, ...]

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write index.html, robustness.json, .csv, .png and .pdf; the page comes last."""
        from histofast.robustness.answers import answer_of

        report.save(answer_of(self), folder)


def check_column(labels: str | Path | LabelsOfPatients, column: str) -> None:
    """Refuse a table (of two, that of patients) without this column, or one where it says the same of all slides.

    Raises:
        FileNotFoundError: no such table.
        ValueError: no such column, or fewer than two levels in it.
    """
    if isinstance(labels, LabelsOfPatients):
        labels = labels.labels
    table = read_table(path_of("labels", labels), named=(column,))
    name = table.named(column)
    if name is None:
        raise ValueError(
            f"{table.path} must have the column {column} that robustness is asked of, got "
            f"{table.header_shown}"
        )
    levels = sorted({row[name] for _, row in table.lines()} - {""})
    if len(levels) < 2:
        raise ValueError(
            f"{column} of {table.path} must differ between slides for robustness, got only "
            f"{counted(levels) or 'empty cells'}"
        )


@noted
def compare_robustness(
    folders: Mapping[str, str | Path],
    labels: str | Path | LabelsOfPatients,
    *,
    column: str,
    label_column: str = "label",
    missing: Missing = "error",
    n: int = 2048,
    k: int = NEIGHBOURS,
    m: int = NEAREST,
    resamples: int = 1000,
    permutations: int = 99,
    confidence: float = 0.95,
    seed: int = 0,
    on_progress: OnCount | None = None,
) -> RobustnessResult:
    """Measure how much encoders depend on a centre or scanner, by their feature files.

    Patches are drawn evenly from the slides, the same ones for all encoders; a patch has the class of its
    slide. Slides without a patch, a label or a level are left out, and told.

    Args:
        folders: of feature files by the name of the encoder, one or several; files belong together by name.
        labels: table as `histofast.learning.read_labels` reads it, with classes and `column`.
        column: of the confounder.
        label_column: of the classes.
        missing: labels of other slides, and slides without: "error", or "skip".
        n: patches to draw, about; memory grows with its square.
        k, m, resamples, permutations, confidence, seed: see `robustness_of`.
        on_progress: called with the encoders that are done, and all.

    Raises:
        FeatureError: a file that cannot be read, or files of one slide with other patches.
        FileNotFoundError: no table, or a folder without feature files.
        ValueError: no folder, folders of other slides, a table as `read_labels` and `check_column`
            refuse it, an n below 8; as `robustness_of`.
    """
    n = whole_number("n", n, at_least=_LEAST)
    if not folders:
        raise ValueError("folders must name at least one encoder, got none")
    check_column(labels, column)
    files = _files(folders)
    first = next(iter(files.values()))
    sizes = {slide: len(open_features(path).features) for slide, path in first.items()}
    empty = sorted(slide for slide, size in sizes.items() if not size)
    reading: dict[str, Any] = {"missing": missing, "without": empty}
    classes = read_labels(labels, sizes, label_column=label_column, **reading)
    levels = read_labels(labels, sizes, label_column=column, **reading)
    slides = [slide for slide in classes.names if slide in set(levels.names)]
    chosen = _drawn([sizes[slide] for slide in slides], n=n, seed=seed)
    of_slides = {
        "classes": _names(classes, slides),
        "confounder": _names(levels, slides),
        "groups": _groups(classes, slides),
    }
    counts = [len(rows) for rows in chosen]
    of_rows = {name: np.repeat(values, counts) for name, values in of_slides.items()}
    measured = {}
    for name, found in files.items():
        features = _read([found[slide] for slide in slides], chosen, [sizes[s] for s in slides])
        measured[name] = robustness_of(
            features,
            **of_rows,
            k=k,
            m=m,
            resamples=resamples,
            permutations=permutations,
            confidence=confidence,
            seed=seed,
        )
        if on_progress is not None:
            on_progress(len(measured), len(files))
    of_all = dict.fromkeys(note for found in measured.values() for note in found.notes)
    return RobustnessResult(
        column=column,
        unit="patient" if all(classes.patients) else "slide",
        encoders=measured,
        slides=len(slides),
        notes=tuple(dict.fromkeys((*classes.notes, *levels.notes, *of_all))),
    )


def _files(folders: Mapping[str, str | Path]) -> dict[str, dict[str, Path]]:
    """Return the files of each encoder by slide, of which all have the same."""
    files = {name: _by_slide(Path(folder)) for name, folder in folders.items()}
    first = next(iter(files.values()))
    for name, found in files.items():
        if found.keys() != first.keys():
            raise ValueError(
                f"folders must have the same slides, got {len(first)} and, of {name}, {len(found)}"
            )
    return files


def _by_slide(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in find_features(folder).files:
        if path.stem in found:
            raise ValueError(
                f"{folder} must hold one file per slide, got {found[path.stem]} and {path}: name "
                "the folder of one encoder"
            )
        found[path.stem] = path
    return found


def _drawn(sizes: Sequence[int], *, n: int, seed: int) -> list[NDArray[np.int64]]:
    """Return the rows to take of each slide: evenly, so that a large one says no more."""
    rng = np.random.default_rng(seed)
    share = -(-n // len(sizes))
    return [np.sort(rng.permutation(size)[:share]) for size in sizes]


def _read(
    paths: Sequence[Path], chosen: Sequence[NDArray[np.int64]], sizes: Sequence[int]
) -> NDArray[np.float32]:
    kept = []
    for path, rows, size in zip(paths, chosen, sizes, strict=True):
        features = open_features(path).features
        if len(features) != size:
            raise FeatureError(
                f"{path} must be of the same patches as the other encoders', got {len(features)} "
                f"and {size}"
            )
        kept.append(np.asarray(features[rows], np.float32))
    return np.concatenate(kept)


def _names(labels: Labels, slides: Sequence[str]) -> list[str]:
    """Return the class of each slide by its name."""
    of = dict(zip(labels.names, labels.targets.tolist(), strict=True))
    return [labels.classes[of[slide]] for slide in slides]


def _groups(labels: Labels, slides: Sequence[str]) -> list[str]:
    of = dict(zip(labels.names, labels.patients, strict=True))
    return [of[slide] or slide for slide in slides]
