"""A slide or a bag of patch images in; its identity, its patches and how to get their pixels out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast._remote import Address
from histofast.errors import SlideError, TileError
from histofast.features import SelectedRows
from histofast.patches import (
    FittedBag,
    FoundTissue,
    GivenCoords,
    Job,
    PatchBatch,
    StainMap,
    fit_bag,
    measured_rows,
    read_given,
    stain_map,
    stream_fitted,
    stream_slide,
    survey_tissue,
)
from histofast.pipeline.options import Settled
from histofast.pipeline.reports import Clock
from histofast.pipeline.selecting import attention_on
from histofast.pipeline.staging import staged
from histofast.pipeline.watching import Watched
from histofast.slides import (
    ColourTable,
    NeedsFile,
    is_zarr,
    open_slide,
    remote_parts,
    srgb_table,
)
from histofast.tiling import UM_AT_1X, PatchPlan, nominal_patch_l0, plan_patches
from histofast.tissue import MaskFile

_NO_PROFILE = "it has no ICC profile: its colours are as they are"
Rows = NDArray[np.int64]
MadeOf = Callable[[float], dict[str, Any]]  # what of an identity is a slide's of that um per pixel
Stream = Callable[[Rows | None], Iterator[PatchBatch]]  # of some patches, rows rising; None: of all


@dataclass(frozen=True, kw_only=True, slots=True)
class Looked:
    """What an encoder that chooses among the patches of a slide sees of it.

    Attributes:
        stream: its patches.
        patch_px: their side.
        is_same: whether they are the planned patches, pixel by pixel.
        onto: takes (m,) attention of its patches, gives (n,) that of the planned ones.
    """

    stream: Stream
    patch_px: int
    is_same: bool
    onto: Callable[[NDArray[np.float64]], NDArray[np.float64]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Planned:
    """The patches of a slide or bag, and how to get their pixels; `empty` is why there are none.

    `stream` gives those of all patches, or of some rows. `notes` are what the user should know of how tissue was found and cut.
    """

    coords_l0: NDArray[np.int64]
    tissue_fraction: NDArray[np.float32] | None  # None: nobody has looked
    unreadable_l0: NDArray[np.int64]  # what could not be looked at for tissue
    attributes: dict[str, Any]
    empty: str
    files: tuple[str, ...]  # of patch images, and their labels
    labels: tuple[str, ...]
    stream: Stream
    look: Callable[[Settled], Looked]  # with the options of another encoder
    notes: tuple[str, ...] = ()
    picture_px: int = 0  # of ready-made patches, before they are resampled
    selection: SelectedRows | None = None  # None: these are all patches

    def part(self, rows: Rows) -> Planned:
        """Return some of the patches, rows rising."""
        return replace(
            self,
            coords_l0=self.coords_l0[rows],
            tissue_fraction=None if self.tissue_fraction is None else self.tissue_fraction[rows],
            files=tuple(self.files[row] for row in rows) if self.files else (),
            labels=tuple(self.labels[row] for row in rows) if self.labels else (),
            stream=lambda some: self.stream(rows if some is None else rows[some]),
        )


def planned_with(options: Settled, *, mpp: float | None = None) -> dict[str, Any]:
    """What of the options decides where the patches of a slide lie; `mpp` on it, where that is its own."""
    asked = {} if options.mag is None else {"mag": options.mag}
    return {
        **asked,
        "patch_px": options.patch_px,
        "mpp": options.mpp if mpp is None else mpp,
        **(
            {"overlap": options.overlap_px, "min_tissue": options.min_tissue}
            if options.coords is None
            else {}
        ),
        "edge": options.edge,
        "resample": options.resample,
        **({"nominal_level0": True} if options.nominal_level0 else {}),
    }


def found_with(options: Settled) -> dict[str, Any]:
    """What of the options decides what is tissue, where no mask says so and it matters."""
    return {} if options.coords is not None else {"tissue": options.tissue.identity}


class AlreadyThere(Exception):
    """All files of a slide are there, so that it need not be copied."""


class BagSource:
    """A bag of ready-made patch images."""

    def __init__(self, job: Job, options: Settled) -> None:
        assert job.bag is not None
        self.watched = Watched(job.bag.files)
        self._bag = job.bag
        self._fitted = self._fit(options)
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
        fitted = self._fitted
        bag, side_px = fitted.bag, fitted.side_px
        attributes: dict[str, Any] = {
            "name": bag.name,
            "patch_size": self.patch_px,
            "coords_known": bag.coords_l0 is not None,
            "picture_px": side_px,
            "resample": options.resample,
        }
        if options.mag_known:
            attributes |= {"mpp": options.mpp, "target_magnification": _magnification(options.mpp)}

        stream, stained = self._streamed(fitted, options, pool)
        clock.lap("plan")

        def look(looking: Settled) -> Looked:
            other = self._fit(looking)
            is_same = _same_pixels(options, looking) and other.patch_px == fitted.patch_px
            return Looked(
                stream=stream if is_same else self._streamed(other, looking, pool)[0],
                patch_px=other.patch_px,
                is_same=is_same,
                onto=lambda attention: attention,  # of the same pictures
            )

        return Planned(
            coords_l0=bag.coords,
            tissue_fraction=np.ones(len(bag), np.float32),
            unreadable_l0=np.empty((0, 4), np.int64),
            attributes=attributes | _told(stained),
            empty="",
            files=bag.names,
            labels=bag.labels if any(bag.labels) else (),
            stream=stream,
            look=look,
            notes=(*fitted.notes, *(stained.notes if stained else ())),
            picture_px=side_px,
        )

    def _fit(self, options: Settled) -> FittedBag:
        return fit_bag(
            self._bag,
            patch_px=options.patch_px or None,
            allow_upsampling=options.allow_upsampling,
            resample=options.resample,
        )

    @staticmethod
    def _streamed(
        fitted: FittedBag, options: Settled, pool: ThreadPoolExecutor
    ) -> tuple[Stream, StainMap | None]:
        def plain(rows: Rows | None) -> Iterator[PatchBatch]:
            some = fitted if rows is None else fitted.take(rows)
            return stream_fitted(some, batch_size=options.batch_size, workers=pool)

        return _with_stains(plain, len(fitted.bag), options, of=f"bag {fitted.bag.name}")


class SlideSource:
    """A slide."""

    def __init__(
        self,
        job: Job,
        options: Settled,
        stack: ExitStack,
        *,
        is_there: Callable[[MadeOf], bool] = lambda made_of: False,
        is_unwanted: Callable[[], bool] = lambda: False,
    ) -> None:
        """Open a slide; `stack` closes it.

        One that must be copied first is not, if by its identity `is_there` says that there is nothing to do.

        Raises:
            AlreadyThere: it says so.
            Stopped: it had to be copied, and `is_unwanted` says that nobody waits for it.
        """
        self._job = job
        # Of OME-Zarr nothing is known before its documents are read.
        self.watched = Watched([] if is_zarr(job.path) else [job.path])
        self._mask = MaskFile(job.mask) if job.mask else None
        self._coords = None if job.coords is None else read_given(job.coords)
        self.patch_px = options.patch_px
        mpp, identity = job.mpp or options.mpp_override, ""
        try:
            slide = stack.enter_context(job.open(mpp=mpp))
        except NeedsFile:
            if options.staging is None or not isinstance(job.path, Address):
                raise
            parts = remote_parts(job.path)
            identity = parts.identity
            if is_there(lambda found_mpp: self._made_of(identity, mpp or found_mpp, options)):
                raise AlreadyThere from None
            copy = staged(parts, options.staging, stack, is_unwanted=is_unwanted)
            slide = stack.enter_context(open_slide(copy, mpp_override=mpp))
        if not identity:  # nobody else writes to a copy, which is gone when the slide is closed
            self.watched.add(slide.files)
        self._slide = slide
        self._mpp = options.mpp_on(slide.mpp)
        self.made_of = self._made_of(identity or slide.identity, slide.mpp, options)

    def _made_of(self, identity: str, slide_mpp: float, options: Settled) -> dict[str, Any]:
        made_of: dict[str, Any] = {
            "slide": identity,
            "level0_mpp": slide_mpp,
            **planned_with(options, mpp=options.mpp_on(slide_mpp)),
            **found_with(options),
        }
        if self._coords is not None:
            made_of["coords"] = self._coords.identity
        if self._mask is not None:
            made_of["tissue"] = self._mask.identity(options.tissue.mpp)
        return made_of

    def plan(self, options: Settled, pool: ThreadPoolExecutor, clock: Clock) -> Planned:
        """The patches with tissue, or those that are named, row by row."""
        if self._coords is not None:
            plan = self._plan_at(self._coords, options)
            empty = "" if len(plan) else f"no patch of {self._coords.path} is whole on the slide"
            return self._planned(plan, None, empty, self._coords.notes, options, pool, clock)
        found = survey_tissue(self._slide, options.tissue, self._mask, pool, device=options.device)
        clock.lap("tissue")
        if options.strict and len(found.unreadable_l0):
            raise TileError(f"{found.reason} (strict=True)")
        plan = self._plan_on(found, options, options.min_tissue)
        empty = "" if len(plan) else self._why_empty(found, options, pool)
        return self._planned(plan, found, empty, found.tissue.notes, options, pool, clock)

    def _planned(
        self,
        plan: PatchPlan,
        found: FoundTissue | None,
        empty: str,
        notes: tuple[str, ...],
        options: Settled,
        pool: ThreadPoolExecutor,
        clock: Clock,
    ) -> Planned:
        """Say of a plan how its pixels come, and what is told of it; `found`: the tissue, if it was looked for."""
        slide = self._slide
        colours = self._colours(options)
        stream, stained = self._streamed(plan, options, pool)
        clock.lap("plan")

        def look(looking: Settled) -> Looked:
            if not self._cuts_alike(options, looking):
                assert found is not None, "patches of own coordinates are not chosen from"
                return self._look(found, plan, looking, pool)
            return Looked(
                stream=stream,
                patch_px=plan.patch_px,
                is_same=True,
                onto=lambda attention: attention,
            )

        return Planned(
            coords_l0=plan.coords_l0,
            tissue_fraction=None if found is None else plan.tissue_fraction,
            unreadable_l0=np.empty((0, 4), np.int64) if found is None else found.unreadable_l0,
            attributes=self._attributes(plan, options)
            | ({"empty": empty} if empty else {})
            | ({"icc_profile": colours.sha256 if colours else "none"} if options.icc else {})
            | _told(stained),
            empty=empty,
            files=(),
            labels=(),
            stream=stream,
            look=look,
            notes=(
                *options.notes_on(slide.mpp),
                *notes,
                *plan.notes,
                *([_NO_PROFILE] if options.icc and colours is None else []),
                *(stained.notes if stained else ()),
            ),
        )

    def _attributes(self, plan: PatchPlan, options: Settled) -> dict[str, Any]:
        """What a feature file says of the slide and its patches."""
        slide = self._slide
        return {
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

    def _streamed(
        self, plan: PatchPlan, options: Settled, pool: ThreadPoolExecutor
    ) -> tuple[Stream, StainMap | None]:
        colours = self._colours(options)

        def plain(rows: Rows | None) -> Iterator[PatchBatch]:
            some = plan if rows is None else _some_of(plan, rows)
            batches = stream_slide(self._slide, some, batch_size=options.batch_size, workers=pool)
            return batches if colours is None else _mapped(batches, colours, options.workers)

        return _with_stains(plain, len(plan), options, of=f"slide {self._job.name}")

    def _colours(self, options: Settled) -> ColourTable | None:
        """Return what the slide's profile makes of colours, where that is asked for and there is one."""
        profile = self._slide.icc_profile if options.icc else b""
        return srgb_table(profile, of=f"slide {self._job.name}") if profile else None

    def _cuts_alike(self, options: Settled, looking: Settled) -> bool:
        """Whether two encoders see the same pixels of every place of the grid."""
        cuts = [
            (each.mpp_on(self._slide.mpp), each.patch_px, each.overlap_px, each.edge)
            for each in (options, looking)
        ]
        return cuts[0] == cuts[1] and _same_pixels(options, looking)

    def _look(
        self, found: FoundTissue, plan: PatchPlan, looking: Settled, pool: ThreadPoolExecutor
    ) -> Looked:
        """What an encoder sees that wants patches of its own, on the same tissue."""
        theirs = self._plan_on(found, looking, looking.min_tissue)
        if not len(theirs):
            raise SlideError(
                f"slide {self._job.name} must have patches of {looking.patch_px} px at {theirs.mpp:g} um "
                "per pixel for the encoder that chooses, got none"
            )
        return Looked(
            stream=self._streamed(theirs, looking, pool)[0],
            patch_px=theirs.patch_px,
            is_same=False,
            onto=lambda attention: attention_on(
                attention,
                theirs.coords_l0,
                theirs.patch_l0,
                onto_l0=plan.coords_l0,
                onto_side_l0=plan.patch_l0,
            ),
        )

    def _sides_l0(self, plan: PatchPlan, options: Settled) -> dict[str, int]:
        """Side of a patch in level-0 pixels, under the names that readers of it expect."""
        if not options.nominal_level0:
            return {"patch_size_level0": plan.patch_l0}
        nominal = nominal_patch_l0(plan.patch_px, mpp=options.mpp, slide_mpp=self._slide.mpp)
        return {"patch_size_level0": nominal, "patch_size_level0_exact": plan.patch_l0}

    def _plan_at(self, coords: GivenCoords, options: Settled) -> PatchPlan:
        return coords.plan(
            self._slide,
            mpp=self._mpp,
            patch_px=options.patch_px,
            edge=options.edge,
            allow_upsampling=options.allow_upsampling,
            resample=options.resample,
        )

    def _plan_on(self, found: FoundTissue, options: Settled, min_tissue: float) -> PatchPlan:
        return plan_patches(
            self._slide,
            found.tissue,
            mpp=options.mpp_on(self._slide.mpp),
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
        if options.tissue.spec is not None:
            return f"{options.tissue.spec.name} marks no tissue"
        if options.tissue.ink == "remove":
            with_ink = replace(options.tissue, ink="keep")
            if survey_tissue(self._slide, with_ink, None, pool).tissue.mask.any():
                return "all that could be tissue was taken for pen marks or black"
        return "no tissue was found"


def _some_of(plan: PatchPlan, rows: Rows) -> PatchPlan:
    return replace(plan, coords_l0=plan.coords_l0[rows], tissue_fraction=plan.tissue_fraction[rows])


def _same_pixels(options: Settled, looking: Settled) -> bool:
    """Whether pixels become those of a patch in the same way."""
    stains = [each.stain and each.stain.identity for each in (options, looking)]
    is_same = options.resample == looking.resample and options.icc == looking.icc
    return is_same and stains[0] == stains[1]


def _with_stains(
    plain: Stream, n: int, options: Settled, *, of: str
) -> tuple[Stream, StainMap | None]:
    """Return a stream of `n` patches as they are asked for, and what maps their colours."""
    stained = _stained(options, n, plain, of=of)
    if stained is None:
        return plain, None

    def stream(rows: Rows | None) -> Iterator[PatchBatch]:
        return _mapped(plain(rows), stained, options.workers)

    return stream, stained


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
    batches: Iterator[PatchBatch], colours: ColourTable | StainMap, threads: int | None
) -> Iterator[PatchBatch]:
    for batch in batches:
        yield batch._replace(pixels=colours.apply(batch.pixels, threads=threads or 1))


def _told(stained: StainMap | None) -> dict[str, str]:
    """What a feature file keeps, so that its pixels can be made again."""
    return {} if stained is None else {"stain_map": stained.text}


def _magnification(mpp: float) -> float:
    """Nominal magnification of a scanner, 10 um per pixel being 1x."""
    return round(UM_AT_1X / mpp, 2)
