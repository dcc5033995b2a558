"""A slide or a bag of patch images in; its identity, its patches and how to get their pixels out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast.errors import TileError
from histofast.patches import (
    FoundTissue,
    Job,
    PatchBatch,
    StainMap,
    fit_bag,
    measured_rows,
    stain_map,
    stream_fitted,
    stream_slide,
    survey_tissue,
)
from histofast.pipeline.options import Settled
from histofast.pipeline.reports import Clock
from histofast.pipeline.watching import Watched
from histofast.tiling import UM_AT_1X, PatchPlan, nominal_patch_l0, plan_patches
from histofast.tissue import MaskFile

Rows = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Planned:
    """The patches of a slide or bag, and how to get their pixels; `empty` is why there are none.

    `stream` gives those of all patches, or of some rows. `notes` are what the user should know of how tissue was found and cut.
    """

    coords_l0: NDArray[np.int64]
    tissue_fraction: NDArray[np.float32]
    unreadable_l0: NDArray[np.int64]  # what could not be looked at for tissue
    attributes: dict[str, Any]
    empty: str
    files: tuple[str, ...]  # of patch images, and their labels
    labels: tuple[str, ...]
    stream: Callable[[Rows | None], Iterator[PatchBatch]]
    notes: tuple[str, ...] = ()
    picture_px: int = 0  # of ready-made patches, before they are resampled


def planned_with(options: Settled, *, mpp: float | None = None) -> dict[str, Any]:
    """What of the options decides where the patches of a slide lie; `mpp` on it, where that is its own."""
    asked = {} if options.mag is None else {"mag": options.mag}
    return {
        **asked,
        "patch_px": options.patch_px,
        "mpp": options.mpp if mpp is None else mpp,
        "overlap": options.overlap_px,
        "min_tissue": options.min_tissue,
        "edge": options.edge,
        "resample": options.resample,
        **({"nominal_level0": True} if options.nominal_level0 else {}),
    }


def found_with(options: Settled) -> dict[str, Any]:
    """What of the options decides what is tissue, where no mask says so."""
    return {"tissue": options.tissue.identity}


class BagSource:
    """A bag of ready-made patch images."""

    def __init__(self, job: Job, options: Settled) -> None:
        assert job.bag is not None
        self.watched = Watched(job.bag.files)
        self._fitted = fit_bag(
            job.bag,
            patch_px=options.patch_px or None,
            allow_upsampling=options.allow_upsampling,
            resample=options.resample,
        )
        self.patch_px = self._fitted.patch_px
        self.made_of: dict[str, Any] = {
            "patches": job.bag.identity,
            "patch_px": self.patch_px,
            "mpp": options.mpp if options.mag_known else None,
            "resample": options.resample,
        }
        if self._fitted.odd != "error":
            self.made_of["odd_patches"] = self._fitted.odd

    def plan(self, options: Settled, pool: ThreadPoolExecutor, clock: Clock) -> Planned:
        """All patches of the bag, in the table's order."""
        bag, side_px = self._fitted.bag, self._fitted.side_px
        attributes: dict[str, Any] = {
            "name": bag.name,
            "patch_size": self.patch_px,
            "coords_known": bag.coords_l0 is not None,
            "picture_px": side_px,
            "resample": options.resample,
        }
        if options.mag_known:
            attributes |= {"mpp": options.mpp, "target_magnification": _magnification(options.mpp)}

        fitted = self._fitted

        def plain(rows: Rows | None) -> Iterator[PatchBatch]:
            some = fitted if rows is None else fitted.take(rows)
            return stream_fitted(some, batch_size=options.batch_size, workers=pool)

        stained = _stained(options, len(bag), plain, of=f"bag {bag.name}")
        clock.lap("plan")

        def stream(rows: Rows | None) -> Iterator[PatchBatch]:
            batches = plain(rows)
            return batches if stained is None else _mapped(batches, stained, options.workers)

        return Planned(
            coords_l0=bag.coords,
            tissue_fraction=np.ones(len(bag), np.float32),
            unreadable_l0=np.empty((0, 4), np.int64),
            attributes=attributes | _told(stained),
            empty="",
            files=bag.names,
            labels=bag.labels if any(bag.labels) else (),
            stream=stream,
            notes=(*fitted.notes, *(stained.notes if stained else ())),
            picture_px=side_px,
        )


class SlideSource:
    """A slide."""

    def __init__(self, job: Job, options: Settled, stack: ExitStack) -> None:
        self._job = job
        self.watched = Watched([job.path])
        slide = stack.enter_context(job.open(mpp=job.mpp or options.mpp_override))
        self.watched.add(slide.files)
        self._slide = slide
        self._mask = MaskFile(job.mask) if job.mask else None
        self.patch_px = options.patch_px
        self._mpp = options.mpp_on(slide.mpp)
        self.made_of: dict[str, Any] = {
            "slide": slide.identity,
            "level0_mpp": slide.mpp,
            **planned_with(options, mpp=self._mpp),
            **found_with(options),
        }
        if self._mask is not None:
            self.made_of["tissue"] = self._mask.identity(options.tissue.mpp)

    def plan(self, options: Settled, pool: ThreadPoolExecutor, clock: Clock) -> Planned:
        """The patches with tissue, row by row."""
        slide = self._slide
        found = survey_tissue(slide, options.tissue, self._mask, pool)
        clock.lap("tissue")
        if options.strict and len(found.unreadable_l0):
            raise TileError(f"{found.reason} (strict=True)")
        plan = self._plan_on(found, options, options.min_tissue)
        empty = "" if len(plan) else self._why_empty(found, options, pool)

        def plain(rows: Rows | None) -> Iterator[PatchBatch]:
            some = plan if rows is None else _some_of(plan, rows)
            return stream_slide(slide, some, batch_size=options.batch_size, workers=pool)

        stained = _stained(options, len(plan), plain, of=f"slide {self._job.name}")
        clock.lap("plan")
        attributes = {
            "name": self._job.name,
            "patch_size": options.patch_px,
            **self._sides_l0(plan, options),
            "overlap": options.overlap_px,
            "level0_magnification": _magnification(slide.mpp),
            "target_magnification": options.mag or _magnification(self._mpp),
            "level0_width": slide.levels[0].width,
            "level0_height": slide.levels[0].height,
            "mpp": self._mpp,
            "level0_mpp": slide.mpp,
            "level": plan.level,
            "resample": plan.resample,
        }

        def stream(rows: Rows | None) -> Iterator[PatchBatch]:
            batches = plain(rows)
            return batches if stained is None else _mapped(batches, stained, options.workers)

        return Planned(
            coords_l0=plan.coords_l0,
            tissue_fraction=plan.tissue_fraction,
            unreadable_l0=found.unreadable_l0,
            attributes=attributes | ({"empty": empty} if empty else {}) | _told(stained),
            empty=empty,
            files=(),
            labels=(),
            stream=stream,
            notes=(
                *options.notes_on(slide.mpp),
                *found.tissue.notes,
                *plan.notes,
                *(stained.notes if stained else ()),
            ),
        )

    def _sides_l0(self, plan: PatchPlan, options: Settled) -> dict[str, int]:
        """Side of a patch in level-0 pixels, under the names that readers of it expect."""
        if not options.nominal_level0:
            return {"patch_size_level0": plan.patch_l0}
        nominal = nominal_patch_l0(plan.patch_px, mpp=options.mpp, slide_mpp=self._slide.mpp)
        return {"patch_size_level0": nominal, "patch_size_level0_exact": plan.patch_l0}

    def _plan_on(self, found: FoundTissue, options: Settled, min_tissue: float) -> PatchPlan:
        return plan_patches(
            self._slide,
            found.tissue,
            mpp=self._mpp,
            patch_px=options.patch_px,
            overlap_px=options.overlap_px,
            min_tissue=min_tissue,
            edge=options.edge,
            allow_upsampling=options.allow_upsampling,
            resample=options.resample,
        )

    def _why_empty(self, found: FoundTissue, options: Settled, pool: ThreadPoolExecutor) -> str:
        """Say why there is no patch."""
        if found.tissue.mask.any():
            most = self._plan_on(found, options, 0.0).tissue_fraction.max(initial=0.0)
            return f"no patch has min_tissue of {options.min_tissue:g}, the most that one has is {most:.2g}"
        if self._mask is not None:
            return f"the mask {self._job.mask} marks nothing"
        if options.tissue.ink == "remove":
            with_ink = replace(options.tissue, ink="keep")
            if survey_tissue(self._slide, with_ink, None, pool).tissue.mask.any():
                return "all that could be tissue was taken for pen marks or black"
        return "no tissue was found"


def _some_of(plan: PatchPlan, rows: Rows) -> PatchPlan:
    return replace(plan, coords_l0=plan.coords_l0[rows], tissue_fraction=plan.tissue_fraction[rows])


def _stained(
    options: Settled,
    n: int,
    sampled: Callable[[Rows], Iterator[PatchBatch]],
    *,
    of: str,
) -> StainMap | None:
    """Measure stains on evenly spaced patches of `n`; None where nothing is to be mapped."""
    if options.stain is None or not n:
        return None
    pixels = [batch.pixels.reshape(-1, 3) for batch in sampled(measured_rows(n))]
    return stain_map(options.stain, np.concatenate(pixels), of=of)


def _mapped(
    batches: Iterator[PatchBatch], stained: StainMap, threads: int | None
) -> Iterator[PatchBatch]:
    for batch in batches:
        yield batch._replace(pixels=stained.apply(batch.pixels, threads=threads or 1))


def _told(stained: StainMap | None) -> dict[str, str]:
    """What a feature file keeps, so that its pixels can be made again."""
    return {} if stained is None else {"stain_map": stained.text}


def _magnification(mpp: float) -> float:
    """Nominal magnification of a scanner, 10 um per pixel being 1x."""
    return round(UM_AT_1X / mpp, 2)
