"""Slides in, their patches as PNG or JPEG files out, with a table that `extract` reads again."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Unpack, get_args

import numpy as np
from numpy.typing import NDArray

from histofast._files import Lock, make_folder, replacing, write_error
from histofast._numbers import whole_number
from histofast._progress import shows
from histofast._remote import Place
from histofast._stopping import stop_if_asked
from histofast._tables import csv_text, read_csv
from histofast.errors import NoSpaceError, SlideError, TileError, WriteError
from histofast.jobs import MARKER, Job, execute
from histofast.patches import SLIDE_FAILURES, PatchBatch, select_shard
from histofast.patches import Job as SlideJob
from histofast.pipeline.arguments import PlanArguments
from histofast.pipeline.extraction import options_asked, slides_asked
from histofast.pipeline.options import DEFAULT_ENCODER, Settled, settled_without_encoders
from histofast.pipeline.preparing import REVISION
from histofast.pipeline.reports import Clock, Progress, RunReport, SlideReport, said
from histofast.pipeline.sources import Planned, SlideSource
from histofast.slides import encode_tile, quick_png

PatchFormat = Literal["png", "jpeg"]
TABLE = "patches.csv"
COLUMNS = ("file", "slide", "x", "y", "tissue_fraction", "mpp")
_SUFFIX = {"png": ".png", "jpeg": ".jpg"}
_OF_OURS = re.compile(r"-?\d+_-?\d+\.(png|jpg)")
_BATCH = 16  # patches read at a time; their files are written meanwhile
_LOCK_S = 60.0  # for another run to write its table


@dataclass(frozen=True, kw_only=True, slots=True)
class _Form:
    """How the files are written."""

    kind: PatchFormat
    quality: int

    def bytes_of(self, pixels: NDArray[np.uint8]) -> bytes:
        if self.kind == "png":
            return quick_png(pixels)
        return encode_tile(pixels, codec="jpeg", quality=self.quality)

    @property
    def identity(self) -> dict[str, Any]:
        """PNG has no quality."""
        return {"format": self.kind} | ({"quality": self.quality} if self.kind == "jpeg" else {})


@shows()
def write_patches(
    slides: str | Place | Sequence[str | Place],
    *,
    out: str | Path,
    format: PatchFormat = "png",
    quality: int = 90,
    on_progress: Callable[[Progress], None] | None = None,
    progress: bool | None = None,
    **plan: Unpack[PlanArguments],
) -> RunReport:
    """Write the patches that `extract` would encode as picture files.

    Each slide has a folder `<out>/<slide>/` of files `<x>_<y>.png`, named by the level-0 corner, with a
    table of its own; `<out>/patches.csv` has those of all slides that are whole there, of other runs
    too: file, slide, x, y, tissue_fraction, mpp. `extract(patches=out / "patches.csv")` encodes them:
    of PNG to the very features of the slides. A slide that is there is not made again; one that was
    interrupted is begun anew.

    Args:
        slides: as in `extract`.
        out: output folder.
        format: "png", the pixels as they are; "jpeg", YCbCr 4:2:0.
        quality: of JPEG, 1..100.
        on_progress: called after every batch and every slide.
        progress: show it as lines of text: True, False; None: in a notebook.
        plan: which patches and in what colours, as in `extract`: mpp, mag, patch_px, overlap_px, min_tissue,
            edge, resample, tissue, stain, icc, mask, coords, mpp_override, allow_upsampling; and strict, fail_fast,
            overwrite, recursive, shard, workers. `device` is where a network of tissue runs. Without a scale
            patches are of 0.5 um per pixel, without `patch_px` of 256.

    Returns:
        What became of each slide; `seconds` are of "open", "tissue", "plan" and "write". A slide that
        fails does not stop the others.

    Raises:
        ValueError, TypeError, FileNotFoundError: as `extract`, before the first slide.
        WriteError: the output folder cannot be written, or the disk is full.

    Determinism: equal slides and options give equal PNG files.
    """
    start_s = time.perf_counter()
    form = _form_of(format, quality)
    given: dict[str, Any] = dict(plan)
    mask, is_recursive = given.pop("mask", None), given.pop("recursive", False)
    options = settled_without_encoders(
        options_asked(out=out, encoder=DEFAULT_ENCODER, **given), batch_size=_BATCH
    )
    found = slides_asked(slides, options, mask=mask, recursive=is_recursive)
    found = select_shard(found, options.shard)
    make_folder(options.out)
    report = RunReport()
    telling = _Telling(report, len(found), on_progress, start_s)
    try:
        with ThreadPoolExecutor(options.workers, thread_name_prefix="histofast-decode") as pool:
            for job in found:
                stop_if_asked()
                entry = _written(job, options, form, pool, telling)
                report.add(entry)
                telling(finished=entry)
                if options.fail_fast and entry.status == "failed":
                    break
    except KeyboardInterrupt:
        report.interrupted = True
    except NoSpaceError as error:
        report.error = said(error)
    known = {entry.name for entry in report.slides}
    report.slides += [
        SlideReport(name=job.name, path=str(job.path), status="interrupted")
        for job in found
        if job.name not in known
    ]
    if not report.error:
        _write_table(options.out)
    report.seconds = time.perf_counter() - start_s
    return report


def _form_of(kind: PatchFormat, quality: int) -> _Form:
    if kind not in get_args(PatchFormat):
        raise ValueError(f"format must be one of {', '.join(get_args(PatchFormat))}, got {kind!r}")
    quality = whole_number("quality", quality, at_least=1, at_most=100)
    return _Form(kind=kind, quality=quality)


class _Telling:
    """Who follows the run is told how far it is."""

    def __init__(
        self,
        report: RunReport,
        slides: int,
        on_progress: Callable[[Progress], None] | None,
        start_s: float,
    ) -> None:
        self._report, self._slides, self._start_s = report, slides, start_s
        self._on_progress = on_progress
        self._patches = 0

    def __call__(
        self, entry: SlideReport | None = None, done: int = 0, finished: SlideReport | None = None
    ) -> None:
        if finished is not None and finished.status == "done":
            self._patches += finished.patches
        if self._on_progress is None:
            return
        self._on_progress(
            Progress(
                slides_total=self._slides,
                slides_done=len(self._report.slides),
                patches_done=self._patches + done,
                seconds=time.perf_counter() - self._start_s,
                name=(finished or entry or SlideReport(name="", path="", status="done")).name,
                slide_patches=entry.patches if entry else 0,
                slide_patches_done=done,
                finished=finished,
            )
        )


def _written(
    job: SlideJob, options: Settled, form: _Form, pool: ThreadPoolExecutor, telling: _Telling
) -> SlideReport:
    """Write the files of one slide, if they are not there; its failure is in what is returned."""
    entry = SlideReport(name=job.name, path=str(job.path), status="failed")
    started = time.perf_counter()
    try:
        with ExitStack() as stack:
            clock = Clock(entry.seconds)
            source = SlideSource(job, options, stack)
            clock.lap("open")
            folder = options.out / job.name
            entry.outputs = [str(folder)]
            write = partial(_write_slide, source, entry, folder, options, form, pool, telling)
            todo = Job(
                name=job.name,
                function=write,
                folder=folder,
                identity=json.loads(json.dumps(_identity(source, options, form))),
            )
            if options.overwrite:
                (folder / MARKER).unlink(missing_ok=True)
            outcome = execute(todo)
            if outcome.error is not None:
                raise outcome.error
            entry.status = "skipped" if outcome.status == "there" else "done"
    except NoSpaceError:
        raise
    except SLIDE_FAILURES as error:
        entry.fail(error)
    if entry.reason:
        entry.status = "empty"
    entry.seconds["total"] = time.perf_counter() - started
    return entry


def _identity(source: SlideSource, options: Settled, form: _Form) -> dict[str, Any]:
    return {
        "revision": REVISION,
        **form.identity,
        **({} if options.icc is None else {"icc": options.icc}),
        **({} if options.stain is None else {"stain": options.stain.identity}),
        **source.made_of,
    }


def _write_slide(
    source: SlideSource,
    entry: SlideReport,
    folder: Path,
    options: Settled,
    form: _Form,
    pool: ThreadPoolExecutor,
    telling: _Telling,
) -> None:
    clock = Clock(entry.seconds)
    planned = source.plan(options, pool, clock)
    entry.patches, entry.reason, entry.notes = (
        len(planned.coords_l0),
        planned.empty,
        list(planned.notes),
    )
    names = [f"{x}_{y}{_SUFFIX[form.kind]}" for x, y in planned.coords_l0]
    _remove_others(folder, names)
    clock = Clock(entry.seconds)
    unreadable, damaged = [planned.unreadable_l0], 0
    done = 0
    for batch in _batches(planned, options):
        unreadable.append(batch.unreadable_l0)
        damaged += len(batch.damaged)
        _write_files(folder, names[done : done + len(batch.pixels)], batch, form, pool)
        done += len(batch.pixels)
        telling(entry, done)
    entry.unreadable = len(np.unique(np.concatenate(unreadable), axis=0))
    entry.damaged_patches = damaged
    if damaged and damaged == entry.patches:
        raise SlideError(f"no patch of {entry.path} could be read whole")
    source.watched.check()
    fractions = planned.tissue_fraction
    shares = [""] * len(names) if fractions is None else [str(fraction) for fraction in fractions]
    rows = [
        [name, entry.name, int(x), int(y), share, planned.attributes["mpp"]]
        for name, (x, y), share in zip(names, planned.coords_l0, shares, strict=True)
    ]
    with replacing(folder / TABLE, overwrite=True) as pending:
        pending.write_text(csv_text([COLUMNS, *rows]), "utf-8")
    clock.lap("write")


def _batches(planned: Planned, options: Settled) -> Iterator[PatchBatch]:
    if not len(planned.coords_l0):
        return
    for batch in planned.stream(None):
        if options.strict and len(batch.unreadable_l0):
            raise TileError(f"{batch.reason} (strict=True)")
        yield batch


def _write_files(
    folder: Path, names: Sequence[str], batch: PatchBatch, form: _Form, pool: ThreadPoolExecutor
) -> None:
    def write(name: str, pixels: NDArray[np.uint8]) -> None:
        (folder / name).write_bytes(form.bytes_of(np.ascontiguousarray(pixels)))

    waiting: list[Future[None]] = [
        pool.submit(write, name, pixels) for name, pixels in zip(names, batch.pixels, strict=True)
    ]
    try:
        for future in waiting:
            future.result()
    except OSError as error:
        raise write_error(folder, error) from error
    finally:
        for future in waiting:
            future.cancel()


def _remove_others(folder: Path, names: Sequence[str]) -> None:
    """Remove pictures that an interrupted run of other options has left."""
    ours = set(names)
    for path in folder.iterdir():
        if _OF_OURS.fullmatch(path.name) and path.name not in ours:
            with suppress(FileNotFoundError):
                path.unlink()


def _write_table(out: Path) -> None:
    """Put the tables of all slides that are whole into one; runs side by side do it in turn."""
    with ExitStack() as stack:
        lock = Lock(out / TABLE)
        if not lock.acquire(wait_s=_LOCK_S):
            raise WriteError(
                f"cannot write {out / TABLE}: another run has been writing it for long"
            )
        stack.callback(lock.release)
        whole = [
            folder / TABLE
            for folder in sorted(out.iterdir())
            if (folder / MARKER).is_file() and (folder / TABLE).is_file()
        ]
        pending = stack.enter_context(replacing(out / TABLE, overwrite=True))
        with pending.open("w", encoding="utf-8", newline="") as file:
            file.write(csv_text([COLUMNS]))
            for table in whole:
                _, *rows = read_csv(table)
                placed = [[f"{table.parent.name}/{row[0]}", *row[1:]] for row in rows]
                file.write(csv_text(placed))
