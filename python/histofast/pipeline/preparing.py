"""One slide: its identity, whether its files are there already, its tissue, plan and stream."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from histofast._words import count
from histofast.encoders import CPU, EncoderSet, EncoderSpec
from histofast.errors import FeatureError
from histofast.features import FeatureWriter, feature_path, options_in, read_summary
from histofast.jobs import differences
from histofast.patches import Job
from histofast.pipeline.folders import Folder, folder_of
from histofast.pipeline.holding import Held, Holding
from histofast.pipeline.options import Settled
from histofast.pipeline.ranking import Ranker
from histofast.pipeline.reports import Clock, SlideReport
from histofast.pipeline.sources import (
    AlreadyThere,
    BagSource,
    MadeOf,
    Planned,
    SlideSource,
    found_with,
    planned_with,
)
from histofast.pipeline.watching import Watched
from histofast.tiling import Resample

# Raised whenever the same input would give other bytes than before; part of every file's identity.
REVISION = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class _Output:
    """One feature file to be made: of which encoder, and whose run gives its features."""

    spec: EncoderSpec
    encoders: EncoderSet
    path: Path
    identity: dict[str, Any]


@dataclass(kw_only=True, slots=True)
class Prepared:
    """A slide that is open and planned: everything the encoding side needs of it."""

    report: SlideReport
    planned: Planned
    watched: Watched
    outputs: list[_Output]
    started: float
    holding: Holding | None = None  # of the outputs; None where only plans are made
    held: list[Held] = field(default_factory=list)
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
                    attributes={**self.planned.attributes, **_told_of(output.spec)},
                    tissue_fraction=self.planned.tissue_fraction,
                    files=self.planned.files,
                    labels=self.planned.labels,
                    selection=self.planned.selection,
                    dtype=options.dtype,
                    layout=options.layout,
                )
            )
        clock.lap("write")

    def check_held(self, *, look: bool) -> None:
        """Refuse to go on with what another process has taken over; see `Holding.check`."""
        if self.holding is not None:
            self.holding.check(self.held, look=look)

    def close(self) -> None:
        """Remove the files that are not finished, and let other processes make them."""
        with ExitStack() as stack:  # whatever one of them meets
            if self.holding is not None:
                stack.callback(self.holding.release, self.held)
            for writer in self.writers:
                stack.callback(writer.close)


def _told_of(spec: EncoderSpec) -> dict[str, str]:
    """What a feature file says of its encoder, beside the identity."""
    told = {"encoder_licence": spec.terms, "reduction": spec.reduction}
    return {"encoder": spec.name} | {key: text for key, text in told.items() if text}


class _Seen(NamedTuple):
    """What is known of a slide that was not opened."""

    patch_px: int
    made_of: dict[str, Any]


def _outputs(
    job: Job,
    source: BagSource | SlideSource | _Seen,
    encoders: Sequence[EncoderSet],
    options: Settled,
    ranker: Ranker | None,
) -> list[_Output]:
    chosen = _chosen_with(options, ranker, slide=job.name)
    return [
        _Output(
            spec=spec,
            encoders=together,
            path=_place(spec, options, slide=job.name, patch_px=source.patch_px),
            identity=_made_with(spec, together.provider, options) | chosen | source.made_of,
        )
        for together in encoders
        for spec in together.specs
    ]


def _place(spec: EncoderSpec, options: Settled, *, slide: str, patch_px: int) -> Path:
    return feature_path(
        options.out,
        mpp=options.mpp if options.mag_known else None,
        patch_px=patch_px,
        overlap_px=options.overlap_px,
        encoder=spec.name,
        slide=slide,
        layout=options.layout,
    )


def _made_with(spec: EncoderSpec, provider: str, options: Settled) -> dict[str, Any]:
    """What of an identity all slides of a run share, whatever they are."""
    return {
        "revision": REVISION,
        "encoder": _made_by(spec, provider, options),
        "dtype": options.dtype,
        "layout": options.layout,
        **({} if options.icc is None else {"icc": options.icc}),
        **({} if options.stain is None else {"stain": options.stain.identity}),
        **({} if options.select is None else {"select": options.select.identity}),
    }


def _chosen_with(options: Settled, ranker: Ranker | None, *, slide: str) -> dict[str, Any]:
    """What of an identity says which patches of this slide are encoded."""
    if options.select is None:
        return {}
    made_by = {} if ranker is None else ranker.made_by
    folds = options.select.ranking.folds_of(slide)
    return {"select": {**options.select.identity, **made_by, "folds": list(folds)}}


def folders_of(encoders: Sequence[EncoderSet], options: Settled) -> tuple[Folder, ...]:
    """Return the folders that a run writes to, as far as they are known before its first slide.

    Bags of patches of their own sizes have folders of their own: none is known.
    """
    if not options.patch_px:
        return ()
    shared: dict[str, Any] = {"resample": options.resample}
    if not options.of_bags:  # a file says only that it is nominal, for all others are exact
        shared |= {"nominal_level0": options.nominal_level0}
        shared |= {**planned_with(options), **found_with(options)}
        shared |= {} if options.coords is None else {"coords": {}}
    folders = []
    for together in encoders:
        for spec in together.specs:
            place = _place(spec, options, slide="any", patch_px=options.patch_px)
            identity = _made_with(spec, together.provider, options) | shared
            path = folder_of(place, options.layout)
            folders.append(Folder(path=path, options=options_in(identity)))
    return tuple(folders)


def _made_by(spec: EncoderSpec, provider: str, options: Settled) -> dict[str, Any]:
    made_by: dict[str, Any] = {"name": spec.name, "sha256": spec.sha256, "provider": provider}
    if spec.is_cut:  # the file alone does not tell which
        made_by["layer"] = spec.layer
    if provider != CPU:  # elsewhere the last bits depend on the company in a batch
        made_by["batch_size"] = options.batch_size
    return made_by


def _missing(
    outputs: Sequence[_Output], options: Settled, report: SlideReport, seen: str
) -> list[_Output]:
    """Those not there yet; a file that something else made is in the way.

    One that lists unreadable regions of a slide that looked otherwise then is not there: they may be
    mended. What the others say of regions, and of why they are empty, goes into `report`.
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
        elif not found.is_complete or (
            found.unreadable and (options.overwrite or found.seen != seen)
        ):
            missing.append(output)
        elif found.unreadable and options.strict:
            raise FeatureError(
                f"{output.path} lists {count(found.unreadable, 'unreadable region')}, which "
                "strict=True refuses: copy the slide again"
            )
        else:
            report.reason = found.empty
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


def _source(
    job: Job,
    report: SlideReport,
    encoders: Sequence[EncoderSet],
    options: Settled,
    stack: ExitStack,
    ranker: Ranker | None,
    is_unwanted: Callable[[], bool],
) -> BagSource | SlideSource | None:
    """Open a slide or bag; None where it need not be, for all its files are there."""
    if job.bag:
        return BagSource(job, options)

    def is_there(made_of: MadeOf) -> bool:
        """Whether files of the slide are there; what a copy would tell is taken from them."""
        spec = encoders[0].specs[0]
        place = _place(spec, options, slide=job.name, patch_px=options.patch_px)
        found = read_summary(place) if place.exists() else None
        found_mpp = found and found.identity.get("level0_mpp")
        if not isinstance(found_mpp, float):
            return False
        seen = _Seen(options.patch_px, made_of(found_mpp))
        outputs = _outputs(job, seen, encoders, options, ranker)
        report.outputs = [str(output.path) for output in outputs]
        return not _missing(outputs, options, report, seen="")

    try:
        return SlideSource(job, options, stack, is_there=is_there, is_unwanted=is_unwanted)
    except AlreadyThere:
        return None


def prepare(
    job: Job,
    report: SlideReport,
    encoders: Sequence[EncoderSet],
    options: Settled,
    pool: ThreadPoolExecutor,
    stack: ExitStack,
    *,
    holding: Holding | None,
    ranker: Ranker | None = None,
    is_unwanted: Callable[[], bool] = lambda: False,
) -> Prepared | None:
    """Open and plan a slide; None when all its files are there. Fills in `report`, but its status.

    What is opened is closed by `stack`; what is prepared is the caller's to close. Locks on the files
    to be made are taken into `holding`; without one the slide is planned only, whatever is there. With a
    `ranker` only the patches that it chooses are planned, unless `is_unwanted` says that nobody waits.
    """
    started = time.perf_counter()
    clock = Clock(report.seconds)
    source = _source(job, report, encoders, options, stack, ranker, is_unwanted)
    if source is None:
        return None
    outputs = _outputs(job, source, encoders, options, ranker)
    report.outputs = [str(output.path) for output in outputs]
    clock.lap("open")
    if not options.patch_px and holding is not None:
        for output in outputs:
            folder = folder_of(output.path, options.layout)
            found = Folder(path=folder, options=options_in(output.identity))
            found.claim(overwrite=options.overwrite)

    held: list[Held] = []
    try:
        if holding is not None:
            seen = source.watched.seen
            outputs = _missing(outputs, options, report, seen)
            if outputs:
                held = holding.acquire(output.path for output in outputs)
                # Another process may have finished one between the look and the lock.
                outputs = _missing(outputs, options, report, seen)
            if not outputs:
                holding.release(held)
                return None
        planned = source.plan(options, pool, clock)
        if ranker is not None and len(planned.coords_l0):
            report.tissue_patches = len(planned.coords_l0)
            planned, told = ranker.choose(planned, job.name, is_unwanted=is_unwanted)
            report.of_run += told
            clock.lap("rank")
    except BaseException:
        if holding is not None:
            holding.release(held)
        raise
    _enter(report, planned, source.patch_px, encoders, options)
    return Prepared(
        report=report,
        planned=planned,
        watched=source.watched,
        outputs=outputs,
        started=started,
        holding=holding,
        held=held,
    )


def _enter(
    report: SlideReport,
    planned: Planned,
    patch_px: int,
    encoders: Sequence[EncoderSet],
    options: Settled,
) -> None:
    """Enter what is planned of a slide."""
    report.patches, report.unreadable = len(planned.coords_l0), len(planned.unreadable_l0)
    report.damaged_patches, report.reason = 0, planned.empty
    report.notes = list(planned.notes)
    report.of_run += _notes_on_pictures(planned.picture_px, patch_px, encoders, options.resample)


def _notes_on_pictures(
    picture_px: int, patch_px: int, encoders: Sequence[EncoderSet], resample: Resample
) -> list[str]:
    """Say how ready-made patches came to their size, where an encoder was made for another."""
    if not picture_px:
        return []
    if picture_px != patch_px:
        how = f"{resample} resizing"
        if resample == "area":
            how = "area averaging" if picture_px > patch_px else "linear interpolation"
        return [f"patch images of {picture_px} px are resampled to {patch_px} px by {how}"]
    return [
        f"patch images of {patch_px} px are taken as they are, encoder {spec.name} was made for "
        f"{spec.patch_px} px: resample them with patch_px={spec.patch_px}"
        f"{' and allow_upsampling=True' if spec.patch_px > patch_px else ''}"
        for together in encoders
        for spec in together.specs
        if spec.patch_px != patch_px
    ]
