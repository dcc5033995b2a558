"""Slides in, feature files out: the pipeline.

One thread opens a slide, finds its tissue and plans its patches, one slide ahead of the supply
thread, which streams the pixels into a bounded queue; the calling thread encodes and writes. The
supply thread goes on to the next slide as soon as the last batch of this one is queued, so that
decoding and encoding overlap across slides. On a GPU several batches are under way at a time.
"""

from __future__ import annotations

import platform
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, Self, get_args

import numpy as np
from numpy.typing import NDArray

from histofast import _core
from histofast._cpus import available_cpus
from histofast.encoders import EncoderSet, EncoderSpec, Pending, load_all
from histofast.encoders._runtime import driver_gpu_count, why_no_cuda, why_no_tensorrt
from histofast.errors import ModelError, NoSpaceError, SlideError, TileError
from histofast.features import Layout, remove_stale_temporaries
from histofast.patches import PatchBatch
from histofast.pipeline import _gpus
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
    DeviceReport,
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
    Request,
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
    device: str = "auto",
    gpus: Sequence[int] | None = None,
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
        device: where the encoder runs: "cpu"; "cuda" or "tensorrt", or one of several as "cuda:1",
            an error where it does not work; "auto" takes CUDA where it works.
        gpus: indices of the GPUs to run on. Several have a process each; every slide is encoded by
            one of them, the next by whichever is free first. `device` may be "tensorrt".
        threads: of the encoder; the CPUs available when None. Processes of several GPUs share them.
        workers: threads that decode; the CPUs available when None. Processes of several GPUs share
            them, at least one each.
        batch_size: patches per encoder call; away from the CPU it is part of what a file was made
            with, for there the last bits may depend on it.
        dry_run: only plan; the report says how many patches each slide has.
        on_progress: called after every batch and every slide.

    Returns:
        The report, which is also saved as `run.json` in `out`. A slide that fails does not stop the
        others; see `RunReport.exit_code`. With several GPUs, a slide on which the encoder fails is
        tried once more on another one, and those of a process that dies are given to the others.

    Raises:
        ValueError, TypeError: an argument out of range, two slides of one name, an empty list.
        FileNotFoundError: a path that is not there.
        ModelError: an encoder that cannot be used.
        FeatureError: the output folder cannot be written, or the disk is full.

    Determinism: the same slide, encoder and options give the same bytes, whatever the threads,
    workers, GPUs of one kind, shards and interruptions.
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
    devices = _devices(device, gpus)

    jobs = (
        list_bags(patches) if patches is not None else list_jobs(slides or (), recursive=recursive)
    )
    jobs = select_shard(with_masks(jobs, mask), shard)
    request = Request(
        out=out,
        encoders=tuple(names),
        mpp=mpp,
        patch_px=patch_px,
        overlap_px=overlap_px,
        min_tissue=min_tissue,
        edge=edge,
        tissue=tissue or TissueOptions(),
        mpp_override=mpp_override,
        allow_upsampling=allow_upsampling,
        half=half,
        layout=layout,
        strict=strict,
        fail_fast=fail_fast,
        overwrite=overwrite,
        shard=shard,
        of_bags=patches is not None,
        device=devices[0],
        threads=threads or available_cpus(),
        workers=workers or available_cpus(),
        batch_size=batch_size,
    )
    if dry_run:
        return _estimate(request, jobs, len(devices), on_progress, start)
    if len(devices) > 1:
        return _gpus.share(
            jobs, request, devices=devices, on_progress=on_progress, start=start, poll_s=POLL_S
        )
    with ExitStack() as stack:
        encoders, options, pool = _equip(request, stack)
        report = _new_report(request, options, encoders, len(jobs))
        make_folder(out)
        remove_stale_temporaries(out)
        saver = stack.enter_context(closing(ReportFile(out, report, shard)))
        supply = stack.enter_context(_Supply(_Listed(jobs), encoders, options, pool))
        run = _Run(encoders, options, supply, report, on_progress, start, slides=len(jobs))
        try:
            run.run(fail_fast=fail_fast, ended=lambda slide, error: saver.save())
        finally:
            if report.interrupted:  # maybe before a file had somebody to remove it
                remove_stale_temporaries(out)
            report.add_undone(jobs)
            report.seconds = time.perf_counter() - start
            saver.save(now=True)
    return report


def _devices(device: str, gpus: Sequence[int] | None) -> list[str]:
    """Return one device for each process of a run."""
    if gpus is None:
        return [device]
    kind = "cuda" if device == "auto" else device
    if kind not in ("cuda", "tensorrt"):
        raise ValueError(f"device must be auto, cuda or tensorrt with gpus, got {device!r}")
    indices = [whole_number("gpus", index) for index in gpus]
    if not indices:
        raise ValueError("gpus must name at least one GPU, got none")
    if min(indices) < 0:
        raise ValueError(f"gpus must not be negative, got {min(indices)}")
    if len(set(indices)) < len(indices):
        raise ValueError(f"gpus must be given once each, got {', '.join(map(str, indices))}")
    problem = why_no_tensorrt() if kind == "tensorrt" else why_no_cuda()
    if problem is not None:
        raise ModelError(f"device {kind} does not work: {problem}")
    offered = driver_gpu_count() or 0
    if max(indices) >= offered:
        raise ValueError(
            f"gpus must be within 0..{offered - 1}, the GPUs that the driver offers, "
            f"got {max(indices)}"
        )
    return [f"{kind}:{index}" for index in indices]


def _equip(
    request: Request, stack: ExitStack
) -> tuple[list[EncoderSet], Options, ThreadPoolExecutor]:
    """Load the encoders and start the threads that decode; `stack` closes them."""
    encoders = [
        stack.enter_context(load_all(name, device=request.device, threads=request.threads))
        for name in request.encoders
    ]
    patch_px = request.patch_px
    options = Options(
        out=request.out,
        mpp=_agreed(encoders, "mpp") if request.mpp is None else request.mpp,
        patch_px=patch_px or (0 if request.of_bags else _agreed(encoders, "patch_px")),
        overlap_px=request.overlap_px,
        min_tissue=request.min_tissue,
        edge=request.edge,
        allow_upsampling=request.allow_upsampling,
        tissue=request.tissue,
        mpp_override=request.mpp_override,
        dtype="float16" if request.half or request.layout == "stamp" else "float32",
        layout=request.layout,
        strict=request.strict,
        overwrite=request.overwrite,
        batch_size=request.batch_size or min(e.preferred_batch for e in encoders),
        mag_known=not request.of_bags or request.mpp is not None,
    )
    _check_options(options, encoders)
    pool = stack.enter_context(
        ThreadPoolExecutor(request.workers, thread_name_prefix="histofast-decode")
    )
    return encoders, options, pool


def serve() -> None:
    """Encode the slides that another process deals out: what `_gpus` starts."""
    link = _gpus.Link()
    try:
        with ExitStack() as stack:
            request, jobs = link.receive()
            encoders, options, pool = _equip(request, stack)
            report = _new_report(request, options, encoders, len(jobs))
            supply = stack.enter_context(_Supply(link, encoders, options, pool))
            stack.callback(link.close)
            link.begin(report, supply.interrupt)
            run = _Run(encoders, options, supply, report, link.tell, time.perf_counter(), slides=0)
            run.run(fail_fast=False, ended=lambda slide, error: link.ended(slide, error, report))
        link.over(report)
    except Exception as error:  # noqa: BLE001  # handed to the process that can raise it
        link.fail(error)
    link.exit()


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


def _new_report(
    request: Request, options: Options, encoders: Sequence[EncoderSet], jobs: int
) -> RunReport:
    about = {
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
        "shard": request.shard,
        "slides": jobs,
    }
    notes = [f"{e.name}: {e.device_note}" for e in encoders if e.device_note]
    return RunReport(about=about, notes=notes)


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


class Jobs(Protocol):
    """Where the supply thread gets its slides from."""

    def take(self) -> Job | None:
        """Return the next one, having waited for it; None when there are no more."""

    def give_back(self, job: Job) -> None:
        """Take back one that another process is at: to see it through, should that one die."""


class _Listed:
    """The slides of a list, in its order."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._left, self._busy = deque(jobs), deque[Job]()

    def take(self) -> Job | None:
        if not self._left and self._busy:
            time.sleep(POLL_S)
            self._left, self._busy = self._busy, deque()
        return self._left.popleft() if self._left else None

    def give_back(self, job: Job) -> None:
        self._busy.append(job)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ready:
    """A slide as it was prepared; closing the stack closes the slide."""

    report: SlideReport
    stack: ExitStack
    prepared: Prepared | None = None  # None: its files are there, or it failed
    error: BaseException | None = None

    def close(self) -> None:
        self.stack.close()
        if self.prepared is not None:
            self.prepared.close()


class _Supply:
    """The threads that turn jobs into batches of pixels: one prepares slides, one streams them."""

    def __init__(
        self,
        jobs: Jobs,
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
                    event.prepared.close()
        self._thread.join()

    def interrupt(self) -> None:
        """Have the thread that reads the events interrupted, from another thread."""
        self._queue.put(KeyboardInterrupt())

    def events(self) -> Iterator[tuple[_Begin | _Pixels | _End, float]]:
        """Per slide: begin, pixels..., end; or only an end. In the order of supply.

        With each comes for how many seconds it was waited for.
        """
        while True:
            begin = time.perf_counter()
            event = self._queue.get()
            self._free.put(None)
            if event is None:
                return
            if isinstance(event, BaseException):
                raise event
            yield event, time.perf_counter() - begin

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
        with ThreadPoolExecutor(1, thread_name_prefix="histofast-prepare") as ahead:
            upcoming = ahead.submit(self._prepare)
            try:
                while (slide := upcoming.result()) is not None:
                    upcoming = ahead.submit(self._prepare)
                    self._stream(slide)
                self._put(None)
            except _Stopped:
                pass
            except BaseException as error:  # noqa: BLE001  # handed to the thread that can raise it
                with suppress(_Stopped):
                    self._put(error)
            finally:
                _close_unused(upcoming)

    def _prepare(self) -> _Ready | None:
        """Open and plan the next slide; None when there are no more."""
        while not self._is_stopped and (job := self._jobs.take()) is not None:
            report = SlideReport(name=job.name, path=str(job.path), status="failed")
            stack = ExitStack()
            try:
                prepared = prepare(job, report, self._encoders, self._options, self._pool, stack)
            except Busy:
                stack.close()
                self._jobs.give_back(job)
                continue
            except SLIDE_FAILURES as error:
                return _Ready(report=report, stack=stack, error=error)
            except BaseException:
                stack.close()
                raise
            report.status = "skipped" if prepared is None else "done"
            return _Ready(report=report, stack=stack, prepared=prepared)
        return None

    def _stream(self, slide: _Ready) -> None:
        """Supply one slide."""
        report, prepared, error = slide.report, slide.prepared, slide.error
        try:
            with slide.stack:
                if prepared is not None:
                    try:
                        self._put(_Begin(prepared))
                    except _Stopped:
                        prepared.close()
                        raise
                    last = time.perf_counter()
                    for batch in prepared.planned.stream():
                        self._put(_Pixels(batch, time.perf_counter() - last))
                        if prepared.is_cancelled:
                            break
                        last = time.perf_counter()
        except SLIDE_FAILURES as failure:
            error = failure
        self._put(_End(report, error))


def _close_unused(upcoming: Future[_Ready | None]) -> None:
    """Close the slide that was prepared and is not wanted any more."""
    if upcoming.cancel() or upcoming.exception() is not None:
        return
    slide = upcoming.result()
    if slide is not None:
        slide.close()


@dataclass(frozen=True, slots=True)
class _Submitted:
    """A batch that the encoders are at: how many patches, and what each file gives for them."""

    patches: int
    pending: deque[tuple[EncoderSet, Pending]]


class _Run:
    """The encoding side: takes what the supply thread brings, encodes it and writes it.

    With `in_flight` batches open the oldest is waited for and written: none on the CPU, where a
    batch is encoded when it is submitted; on a GPU the others keep it busy meanwhile.
    """

    def __init__(
        self,
        encoders: Sequence[EncoderSet],
        options: Options,
        supply: _Supply,
        report: RunReport,
        on_progress: Callable[[Progress], None] | None,
        start: float,
        *,
        slides: int,
    ) -> None:
        self._encoders, self._options, self._supply = encoders, options, supply
        self._report, self._on_progress, self._start = report, on_progress, start
        self._slides = slides
        self._in_flight = min(together.in_flight for together in encoders)
        self._current: Prepared | None = None
        self._submitted: deque[_Submitted] = deque()
        self._error: BaseException | None = None
        self._is_full = False  # the disk: no other slide could be written either
        self._unreadable: list[NDArray[np.int64]] = []
        self._damaged: list[NDArray[np.int64]] = []
        self._rows = 0
        self._patches = 0
        self._last_end = 0.0
        # Between the first and the last batch:
        self._first_s: float | None = None
        self._last_s = self._busy_before_s = self._busy_s = 0.0

    def run(
        self, *, fail_fast: bool, ended: Callable[[SlideReport, BaseException | None], None]
    ) -> None:
        """Encode all slides. After each `ended` is called, with what made it fail."""
        try:
            for event, waited_s in self._supply.events():
                if isinstance(event, _Begin):
                    _count(event.prepared.report, "wait", waited_s)
                    self._begin(event.prepared)
                elif isinstance(event, _Pixels):
                    self._encode(event, waited_s)
                else:
                    done, error = self._end(event)
                    ended(done, error)
                    if done.status == "failed" and (fail_fast or self._is_full):
                        break
        except KeyboardInterrupt:
            self._report.interrupted = True
        finally:
            self._drop()
            self._account()

    def _begin(self, prepared: Prepared) -> None:
        self._current, self._error = prepared, None
        self._unreadable, self._damaged, self._rows = [prepared.planned.unreadable_l0], [], 0
        try:
            prepared.open_writers(self._options)
        except SLIDE_FAILURES as error:
            self._give_up(error)

    def _encode(self, event: _Pixels, waited_s: float) -> None:
        prepared, batch = self._current, event.batch
        assert prepared is not None, "pixels come after the beginning of their slide"
        if self._error is not None:
            return
        _count(prepared.report, "supply", event.waited_s)
        _count(prepared.report, "wait", waited_s)
        try:
            if len(batch.unreadable_l0):
                if self._options.strict:
                    raise TileError(f"{batch.reason} (--strict)")
                self._unreadable.append(batch.unreadable_l0)
            if len(batch.damaged):
                self._damaged.append(batch.damaged)
            self._submit(prepared, batch.pixels)
            while len(self._submitted) >= self._in_flight:
                self._write_oldest(prepared)
        except SLIDE_FAILURES as error:
            self._give_up(error)

    def _submit(self, prepared: Prepared, pixels: NDArray[np.uint8]) -> None:
        clock = Clock(prepared.report.seconds)
        if self._first_s is None:
            self._first_s = time.perf_counter()
            self._busy_before_s = self._sum_busy_s()
        submitted = _Submitted(len(pixels), deque())
        self._submitted.append(submitted)
        # Of a file of cuts one run gives all of them; those that are there already are let go.
        for together in dict.fromkeys(output.encoders for output in prepared.outputs):
            submitted.pending.append((together, together.submit(pixels)))
        clock.lap("encode")

    def _write_oldest(self, prepared: Prepared) -> None:
        """Wait for the features of the batch that was submitted first, and write them."""
        clock = Clock(prepared.report.seconds)
        oldest = self._submitted[0]
        while oldest.pending:
            together, pending = oldest.pending.popleft()
            features = dict(zip(together.specs, pending.result(), strict=True))
            clock.lap("encode")
            for output, writer in zip(prepared.outputs, prepared.writers, strict=True):
                if output.encoders is together:
                    writer.append(features[output.spec])
            clock.lap("write")
        self._submitted.popleft()
        self._last_s, self._busy_s = time.perf_counter(), self._sum_busy_s()
        self._rows += oldest.patches
        self._patches += oldest.patches
        self._tell()

    def _sum_busy_s(self) -> float:
        return sum(together.busy_s for together in self._encoders)

    def _end(self, event: _End) -> tuple[SlideReport, BaseException | None]:
        report, prepared = event.report, self._current
        error = event.error or self._error
        if prepared is not None and prepared.report is report and error is None:
            try:
                while self._submitted:
                    self._write_oldest(prepared)
                clock = Clock(report.seconds)
                unreadable = _each_once(np.concatenate(self._unreadable))
                damaged = np.concatenate([np.empty(0, np.int64), *self._damaged])
                report.unreadable, report.damaged_patches = len(unreadable), len(damaged)
                if len(damaged) and len(damaged) == report.patches:
                    raise SlideError(f"no patch of {report.path} could be read whole")
                for writer in prepared.writers:
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
        self._account()
        self._tell(report)
        return report, error

    def _account(self) -> None:
        """Put into the report what the device has done so far."""
        passed_s = self._last_s - self._first_s if self._first_s is not None else 0.0
        busy_s = self._busy_s - self._busy_before_s
        done = self._report.of("done")
        self._report.devices = [
            DeviceReport(
                device=self._encoders[0].device,
                # Two encoder files may have the GPU compute two batches at the same time.
                busy=min(busy_s / passed_s, 1.0) if passed_s > 0 else 0.0,
                slides=len(done),
                patches=sum(slide.patches for slide in done),
            )
        ]
        self._report.find_limit()

    def _give_up(self, error: BaseException) -> None:
        """Note why the current slide fails; the rest of it is not wanted."""
        assert self._current is not None
        self._error = error
        self._current.is_cancelled = True

    def _drop(self) -> None:
        """Close the current slide, which removes what is not finished."""
        while self._submitted:
            for _, pending in self._submitted.popleft().pending:
                pending.discard()
        if self._current is not None:
            self._current.close()
        self._current = self._error = None

    def _tell(self, finished: SlideReport | None = None) -> None:
        if self._on_progress is None:
            return
        current = self._current
        self._on_progress(
            Progress(
                slides_total=self._slides,
                slides_done=len(self._report.slides),
                patches_done=self._patches,
                seconds=time.perf_counter() - self._start,
                name=finished.name if finished else current.report.name if current else "",
                slide_patches=current.report.patches if current else 0,
                slide_patches_done=self._rows if current else 0,
                finished=finished,
            )
        )


def _count(report: SlideReport, stage: str, seconds: float) -> None:
    report.seconds[stage] = report.seconds.get(stage, 0.0) + seconds


def _each_once(boxes: NDArray[np.int64]) -> NDArray[np.int64]:
    """(k, 4) boxes without repetitions: a tile may be met for the overview and for patches."""
    _, first = np.unique(boxes, axis=0, return_index=True)
    return boxes[np.sort(first)]


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text or type(error).__name__


def _estimate(
    request: Request,
    jobs: Sequence[Job],
    devices: int,
    on_progress: Callable[[Progress], None] | None,
    start: float,
) -> RunReport:
    """Plan every slide, and say how long encoding would take from a short trial of the encoders."""
    patches_of: Counter[int] = Counter()  # by their side in pixels
    with ExitStack() as run:
        encoders, options, pool = _equip(request, run)
        report = _new_report(request, options, encoders, len(jobs))
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
        rate_s = 0.0  # per patch; the first device stands for all
        for together in encoders:
            together.encode(pixels)  # the first call allocates
            begin = time.perf_counter()
            together.encode(pixels)
            rate_s += (time.perf_counter() - begin) / len(pixels) / devices
    planned = sum(slide.patches for slide in report.of("planned"))
    report.about["estimated_patches_per_s"] = 1 / rate_s
    report.about["estimated_seconds"] = planned * rate_s
    report.seconds = time.perf_counter() - start
    return report


def _any_side(options: Options, encoders: Sequence[EncoderSet]) -> int:
    fixed = [spec.height_px for spec in _specs(encoders) if spec.height_px]
    return options.patch_px or (fixed[0] if fixed else DEFAULT_PATCH_PX)
