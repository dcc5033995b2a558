"""Tissue of a slide as a run finds it: options, ready-made masks, and what could not be looked at."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast._numbers import real_number, whole_number
from histofast.errors import SlideError
from histofast.slides import Level, Slide
from histofast.tissue import INK, Ink, MaskFile, Tissue, find_tissue
from histofast.tissue import REVISION as TISSUE_REVISION

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
            mask=mask.read(slide.overview_size(mpp=options.mpp)) if mask else None,
            origin_l0=slide.origin_l0,
        )
    except ValueError as error:
        if mask is None:
            raise
        raise SlideError(f"mask {mask.path}: {error}") from error
    return FoundTissue(tissue=tissue, unreadable_l0=surveyed.unreadable_l0, reason=surveyed.reason)
