"""Slides in, feature files out: the pipeline.

A supply thread opens a slide, finds its tissue, plans its patches and streams their pixels into a
bounded queue; the calling thread encodes and writes. The supply thread goes on to the next slide as
soon as the last batch of this one is queued, so that decoding and encoding overlap across slides.
"""

from __future__ import annotations

import platform
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from histofast import _core
from histofast._cpus import available_cpus
from histofast.encoders import EncoderSet, EncoderSpec, load_all
from histofast.errors import NoSpaceError, SlideError, TileError
from histofast.features import FeatureWriter, Layout, remove_stale_temporaries
from histofast.patches import PatchBatch
from histofast.pipeline._jobs import (
    Job,
    list_bags,
    list_jobs,
    real_number,
    select_shard,
    whole_number,
    with_masks,
)
from histofast.pipeline._report import (
    Clock,
    Progress,
    ReportFile,
    RunReport,
    SlideReport,
    make_folder,
)
from histofast.pipeline._slides import (
    SLIDE_FAILURES,
    Busy,
    Options,
    Prepared,
    TissueOptions,
    prepare,
)
from histofast.tiling import MPP_MAX, MPP_MIN

DEFAULT_ENCODER = "densenet121-t2"
DEFAULT_PATCH_PX = 256
QUEUED_BATCHES = 4
TRIAL_PATCHES = 64  # at most, for the estimate of a dry run
POLL_S = 0.5  # how often a run asks whether another process has let go of a slide


def extract(
    slides: str | Path | Sequence[str | Path] | None = None,
    *,
    out: str | Path,
    encoder: str | Path | Sequence[str | Path] = DEFAULT_ENCODER,
    patches: str | Path | None = None,
    mpp: float | None = None,
    patch_px: int | None = None,
    overlap_px: int = 0,
    min_tissue: float = 0.25,
    edge: Literal["drop", "shift"] = "drop",
    tissue: TissueOptions | None = None,
    mask: str | Path | None = None,
    mpp_override: float | None = None,
    allow_upsampling: bool = False,
    half: bool = False,
    layout: Layout = "trident",
    strict: bool = False,
    fail_fast: bool = False,
    overwrite: bool = False,
    recursive: bool = False,
    shard: str | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    threads: int | None = None,
    workers: int | None = None,
    batch_size: int | None = None,
    dry_run: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> RunReport:
    """Encode slides into feature files.

    Args:
        slides: files, folders, globs or CSV lists (wsi[, mpp, mask]), one or several.
        out: output folder; files come to
            `<out>/<mag>x_<patch>px_<overlap>px_overlap/features_<encoder>/<slide>.h5`.
        encoder: name or ONNX file of one or several encoders; all see the same pixels, decoded once.
            A file of cuts is as many encoders as it has cuts, computed in one run.
        patches: instead of slides, a CSV of patch images (file, bag[, label, x, y, split]).
        mpp: um per pixel of the patches; what the encoder was made for when None.
        patch_px: side of the patches in pixels; what the encoder was made for when None (for
            patch images: their own size).
        overlap_px: overlap of neighbouring patches, in patch pixels.
        min_tissue: least share of tissue in a patch, 0..1.
        edge: see `plan_patches`.
        tissue: how tissue is found.
        mask: ready-made tissue mask (PNG, GeoJSON) for a single slide, or a folder of masks named
            after the slides; used instead of finding tissue.
        mpp_override: level-0 um per pixel of all slides, instead of what their files say.
        allow_upsampling: take slides that are coarser than `mpp`.
        half: store features as float16.
        layout: "trident", "clam" or "stamp".
        strict: a slide with an unreadable region fails; otherwise regions are counted and listed.
        fail_fast: stop at the first slide that fails.
        overwrite: replace feature files that were made by something else.
        recursive: look for slides in sub-folders too.
        shard: "i/n": only the slides whose name falls into part i of n (1-based), for job arrays.
        device: "cuda" is an error where it does not work; "auto" takes it where it does.
        threads: of the encoder; the CPUs available when None.
        workers: threads that decode; the CPUs available when None.
        batch_size: patches per encoder call; away from the CPU it is part of what a file was made
            with, for there the last bits may depend on it.
        dry_run: only plan; the report says how many patches each slide has.
        on_progress: called after every batch and every slide.

    Returns:
        The report, which is also saved as `run.json` in `out`. A slide that fails does not stop the
        others; see `RunReport.exit_code`.

    Raises:
        ValueError, TypeError: an argument out of range, two slides of one name, an empty list.
        FileNotFoundError: a path that is not there.
        ModelError: an encoder that cannot be used.
        FeatureError: the output folder cannot be written, or the disk is full.

    Determinism: the same slide, encoder and options give the same bytes, whatever the threads,
    workers, shards and interruptions.
    """
    start = time.perf_counter()
    # NumPy's numbers would not go into the identity.
    mpp, mpp_override = real_number("mpp", mpp), real_number("mpp_override", mpp_override)
    min_tissue = real_number("min_tissue", min_tissue)
    patch_px, overlap_px = (
        whole_number("patch_px", patch_px),
        whole_number("overlap_px", overlap_px),
    )
    threads, workers = whole_number("threads", threads), whole_number("workers", workers)
    batch_size = whole_number("batch_size", batch_size)
    out = Path(out)
    names = [encoder] if isinstance(encoder, str | Path) else list(encoder)
    if not names:
        raise ValueError("encoder must name at least one encoder, got none")
    if (slides is None) == (patches is None):
        raise ValueError("slides or patches must be given, and not both")
    if patches is not None and mask is not None:
        raise ValueError("mask must not be given with patches, which are cut already")
    for name, value in (
        ("patch_px", patch_px),
        ("threads", threads),
        ("workers", workers),
        ("batch_size", batch_size),
    ):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if half and layout == "clam":
        raise ValueError("half must be False for layout clam, whose readers want float32, got True")
    if mpp_override is not None and not MPP_MIN <= mpp_override <= MPP_MAX:
        raise ValueError(
            f"mpp_override must be within {MPP_MIN}..{MPP_MAX:g} um per pixel, got {mpp_override:g}"
        )

    jobs = (
        list_bags(patches) if patches is not None else list_jobs(slides or (), recursive=recursive)
    )
    jobs = select_shard(with_masks(jobs, mask), shard)
    with ExitStack() as stack:
        encoders = [
            stack.enter_context(load_all(name, device=device, threads=threads)) for name in names
        ]
        options = Options(
            out=out,
            mpp=_agreed(encoders, "mpp") if mpp is None else mpp,
            patch_px=patch_px or (0 if patches is not None else _agreed(encoders, "patch_px")),
            overlap_px=overlap_px,
            min_tissue=min_tissue,
            edge=edge,
            allow_upsampling=allow_upsampling,
            tissue=tissue or TissueOptions(),
            mpp_override=mpp_override,
            dtype="float16" if half or layout == "stamp" else "float32",
            layout=layout,
            strict=strict,
            overwrite=overwrite,
            batch_size=batch_size or min(e.preferred_batch for e in encoders),
            mag_known=patches is None or mpp is not None,
        )
        _check_options(options, encoders)
        report = RunReport(
            about=_about(options, encoders, len(jobs), shard),
            notes=[f"{e.name}: {e.device_note}" for e in encoders if e.device_note],
        )
        pool = stack.enter_context(
            ThreadPoolExecutor(workers or available_cpus(), thread_name_prefix="histofast-decode")
        )
        if dry_run:
            _plan_only(jobs, encoders, options, pool, report, on_progress, start)
            report.seconds = time.perf_counter() - start
            return report
        make_folder(out)
        remove_stale_temporaries(out)
        saver = stack.enter_context(closing(ReportFile(out, report, shard)))
        supply = stack.enter_context(_Supply(jobs, encoders, options, pool))
        run = _Run(jobs, options, supply, report, on_progress, start)
        try:
            run.run(fail_fast=fail_fast, save=saver.save)
        finally:
            report.seconds = time.perf_counter() - start
            saver.save(now=True)
    return report


def _specs(encoders: Sequence[EncoderSet]) -> list[EncoderSpec]:
    return [spec for together in encoders for spec in together.specs]


def _agreed(encoders: Sequence[EncoderSet], what: Literal["mpp", "patch_px"]) -> Any:
    values = {spec.name: getattr(spec, what) for spec in _specs(encoders)}
    if len(set(values.values())) > 1:
        option = {"mpp": "--mpp", "patch_px": "--patch-px"}[what]
        listed = ", ".join(f"{name}: {value:g}" for name, value in values.items())
        raise ValueError(
            f"{what} must be given when encoders differ in it ({listed}): use {option}"
        )
    return next(iter(values.values()))


def _check_options(options: Options, encoders: Sequence[EncoderSet]) -> None:
    """Refuse before the first slide what no slide could satisfy."""
    if not MPP_MIN <= options.mpp <= MPP_MAX:
        raise ValueError(
            f"mpp must be within {MPP_MIN}..{MPP_MAX:g} um per pixel, got {options.mpp:g}"
        )
    if options.patch_px and not 0 <= options.overlap_px < options.patch_px:
        raise ValueError(
            f"overlap_px must be within 0..{options.patch_px - 1}, got {options.overlap_px}"
        )
    if not 0 <= options.min_tissue <= 1:
        raise ValueError(f"min_tissue must be within 0..1, got {options.min_tissue:g}")
    names = [spec.name for spec in _specs(encoders)]
    if len(set(names)) < len(names):
        raise ValueError(f"encoders must have different names, got {', '.join(names)}")
    for name, value, known in (
        ("layout", options.layout, get_args(Layout)),
        ("edge", options.edge, ("drop", "shift")),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    for spec in _specs(encoders):
        fixed = spec.height_px
        if options.patch_px and fixed and fixed != options.patch_px:
            raise ValueError(
                f"patch_px must be {fixed} for encoder {spec.name}, got {options.patch_px}"
            )


def _about(
    options: Options, encoders: Sequence[EncoderSet], jobs: int, shard: str | None
) -> dict[str, Any]:
    return {
        "histofast": _core.version,
        "python": platform.python_version(),
        "machine": platform.node(),
        "isa": _core.current_isa().name,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "encoders": [
            {"name": spec.name, "sha256": spec.sha256, "provider": together.provider}
            for together in encoders
            for spec in together.specs
        ],
        "options": {
            key: str(value) if isinstance(value, Path) else value
            for key, value in asdict(options).items()
        },
        "shard": shard,
        "slides": jobs,
    }


# --- many slides --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Begin:
    prepared: Prepared


@dataclass(frozen=True, slots=True)
class _Pixels:
    batch: PatchBatch
    waited_s: float


@dataclass(frozen=True, slots=True)
class _End:
    """The slide is over: whole, or with the error that ended it."""

    report: SlideReport
    error: BaseException | None = None


class _Stopped(Exception):
    """The encoding side wants no more."""


class _Supply:
    """The thread that turns jobs into batches of pixels."""

    def __init__(
        self,
        jobs: Sequence[Job],
        encoders: Sequence[EncoderSet],
        options: Options,
        pool: ThreadPoolExecutor,
    ) -> None:
        self._jobs, self._encoders, self._options, self._pool = jobs, encoders, options, pool
        # A Ctrl-C in the encoding thread may hit it inside a queue.Queue or Event and leave their
        # lock taken for ever; a SimpleQueue is safe. Its bound is one token per free place.
        self._queue: queue.SimpleQueue[_Begin | _Pixels | _End | BaseException | None]
        self._queue, self._free = queue.SimpleQueue(), queue.SimpleQueue[None]()
        for _ in range(QUEUED_BATCHES):
            self._free.put(None)
        self._is_stopped = False
        self._thread = threading.Thread(target=self._run, name="histofast-supply", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_stopped = True
        while self._thread.is_alive() or not self._queue.empty():
            with suppress(queue.Empty):
                event = self._queue.get(timeout=0.05)
                if isinstance(event, _Begin):
                    event.prepared.release()
        self._thread.join()

    def events(self) -> Iterator[_Begin | _Pixels | _End]:
        """Per slide: begin, pixels..., end; or only an end. In the order of supply."""
        while True:
            event = self._queue.get()
            self._free.put(None)
            if event is None:
                return
            if isinstance(event, BaseException):
                raise event
            yield event

    def _put(self, event: _Begin | _Pixels | _End | BaseException | None) -> None:
        while not self._is_stopped:
            try:
                self._free.get(timeout=0.1)
            except queue.Empty:
                continue
            self._queue.put(event)
            return
        raise _Stopped

    def _run(self) -> None:
        try:
            busy = [job for job in self._jobs if not self._supply(job)]
            while busy:  # somebody else is at them: see them through, should he die
                time.sleep(POLL_S)
                if self._is_stopped:
                    return
                busy = [job for job in busy if not self._supply(job)]
            self._put(None)
        except _Stopped:
            return
        except BaseException as error:  # noqa: BLE001  # handed to the thread that can raise it
            with suppress(_Stopped):
                self._put(error)

    def _supply(self, job: Job) -> bool:
        """Supply one slide; False when another process holds it."""
        report = SlideReport(name=job.name, path=str(job.path), status="failed")
        try:
            with ExitStack() as stack:
                prepared = prepare(job, report, self._encoders, self._options, self._pool, stack)
                if prepared is None:
                    report.status = "skipped"
                    self._put(_End(report))
                    return True
                report.status = "done"
                try:
                    self._put(_Begin(prepared))
                except _Stopped:
                    prepared.release()
                    raise
                last = time.perf_counter()
                for batch in prepared.planned.stream():
                    self._put(_Pixels(batch, time.perf_counter() - last))
                    if prepared.is_cancelled:
                        break
                    last = time.perf_counter()
            self._put(_End(report))
        except Busy:
            return False
        except SLIDE_FAILURES as error:
            self._put(_End(report, error))
        return True


class _Run:
    """The encoding side: takes what the supply thread brings, encodes it and writes it."""

    def __init__(
        self,
        jobs: Sequence[Job],
        options: Options,
        supply: _Supply,
        report: RunReport,
        on_progress: Callable[[Progress], None] | None,
        start: float,
    ) -> None:
        self._jobs, self._options, self._supply = jobs, options, supply
        self._report, self._on_progress, self._start = report, on_progress, start
        self._current: Prepared | None = None
        self._writers: list[FeatureWriter] = []
        self._error: BaseException | None = None
        self._is_full = False  # the disk: no other slide could be written either
        self._unreadable: list[NDArray[np.int64]] = []
        self._damaged: list[NDArray[np.int64]] = []
        self._rows = 0
        self._patches = 0
        self._last_end = 0.0

    def run(self, *, fail_fast: bool, save: Callable[[], None]) -> None:
        """Encode all slides. After each `save` is called."""
        try:
            for event in self._supply.events():
                if isinstance(event, _Begin):
                    self._begin(event.prepared)
                elif isinstance(event, _Pixels):
                    self._encode(event)
                else:
                    done = self._end(event)
                    save()
                    if done.status == "failed" and (fail_fast or self._is_full):
                        break
        except KeyboardInterrupt:
            self._report.interrupted = True
        finally:
            self._drop()
            known = {slide.name for slide in self._report.slides}
            self._report.slides += [
                SlideReport(name=job.name, path=str(job.path), status="interrupted")
                for job in self._jobs
                if job.name not in known
            ]

    def _begin(self, prepared: Prepared) -> None:
        self._current, self._error = prepared, None
        self._unreadable, self._damaged, self._rows = [prepared.planned.unreadable_l0], [], 0
        try:
            for output in prepared.outputs:
                self._writers.append(
                    FeatureWriter(
                        output.path,
                        coords=prepared.planned.coords_l0,
                        d=output.spec.d,
                        identity=output.identity,
                        attributes={
                            **prepared.planned.attributes,
                            "encoder": output.spec.name,
                        },
                        tissue_fraction=prepared.planned.tissue_fraction,
                        dtype=self._options.dtype,
                        layout=self._options.layout,
                    )
                )
        except SLIDE_FAILURES as error:
            self._give_up(error)

    def _encode(self, event: _Pixels) -> None:
        prepared, batch = self._current, event.batch
        assert prepared is not None, "pixels come after the beginning of their slide"
        if self._error is not None:
            return
        seconds = prepared.report.seconds
        seconds["supply"] = seconds.get("supply", 0.0) + event.waited_s
        clock = Clock(seconds)
        try:
            if len(batch.unreadable_l0):
                if self._options.strict:
                    raise TileError(f"{batch.reason} (--strict)")
                self._unreadable.append(batch.unreadable_l0)
            if len(batch.damaged):
                self._damaged.append(batch.damaged)
            # Of a file of cuts one run gives all of them; those that are there already are let go.
            for together in dict.fromkeys(output.encoders for output in prepared.outputs):
                features = dict(zip(together.specs, together.encode(batch.pixels), strict=True))
                clock.lap("encode")
                for output, writer in zip(prepared.outputs, self._writers, strict=True):
                    if output.encoders is together:
                        writer.append(features[output.spec])
                clock.lap("write")
        except SLIDE_FAILURES as error:
            self._give_up(error)
            return
        self._rows += len(batch.pixels)
        self._patches += len(batch.pixels)
        self._tell()

    def _end(self, event: _End) -> SlideReport:
        report, prepared = event.report, self._current
        error = event.error or self._error
        if prepared is not None and prepared.report is report and error is None:
            clock = Clock(report.seconds)
            unreadable = _each_once(np.concatenate(self._unreadable))
            damaged = np.concatenate([np.empty(0, np.int64), *self._damaged])
            report.unreadable, report.damaged_patches = len(unreadable), len(damaged)
            try:
                if len(damaged) and len(damaged) == report.patches:
                    raise SlideError(f"no patch of {report.path} could be read whole")
                for writer in self._writers:
                    writer.finish(unreadable=unreadable, unreadable_patches=damaged)
                clock.lap("write")
            except SLIDE_FAILURES as failure:
                error = failure
        if error is not None:
            report.status = "failed"
            report.error = _one_line(error)
            if isinstance(error, NoSpaceError):
                self._is_full = True
                self._report.error = report.error
        if prepared is not None:
            # A slide that was ready early has only waited for the one before.
            now = time.perf_counter()
            report.seconds["total"] = now - max(prepared.started, self._last_end)
            self._last_end = now
        self._drop()
        self._report.slides.append(report)
        self._tell(report)
        return report

    def _give_up(self, error: BaseException) -> None:
        """Note why the current slide fails; the rest of it is not wanted."""
        assert self._current is not None
        self._error = error
        self._current.is_cancelled = True

    def _drop(self) -> None:
        """Close the current slide's writers, which removes what is not finished."""
        for writer in self._writers:
            writer.close()
        self._writers = []
        if self._current is not None:
            self._current.release()
        self._current = self._error = None

    def _tell(self, finished: SlideReport | None = None) -> None:
        if self._on_progress is None:
            return
        current = self._current
        self._on_progress(
            Progress(
                slides_total=len(self._jobs),
                slides_done=len(self._report.slides),
                patches_done=self._patches,
                seconds=time.perf_counter() - self._start,
                name=finished.name if finished else current.report.name if current else "",
                slide_patches=current.report.patches if current else 0,
                slide_patches_done=self._rows if current else 0,
                finished=finished,
            )
        )


def _each_once(boxes: NDArray[np.int64]) -> NDArray[np.int64]:
    """(k, 4) boxes without repetitions: a tile may be met for the overview and for patches."""
    _, first = np.unique(boxes, axis=0, return_index=True)
    return boxes[np.sort(first)]


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text or type(error).__name__


def _plan_only(
    jobs: Sequence[Job],
    encoders: Sequence[EncoderSet],
    options: Options,
    pool: ThreadPoolExecutor,
    report: RunReport,
    on_progress: Callable[[Progress], None] | None,
    start: float,
) -> None:
    """Plan every slide, and say how long encoding would take from a short trial of the encoders."""
    patches_of: Counter[int] = Counter()  # by their side in pixels
    for job in jobs:
        entry = SlideReport(name=job.name, path=str(job.path), status="planned")
        try:
            with ExitStack() as stack:
                prepared = prepare(job, entry, encoders, options, pool, stack, only_plan=True)
                assert prepared is not None, "what is only planned is never skipped"
                patches_of[prepared.planned.attributes["patch_size"]] += entry.patches
        except SLIDE_FAILURES as error:
            entry.status, entry.error = "failed", _one_line(error)
        report.slides.append(entry)
        if on_progress is not None:
            on_progress(
                Progress(
                    slides_total=len(jobs),
                    slides_done=len(report.slides),
                    patches_done=0,
                    seconds=time.perf_counter() - start,
                    name=entry.name,
                    slide_patches=entry.patches,
                    slide_patches_done=0,
                    finished=entry,
                )
            )
    # Bags may be of several sizes: the commonest stands for all.
    side = patches_of.most_common(1)[0][0] if patches_of else _any_side(options, encoders)
    pixels = np.full((min(options.batch_size, TRIAL_PATCHES), side, side, 3), 200, np.uint8)
    rate_s = 0.0
    for together in encoders:
        together.encode(pixels)  # the first call allocates
        begin = time.perf_counter()
        together.encode(pixels)
        rate_s += (time.perf_counter() - begin) / len(pixels)
    planned = sum(slide.patches for slide in report.of("planned"))
    report.about["estimated_patches_per_s"] = 1 / rate_s
    report.about["estimated_seconds"] = planned * rate_s


def _any_side(options: Options, encoders: Sequence[EncoderSet]) -> int:
    fixed = [spec.height_px for spec in _specs(encoders) if spec.height_px]
    return options.patch_px or (fixed[0] if fixed else DEFAULT_PATCH_PX)
