"""What becomes of a run, from what its workers tell: the report, its file, and the progress."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence

from histofast._files import remove_dead_leases, remove_stale_temporaries
from histofast._notes import log_of, note
from histofast._words import count, duration
from histofast.errors import ModelError, NoSpaceError
from histofast.jobs import Ended, Event, Job, Lost, Outcome, Retried, Told
from histofast.pipeline.encoding import BatchDone, Ready
from histofast.pipeline.folders import folders_for
from histofast.pipeline.holding import Waiting
from histofast.pipeline.options import ExtractOptions
from histofast.pipeline.reports import (
    DeviceReport,
    Progress,
    ReportFile,
    RunReport,
    SlideReport,
    Status,
    make_folder,
)

_log = log_of(__name__)


class Gathering:
    """Listens to the events of a run. Nothing is written before all workers are ready."""

    def __init__(
        self,
        jobs: Sequence[Job],
        options: ExtractOptions,
        devices: Sequence[str],
        on_progress: Callable[[Progress], None] | None,
        start_s: float,
    ) -> None:
        self.report = RunReport()
        self._jobs, self._options, self._start_s = jobs, options, start_s
        self._on_progress = on_progress
        self._devices = [DeviceReport(device=device) for device in devices]
        self._ready: list[Ready] = []
        self._saver: ReportFile | None = None
        self._is_one_lost = False  # of the workers
        # By worker:
        self._at_work: dict[int, tuple[str, BatchDone]] = {}
        self._patches = dict.fromkeys(range(len(devices)), 0)
        self._refused: dict[str, Outcome] = {}  # by the encoder of a device

    @property
    def is_ready(self) -> bool:
        """Whether all workers have loaded their encoders."""
        return self._saver is not None

    def __call__(self, event: Event) -> None:
        match event:
            case Told(what=Ready() as ready):
                self._get_ready(ready)
            case Told(what=DeviceReport() as device):
                self._devices[event.worker] = device
            case Told(what=BatchDone() as done):
                self._at_work[event.worker] = (event.name, done)
                self._patches[event.worker] = done.patches
                self._tell()
            case Told(what=Waiting() as waiting):
                self._note(f"{waiting.name}: {waiting.why}")
                self._tell(note=self.report.notes[-1])
            case Retried(outcome=outcome):
                self._at_work.pop(outcome.worker, None)
                self._refused[outcome.job.name] = outcome
            case Lost():
                self._lose(event)
            case Ended(outcome=outcome):
                self._at_work.pop(outcome.worker, None)
                self._end(outcome)

    def _get_ready(self, ready: Ready) -> None:
        self._ready.append(ready)
        if len(self._ready) < len(self._devices):
            return
        _refuse_others(self._ready)
        _log.info("encoding %s into %s", count(len(self._jobs), "slide"), self._options.out)
        about = {**self._ready[0].about, "slides": len(self._jobs)}
        notes = dict.fromkeys(note for each in self._ready for note in each.notes)
        licences = ready.licences  # the same of all workers
        for licence in licences:
            note(_log, f"encoder {licence}", level=logging.INFO)
        self.report.about, self.report.notes = about, [*notes, *licences]
        make_folder(self._options.out)
        folders = folders_for(
            self._ready[0].folders, [job.arguments["slide"] for job in self._jobs]
        )
        if not self._options.overwrite:
            for folder in folders:  # all of them, before anything is entered
                folder.refuse_others()
        for folder in folders:
            folder.claim(overwrite=self._options.overwrite)
        self._sweep()
        self._saver = ReportFile(self._options.out, self.report, self._options.shard)

    def _end(self, outcome: Outcome) -> None:
        slide = outcome.value
        if not isinstance(slide, SlideReport):  # its process died
            slide = _report_of(outcome.job, "failed")
            slide.error = str(outcome.error)
        first = self._refused.get(slide.name)
        if slide.status == "done" and first is not None:
            self._note(
                f"{self._devices[first.worker].device}: failed on {slide.name}, which "
                f"{self._devices[outcome.worker].device} encoded then: {first.value.error}"
            )
        if isinstance(outcome.error, NoSpaceError):
            self.report.error = slide.error
        self._log_end(slide)
        self.report.add(slide)
        self._account()
        self._tell(slide)
        if self._saver is not None:
            self.report.seconds = time.perf_counter() - self._start_s
            self._saver.save()

    def _lose(self, event: Lost) -> None:
        went = f", {len(event.unfinished)} of its slides unfinished" if event.unfinished else ""
        device = self._devices[event.worker].device
        self._note(f"{device}: its process {event.how}{went}")
        self._is_one_lost = True
        self._sweep()
        _, done = self._at_work.pop(event.worker, ("", None))
        if done is not None:
            self._patches[event.worker] -= done.slide_patches_done

    def _sweep(self) -> None:
        remove_stale_temporaries(self._options.out)
        remove_dead_leases(self._options.out)

    def _note(self, text: str) -> None:
        self.report.notes.append(text)
        note(_log, text)

    def _log_end(self, slide: SlideReport) -> None:
        level = logging.DEBUG if slide.status == "skipped" else logging.INFO
        _log.log(logging.WARNING if slide.is_flawed else level, "%s", slide.in_words())
        if slide.traceback:
            for line in slide.traceback.splitlines():
                _log.debug("%s", line)
        for text in slide.of_run:
            if text not in self.report.notes:
                note(_log, text)

    def _account(self) -> None:
        self.report.devices = list(self._devices)
        self.report.find_limit()

    def _tell(self, finished: SlideReport | None = None, *, note: str = "") -> None:
        if self._on_progress is None:
            return
        at_work = list(self._at_work.values())
        progress = Progress(
            slides_total=len(self._jobs),
            slides_done=len(self.report.slides),
            patches_done=sum(self._patches.values()),
            seconds=time.perf_counter() - self._start_s,
            name=finished.name if finished else ", ".join(name for name, _ in at_work),
            slide_patches=0 if finished else sum(done.slide_patches for _, done in at_work),
            slide_patches_done=0 if finished else sum(d.slide_patches_done for _, d in at_work),
            finished=finished,
            note=note,
        )
        on_progress, self._on_progress = self._on_progress, None
        on_progress(progress)
        self._on_progress = on_progress  # who raises is not called again

    def finish(self, *, interrupted: bool) -> RunReport:
        """Enter what nothing became of, and save the report."""
        report = self.report
        report.interrupted = interrupted
        self._account()
        # Maybe before a file had somebody to remove it; one that was given up may have lived on for a while.
        if interrupted or self._is_one_lost:
            self._sweep()
        known = {slide.name for slide in report.slides}
        report.slides += [
            _report_of(job, "interrupted") for job in self._jobs if job.name not in known
        ]
        report.seconds = time.perf_counter() - self._start_s
        by_status = Counter(slide.status for slide in report.slides)
        found = ", ".join(f"{n} {status}" for status, n in by_status.items()) or "no slide"
        _log.info("%s in %s", found, duration(report.seconds))
        if report.error:
            _log.error("stopped: %s", report.error)
        if self._saver is not None:
            self._saver.save(now=True)
            self._saver.close()
        return report


def _refuse_others(ready: Sequence[Ready]) -> None:
    """Refuse workers whose files would not be the same.

    Raises:
        ModelError: two have other encoders, or run them otherwise.
    """
    first = ready[0].about["encoders"]
    for each in ready[1:]:
        for ours, theirs in zip(first, each.about["encoders"], strict=True):
            for name, is_what in (("sha256", "is another file"), ("provider", "runs otherwise")):
                if ours[name] != theirs[name]:
                    raise ModelError(
                        f"encoder {ours['name']} {is_what} on {each.about['machine']} than on "
                        f"{ready[0].about['machine']}: {name} {theirs[name]}, and not {ours[name]}"
                    )


def _report_of(job: Job, status: Status) -> SlideReport:
    slide = job.arguments["slide"]
    return SlideReport(name=slide.name, path=str(slide.path), status=status)
