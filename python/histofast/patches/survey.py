"""Tissue of a slide as a run finds it: options, ready-made masks, and what could not be looked at."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast._files import refuse_stand_in, regular_file
from histofast._numbers import real_number, whole_number
from histofast._words import one_line
from histofast.errors import SlideError
from histofast.patches.packed import is_geojson, read_geojson
from histofast.slides import TIFF_MAGIC, Level, Slide, read_mask
from histofast.tissue import AREAS_REVISION, INK, Ink, Tissue, find_tissue
from histofast.tissue import REVISION as TISSUE_REVISION

# Keys of an object that say what it is and where; of two nobody knows which is meant.
_SAID_ONCE = ("type", "features", "geometry", "geometries", "coordinates")
_MOST_BYTES = 1 << 28  # of a GeoJSON: ten million points

# What fails one slide and leaves the run going on: all that is no interruption, our mistakes too.
SLIDE_FAILURES = Exception


@dataclass(frozen=True, kw_only=True, slots=True)
class TissueOptions:
    """How tissue is found: the arguments of `find_tissue`, which explains them."""

    mpp: float = 8.0
    threshold: int | None = None
    min_area_um2: float = 20_000.0
    max_hole_um2: float = 100_000.0
    ink: Ink = "remove"

    def __post_init__(self) -> None:
        for name in ("mpp", "min_area_um2", "max_hole_um2"):
            object.__setattr__(self, name, real_number(name, getattr(self, name)))
        threshold = whole_number("threshold", self.threshold, at_least=0, at_most=255)
        object.__setattr__(self, "threshold", threshold)
        if self.ink not in INK:
            raise ValueError(f"ink must be one of {', '.join(INK)}, got {self.ink!r}")

    @property
    def identity(self) -> dict[str, Any]:
        """What makes the mask of a given slide."""
        values = asdict(self)
        return {"revision": TISSUE_REVISION, "overview_mpp": values.pop("mpp"), **values}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FoundTissue:
    """The tissue of a slide, and what of the slide could not be looked at.

    `unreadable_l0` is (k, 4) int64 boxes (x, y, width, height), `reason` why the first of them is.
    """

    tissue: Tissue
    unreadable_l0: NDArray[np.int64]
    reason: str


class _Surveyed:
    """A slide whose overview is decoded by threads that are there already; keeps what it lacked."""

    def __init__(self, slide: Slide, pool: ThreadPoolExecutor) -> None:
        self.slide, self.pool = slide, pool
        self.unreadable_l0, self.reason = np.empty((0, 4), np.int64), ""

    @property
    def levels(self) -> tuple[Level, ...]:
        return self.slide.levels

    @property
    def mpp(self) -> float:
        return self.slide.mpp

    def overview(self, *, mpp: float = 8.0) -> NDArray[np.uint8]:
        survey = self.slide.survey(mpp=mpp, workers=self.pool)
        self.unreadable_l0, self.reason = survey.unreadable_l0, survey.reason
        return survey.picture


def find_tissue_with(
    slide: Slide, options: TissueOptions, mask: MaskFile | None, pool: ThreadPoolExecutor
) -> Tissue:
    """`find_tissue` as the pipeline calls it; a ready mask overrules the options."""
    return survey_tissue(slide, options, mask, pool).tissue


def survey_tissue(
    slide: Slide, options: TissueOptions, mask: MaskFile | None, pool: ThreadPoolExecutor
) -> FoundTissue:
    """`find_tissue_with`, and what could not be looked at."""
    surveyed = _Surveyed(slide, pool)
    try:
        tissue = find_tissue(
            surveyed,
            mpp=options.mpp,
            threshold=None if mask else options.threshold,
            min_area_um2=options.min_area_um2,
            max_hole_um2=options.max_hole_um2,
            ink=options.ink,
            mask=mask.read(slide, options) if mask else None,
            origin_l0=slide.origin_l0,
        )
    except ValueError as error:
        if mask is None:
            raise
        raise SlideError(f"mask {mask.path}: {error}") from error
    return FoundTissue(tissue=tissue, unreadable_l0=surveyed.unreadable_l0, reason=surveyed.reason)


class MaskFile:
    """A ready-made mask on disk."""

    def __init__(self, path: Path) -> None:
        self.path = regular_file(path, kind="mask", error=SlideError)
        self._is_geojson = is_geojson(path)
        try:
            self._content = read_geojson(path, most_bytes=_MOST_BYTES) if self._is_geojson else b""
            with path.open("rb") as file:
                # Of a picture no more than its digest: a pyramid may be larger than the memory.
                self._is_tiff = file.read(4) in TIFF_MAGIC
                file.seek(0)
                self._digest = "mask:" + hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise SlideError(f"cannot read mask {path}: {error.strerror}") from error

    def identity(self, options: TissueOptions) -> str | dict[str, Any]:
        """What makes the mask; the scale that the options ask for, where it decides what is read.

        Polygons are drawn at that scale, and of a pyramid one level is read.
        """
        if not (self._is_geojson or self._is_tiff):
            return self._digest
        return {
            "mask": self._digest,
            "overview_mpp": options.mpp,
            "revision": TISSUE_REVISION,
            **({"areas": AREAS_REVISION} if self._is_geojson else {}),
        }

    def read(self, slide: Slide, options: TissueOptions) -> NDArray[np.uint8] | dict[str, Any]:
        """Return what `find_tissue` takes for the mask of a slide."""
        if not self._is_geojson:
            return read_mask(self.path, size_wanted=slide.overview_size(mpp=options.mpp))
        try:
            value = json.loads(
                self._content,
                object_pairs_hook=_object,
                parse_int=float,
            )
        except RecursionError:
            raise SlideError(f"{self.path} must be GeoJSON, got lists nested too deeply") from None
        except ValueError as error:
            refuse_stand_in(self.path, error=SlideError)
            raise SlideError(f"{self.path} must be GeoJSON: {one_line(error)}") from error
        # QuPath's scripts write a plain list of features unless they are asked for a collection.
        if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
            return {"type": "FeatureCollection", "features": value}
        if not isinstance(value, dict):
            got = "a list" if isinstance(value, list) else "one value"
            raise SlideError(
                f"{self.path} must be a GeoJSON object, got {got}: export a FeatureCollection"
            )
        return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON that says one thing of its place."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        if twice := [key for key in _SAID_ONCE if keys.count(key) > 1]:
            raise ValueError(f"an object must have its {twice[0]} once, got it twice")
    return found
