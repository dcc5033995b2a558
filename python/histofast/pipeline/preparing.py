"""One slide: its identity, whether its files are there already, its tissue, plan and stream."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast._files import Lock
from histofast.encoders import CPU, EncoderSet, EncoderSpec
from histofast.errors import FeatureError, ModelError, TileError
from histofast.features import FeatureWriter, feature_path, read_summary
from histofast.jobs import differences
from histofast.patches import (
    Job,
    MaskFile,
    PatchBatch,
    bag_patch_px,
    stream_bag,
    stream_slide,
    survey_tissue,
)
from histofast.pipeline.options import Settled
from histofast.pipeline.reports import Clock, SlideReport
from histofast.tiling import plan_patches

# Raised whenever the same input would give other bytes than before; part of every file's identity.
REVISION = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class _Output:
    """One feature file to be made: of which encoder, and whose run gives its features."""

    spec: EncoderSpec
    encoders: EncoderSet
    path: Path
    identity: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Planned:
    """The patches of a slide or bag, and how to get their pixels."""

    coords_l0: NDArray[np.int64]
    tissue_fraction: NDArray[np.float32]
    unreadable_l0: NDArray[np.int64]  # what could not be looked at for tissue
    attributes: dict[str, Any]
    stream: Callable[[], Iterator[PatchBatch]]


@dataclass(kw_only=True, slots=True)
class Prepared:
    """A slide that is open and planned: everything the encoding side needs of it."""

    report: SlideReport
    planned: _Planned
    outputs: list[_Output]
    locks: list[Lock]
    started: float
    writers: list[FeatureWriter] = field(default_factory=list)  # one for each output
    is_cancelled: bool = False

    def open_writers(self, options: Settled) -> None:
        """Begin the files, whose space is taken now: not before the slide's turn has come."""
        clock = Clock(self.report.seconds)
        for output in self.outputs:
            self.writers.append(
                FeatureWriter(
                    output.path,
                    coords=self.planned.coords_l0,
                    d=output.spec.d,
                    identity=output.identity,
                    attributes={**self.planned.attributes, "encoder": output.spec.name},
                    tissue_fraction=self.planned.tissue_fraction,
                    dtype=options.dtype,
                    layout=options.layout,
                )
            )
        clock.lap("write")

    def close(self) -> None:
        """Remove the files that are not finished, and let other processes make them."""
        with ExitStack() as stack:  # whatever one of them meets
            stack.callback(_release, self.locks)
            for writer in self.writers:
                stack.callback(writer.close)


class Busy(Exception):
    """Another process is making one of the files."""


def _outputs(
    job: Job,
    source: _BagSource | _SlideSource,
    encoders: Sequence[EncoderSet],
    options: Settled,
) -> list[_Output]:
    return [
        _Output(
            spec=spec,
            encoders=together,
            path=feature_path(
                options.out,
                mpp=options.mpp if options.mag_known else None,
                patch_px=source.patch_px,
                overlap_px=options.overlap_px,
                encoder=spec.name,
                slide=job.name,
                layout=options.layout,
            ),
            identity={
                "revision": REVISION,
                "encoder": _made_by(spec, together.provider, options),
                "dtype": options.dtype,
                "layout": options.layout,
                **source.made_of,
            },
        )
        for together in encoders
        for spec in together.specs
    ]


def _made_by(spec: EncoderSpec, provider: str, options: Settled) -> dict[str, Any]:
    made_by: dict[str, Any] = {"name": spec.name, "sha256": spec.sha256, "provider": provider}
    if spec.is_cut:  # the file alone does not tell which
        made_by["layer"] = spec.layer
    if provider != CPU:  # elsewhere the last bits depend on the company in a batch
        made_by["batch_size"] = options.batch_size
    return made_by


def _missing(outputs: Sequence[_Output], options: Settled, report: SlideReport) -> list[_Output]:
    """Those not there yet; a file that something else made is in the way.

    What the others say of unreadable regions goes into `report`.
    """
    missing = []
    for output in outputs:
        if not output.path.exists():
            missing.append(output)
            continue
        found = read_summary(output.path)
        if found is None or found.identity != output.identity:
            if not options.overwrite:
                raise FeatureError(_in_the_way(output, found.identity if found else None))
            missing.append(output)
        elif not found.is_complete:
            missing.append(output)
        elif options.strict and found.unreadable:
            if not options.overwrite:
                raise FeatureError(
                    f"{output.path} lists {found.unreadable} unreadable "
                    f"region{'s' * (found.unreadable > 1)}, which strict=True refuses: copy the slide "
                    "again, then replace the file with overwrite=True"
                )
            missing.append(output)
        else:
            report.unreadable = max(report.unreadable, found.unreadable)
            report.damaged_patches = max(report.damaged_patches, found.damaged_patches)
    return missing


def _in_the_way(output: _Output, found: Mapping[str, Any] | None) -> str:
    if found is None:
        what = "is no feature file of histofast, or a broken one"
    else:
        differs = differences(found, json.loads(json.dumps(output.identity)))
        what = "was made by something else (" + "; ".join(differs) + ")"
    return f"{output.path} {what}: choose another output folder, or replace it with overwrite=True"


def _acquire(outputs: Sequence[_Output]) -> list[Lock]:
    """Take all locks or none."""
    locks = [Lock(output.path) for output in outputs]
    held: list[Lock] = []
    for lock in locks:
        if not lock.acquire():
            _release(held)
            raise Busy
        held.append(lock)
    return held


def prepare(
    job: Job,
    report: SlideReport,
    encoders: Sequence[EncoderSet],
    options: Settled,
    pool: ThreadPoolExecutor,
    stack: ExitStack,
    *,
    only_plan: bool = False,
) -> Prepared | None:
    """Open and plan a slide; None when all its files are there. Fills in `report`.

    What is opened is closed by `stack`; what is prepared is the caller's to close.
    """
    started = time.perf_counter()
    clock = Clock(report.seconds)
    source = _BagSource(job, options) if job.bag else _SlideSource(job, options, stack)
    _check_side(source.patch_px, encoders)
    outputs = _outputs(job, source, encoders, options)
    report.outputs = [str(output.path) for output in outputs]
    clock.lap("open")

    locks: list[Lock] = []
    try:
        if not only_plan:
            outputs = _missing(outputs, options, report)
            if outputs:
                locks = _acquire(outputs)
                # Another process may have finished one between the look and the lock.
                outputs = _missing(outputs, options, report)
            if not outputs:
                _release(locks)
                return None
        planned = source.plan(options, pool, clock)
    except BaseException:
        _release(locks)
        raise
    report.patches, report.unreadable = len(planned.coords_l0), len(planned.unreadable_l0)
    report.damaged_patches = 0
    return Prepared(report=report, planned=planned, outputs=outputs, locks=locks, started=started)


def _check_side(patch_px: int, encoders: Sequence[EncoderSet]) -> None:
    """Refuse patches that an encoder of one size does not take, before any is read."""
    for spec in (spec for together in encoders for spec in together.specs):
        fixed = spec.height_px
        if fixed and fixed != patch_px:
            raise ModelError(
                f"encoder {spec.name} takes patches of {fixed} x {fixed} px, got "
                f"{patch_px} x {patch_px} px: ask for patch_px={fixed}"
            )


def _release(locks: Sequence[Lock]) -> None:
    for lock in locks:
        lock.release()


class _BagSource:
    """A bag of ready-made patch images."""

    def __init__(self, job: Job, options: Settled) -> None:
        assert job.bag is not None
        self._bag = job.bag
        self.patch_px = options.patch_px or bag_patch_px(job.bag)
        self.made_of: dict[str, Any] = {
            "patches": job.bag.identity,
            "patch_px": self.patch_px,
            "mpp": options.mpp if options.mag_known else None,
        }

    def plan(self, options: Settled, pool: ThreadPoolExecutor, clock: Clock) -> _Planned:
        """All patches of the bag, in the table's order."""
        bag = self._bag
        attributes: dict[str, Any] = {
            "name": bag.name,
            "patch_size": self.patch_px,
            "coords_known": bag.coords_l0 is not None,
        }
        if options.mag_known:
            attributes |= {"mpp": options.mpp, "target_magnification": _magnification(options.mpp)}

        def stream() -> Iterator[PatchBatch]:
            return stream_bag(
                bag,
                patch_px=options.patch_px or None,
                batch_size=options.batch_size,
                allow_upsampling=options.allow_upsampling,
                workers=pool,
            )

        return _Planned(
            coords_l0=bag.coords,
            tissue_fraction=np.ones(len(bag), np.float32),
            unreadable_l0=np.empty((0, 4), np.int64),
            attributes=attributes,
            stream=stream,
        )


class _SlideSource:
    """A slide."""

    def __init__(self, job: Job, options: Settled, stack: ExitStack) -> None:
        self._name = job.name
        slide = stack.enter_context(job.open(mpp=job.mpp or options.mpp_override))
        self._slide = slide
        self._mask = MaskFile(job.mask) if job.mask else None
        self.patch_px = options.patch_px
        self.made_of: dict[str, Any] = {
            "slide": slide.identity,
            "level0_mpp": slide.mpp,
            "tissue": (
                self._mask.identity(options.tissue) if self._mask else options.tissue.identity
            ),
            "patch_px": options.patch_px,
            "mpp": options.mpp,
            "overlap": options.overlap_px,
            "min_tissue": options.min_tissue,
            "edge": options.edge,
        }

    def plan(self, options: Settled, pool: ThreadPoolExecutor, clock: Clock) -> _Planned:
        """The patches with tissue, row by row."""
        slide = self._slide
        found = survey_tissue(slide, options.tissue, self._mask, pool)
        clock.lap("tissue")
        if options.strict and len(found.unreadable_l0):
            raise TileError(f"{found.reason} (strict=True)")
        plan = plan_patches(
            slide,
            found.tissue,
            mpp=options.mpp,
            patch_px=options.patch_px,
            overlap_px=options.overlap_px,
            min_tissue=options.min_tissue,
            edge=options.edge,
            allow_upsampling=options.allow_upsampling,
        )
        clock.lap("plan")
        attributes = {
            "name": self._name,
            "patch_size": options.patch_px,
            "patch_size_level0": plan.patch_l0,
            "overlap": options.overlap_px,
            "level0_magnification": _magnification(slide.mpp),
            "target_magnification": _magnification(options.mpp),
            "level0_width": slide.levels[0].width,
            "level0_height": slide.levels[0].height,
            "mpp": options.mpp,
            "level0_mpp": slide.mpp,
            "level": plan.level,
        }

        def stream() -> Iterator[PatchBatch]:
            return stream_slide(slide, plan, batch_size=options.batch_size, workers=pool)

        return _Planned(
            coords_l0=plan.coords_l0,
            tissue_fraction=plan.tissue_fraction,
            unreadable_l0=found.unreadable_l0,
            attributes=attributes,
            stream=stream,
        )


def _magnification(mpp: float) -> float:
    """Nominal magnification of a scanner, 10 um per pixel being 1x."""
    return round(10 / mpp, 2)
