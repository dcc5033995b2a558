"""Slides and their features in; what a person would say of each patch, as tables of x, y and a value, out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histofast._files import replacing
from histofast._remote import Place
from histofast._stopping import stop_if_asked
from histofast._tables import csv_text
from histofast.errors import FeatureError, HistofastError
from histofast.explain.concepts.measures import NUCLEI_THRESHOLD, Float, check_concepts, measure
from histofast.features import FeatureFile, list_features, open_features
from histofast.patches import PatchReader

_ROWS = 256  # of patches at a time: 50 MB of pixels


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MeasuredSlide:
    """Concepts of the patches of a slide.

    Attributes:
        slide: its name.
        concepts: their names.
        coords_l0: (n, 2) int64 level-0 (x, y) of the patches.
        values: (n, k) float64.
        left_out: patches that show what could not be decoded: they are in neither.
    """

    slide: str
    concepts: tuple[str, ...]
    coords_l0: NDArray[np.int64]
    values: Float
    left_out: int = 0

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write FOLDER/<slide>/<concept>.csv of x, y and the value, all or none: layers of `histofast view`.

        Returns:
            The folder of the slide.

        Raises:
            FileExistsError: one is there and `overwrite` is False.
        """
        where = Path(folder) / self.slide
        where.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            for k, name in enumerate(self.concepts):
                path = stack.enter_context(replacing(where / f"{name}.csv", overwrite=overwrite))
                places = zip(self.coords_l0.tolist(), self.values[:, k].tolist(), strict=True)
                rows = ([x, y, value] for (x, y), value in places)
                path.write_text(csv_text([("x", "y", name), *rows]), encoding="utf-8")
        return where


def measure_slides(
    slides: str | Place | Sequence[str | Place],
    features: str | Path | Sequence[str | Path],
    *,
    names: Sequence[str] | None = None,
    nuclei_threshold: float = NUCLEI_THRESHOLD,
    recursive: bool = False,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Iterator[tuple[str, MeasuredSlide | Exception]]:
    """Measure concepts of the patches of slides, one slide after the other, as the encoder saw them.

    Args:
        slides: as `extract` was given them.
        features: their feature files, written by histofast, or folders of them: they say where patches lie, at
            which scale and in what colours. Those of other slides are passed over.
        names: see `measure`.
        nuclei_threshold: see `measure`.
        recursive: look for slides in sub-folders too.
        on_progress: called with the name of a slide, how many of its patches are done, and how many it has.

    Yields:
        The name of a slide and what was measured, or why it could not be.

    Raises:
        TypeError, ValueError: as `measure`; two feature files of one slide.
        FileNotFoundError, FeatureError: slides or features that are not there.
        Interrupted: asked to stop.
    """
    chosen = check_concepts(names)
    with PatchReader(slides, recursive=recursive) as reader:
        of_slide = _files_of(features, reader.names)
        for name in sorted(reader.names):
            stop_if_asked()
            try:
                if name not in of_slide:
                    raise FeatureError(f"{name} has no feature file: extract it first")
                yield (
                    name,
                    _measured(
                        reader,
                        open_features(of_slide[name]),
                        name,
                        chosen,
                        nuclei_threshold=nuclei_threshold,
                        on_progress=on_progress,
                    ),
                )
            except (HistofastError, OSError) as error:
                yield name, error


def _files_of(
    features: str | Path | Sequence[str | Path], names: frozenset[str]
) -> dict[str, Path]:
    """Return the feature file of each slide that has one."""
    found: dict[str, Path] = {}
    for path in list_features(features)[0]:
        if path.stem in names and found.setdefault(path.stem, path) != path:
            raise ValueError(
                f"features must be one file of each slide, got {found[path.stem]} and {path}: "
                "name the folder of one encoder"
            )
    return found


def _measured(
    reader: PatchReader,
    file: FeatureFile,
    name: str,
    concepts: tuple[str, ...],
    *,
    nuclei_threshold: float,
    on_progress: Callable[[str, int, int], None] | None,
) -> MeasuredSlide:
    rows = np.setdiff1d(np.arange(len(file.features)), file.unreadable_patches)
    if not len(rows):
        raise FeatureError(f"{file.path} must have patches that can be read, got none")
    values = []
    for first in range(0, len(rows), _ROWS):
        stop_if_asked()
        pixels = reader.read(file, rows[first : first + _ROWS])
        values.append(measure(pixels, names=concepts, nuclei_threshold=nuclei_threshold))
        if on_progress is not None:
            on_progress(name, min(first + _ROWS, len(rows)), len(rows))
    assert file.coords is not None  # `read` has refused a file that does not tell
    return MeasuredSlide(
        slide=name,
        concepts=concepts,
        coords_l0=file.coords[rows],
        values=np.concatenate(values),
        left_out=len(file.features) - len(rows),
    )
