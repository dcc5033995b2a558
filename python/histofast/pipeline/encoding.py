"""From batches of pixels to feature files, slide after slide: what a worker of `extract` does."""

from __future__ import annotations

import platform
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histofast import _core
from histofast.encoders import EncoderSet, Pending, load_all, opened_network
from histofast.errors import CudaError, ModelError, SlideError, TileError
from histofast.jobs import Feed, Job, Outcome, Status, deferred_interrupts
from histofast.patches import SLIDE_FAILURES
from histofast.pipeline.folders import Folder
from histofast.pipeline.holding import Waiting
from histofast.pipeline.options import ExtractOptions, Settled, settle
from histofast.pipeline.preparing import Prepared, folders_of
from histofast.pipeline.ranking import ranker_of
from histofast.pipeline.reports import Clock, DeviceReport, SlideReport
from histofast.pipeline.supply import Begin, End, Pixels, Supply

# What became of a slide, as the engine of jobs has it.
_STATUS: dict[str, Status] = {
    "done": "done",
    "empty": "done",
    "skipped": "there",
    "failed": "failed",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Ready:
    """The encoders are loaded: what the report says of them, what speaks against them here, their terms.

    `folders` are those that will be written to, with the options of all that is in them.
    """

    about: dict[str, Any]
    notes: list[str]
    licences: list[str]
    folders: tuple[Folder, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchDone:
    """How far a slide is, and what this worker has encoded of all slides."""

    slide_patches: int
    slide_patches_done: int
    patches: int


def encode_slides(feed: Feed, *, options: ExtractOptions) -> None:
    """Encode the slides of a feed.

    Told are `Ready`, after each batch `BatchDone`, and now and then a `DeviceReport`; the value of
    an outcome is a `SlideReport`.
    """
    with ExitStack() as stack:
        encoders, settled, pool = equip(options, stack)
        ranker = ranker_of(options, settled, stack)
        feed.tell(
            Ready(
                about=about(settled, encoders),
                notes=notes_of(encoders),
                licences=licences_of(encoders),
                folders=folders_of(encoders, settled),
            )
        )
        supply = Supply(feed, encoders, settled, pool, ranker)
        stack.enter_context(deferred_interrupts(supply.wake))
        stack.enter_context(supply)
        stack.callback(feed.close)
        Encoding(encoders, settled, supply, feed).run()


def equip(
    options: ExtractOptions, stack: ExitStack
) -> tuple[list[EncoderSet], Settled, ThreadPoolExecutor]:
    """Load the encoders and start the threads that decode; `stack` closes them."""
    encoders = [
        stack.enter_context(load_all(name, device=options.device, threads=options.threads))
        for name in options.encoders
    ]
    settled = settle(options, encoders)
    if settled.tissue.spec is not None:  # what is wrong with it is no slide's failure
        opened_network(settled.tissue.spec, settled.device)
    pool = ThreadPoolExecutor(options.workers, thread_name_prefix="histofast-decode")
    return encoders, settled, stack.enter_context(pool)


def about(options: Settled, encoders: Sequence[EncoderSet]) -> dict[str, Any]:
    """Return what the report of a run says of versions, machine, encoders and options."""
    return {
        "histofast": _core.version,
        "python": platform.python_version(),
        "machine": platform.node(),
        "isa": _core.current_isa().name,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "encoders": [
            {
                "name": spec.name,
                "sha256": spec.sha256,
                "d": spec.d,
                "provider": together.provider,
            }
            for together in encoders
            for spec in together.specs
        ],
        "options": options.described,
        "shard": options.shard,
    }


def notes_of(encoders: Sequence[EncoderSet]) -> list[str]:
    """Return what speaks against encoders on this machine."""
    return [f"{e.name}: {e.device_note}" for e in encoders if e.device_note]


def licences_of(encoders: Sequence[EncoderSet]) -> list[str]:
    """Return under which terms the weights of encoders are, where these say so; features may be, too."""
    return [f"{e.name}: licence {terms}" for e in encoders if (terms := e.specs[0].terms)]


@dataclass(frozen=True, slots=True)
class _Submitted:
    """A batch that the encoders are at: how many patches, and what each file gives for them."""

    patches: int
    pending: deque[tuple[EncoderSet, Pending]]


class Encoding:
    """The encoding side: takes what the supply thread brings, encodes it and writes it.

    With `in_flight` batches open the oldest is waited for and written: none on the CPU, where a
    batch is encoded when it is submitted; on a GPU the others keep it busy meanwhile.
    """

    def __init__(
        self,
        encoders: Sequence[EncoderSet],
        options: Settled,
        supply: Supply,
        feed: Feed,
    ) -> None:
        self._encoders, self._options, self._supply = encoders, options, supply
        self._feed = feed
        self._in_flight = min(together.in_flight for together in encoders)
        self._job: Job | None = None
        self._current: Prepared | None = None
        self._submitted: deque[_Submitted] = deque()
        self._error: BaseException | None = None
        self._unreadable: list[NDArray[np.int64]] = []
        self._damaged: list[NDArray[np.int64]] = []
        self._rows = 0
        self._patches = 0  # of all slides
        self._slides_done = self._patches_done = 0
        self._last_end = 0.0
        # Between the first and the last batch:
        self._first_s: float | None = None
        self._last_s = self._busy_before_s = self._busy_s = 0.0

    def run(self) -> None:
        """Encode slides until there are no more, or the run stops."""
        try:
            for event, waited_s in self._supply.events():
                if isinstance(event, Begin):
                    _count(event.prepared.report, "wait", waited_s)
                    self._begin(event)
                elif isinstance(event, Pixels):
                    self._encode(event, waited_s)
                elif isinstance(event, Waiting):
                    self._feed.tell(event)
                else:
                    self._end(event)
        finally:
            self._drop()
            self._account()

    def _begin(self, event: Begin) -> None:
        prepared = event.prepared
        self._job, self._current, self._error = event.job, prepared, None
        self._unreadable, self._damaged, self._rows = [prepared.planned.unreadable_l0], [], 0
        try:
            prepared.open_writers(self._options)
        except SLIDE_FAILURES as error:
            self._give_up(error)
        self._feed.start(event.job)

    def _encode(self, event: Pixels, waited_s: float) -> None:
        prepared, batch = self._current, event.batch
        assert prepared is not None, "pixels come after the beginning of their slide"
        if self._error is not None:
            return
        _count(prepared.report, "supply", event.waited_s)
        _count(prepared.report, "wait", waited_s)
        try:
            prepared.check_held(look=False)
            if len(batch.unreadable_l0):
                if self._options.strict:
                    raise TileError(f"{batch.reason} (strict=True)")
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
        self._tell(prepared)

    def _sum_busy_s(self) -> float:
        return sum(together.busy_s for together in self._encoders)

    def _end(self, event: End) -> None:
        report, prepared = event.report, self._current
        error = event.error or self._error
        try:
            if prepared is not None and prepared.report is report:
                if error is None or isinstance(error, SlideError):
                    prepared.watched.check()  # or what is wrong is that it has changed
                if error is None:
                    self._finish(prepared)
            self._drop()
        except SLIDE_FAILURES as failure:
            failure.__context__ = failure.__context__ or error
            error = failure
            self._drop()
        if error is not None:
            report.fail(error)
        if prepared is not None:
            # A slide that was ready early has only waited for the one before.
            now = time.perf_counter()
            report.seconds["total"] = now - max(prepared.started, self._last_end)
            self._last_end = now
        if report.status == "done":
            self._slides_done += 1
            self._patches_done += report.patches
        self._account()
        outcome = Outcome(
            job=event.job,
            status=_STATUS[report.status],
            value=report,
            error=error,
            seconds=report.seconds.get("total", 0.0),
        )
        self._feed.end(outcome, elsewhere=isinstance(error, ModelError | CudaError))

    def _finish(self, prepared: Prepared) -> None:
        """Write what is under way of a slide, and give its files their names."""
        report = prepared.report
        while self._submitted:
            self._write_oldest(prepared)
        clock = Clock(report.seconds)
        unreadable = _each_once(np.concatenate(self._unreadable))
        damaged = np.concatenate([np.empty(0, np.int64), *self._damaged])
        report.unreadable, report.damaged_patches = len(unreadable), len(damaged)
        if len(damaged) and len(damaged) == report.patches:
            raise SlideError(f"no patch of {report.path} could be read whole")
        for writer in prepared.writers:
            prepared.check_held(look=True)
            writer.finish(
                unreadable=unreadable, unreadable_patches=damaged, seen=prepared.watched.seen
            )
        clock.lap("write")

    def _account(self) -> None:
        """Tell what the device has done so far."""
        passed_s = self._last_s - self._first_s if self._first_s is not None else 0.0
        busy_s = self._busy_s - self._busy_before_s
        self._feed.tell(
            DeviceReport(
                device=self._encoders[0].device,
                # Two encoder files may have the GPU compute two batches at the same time.
                busy=min(busy_s / passed_s, 1.0) if passed_s > 0 else 0.0,
                slides=self._slides_done,
                patches=self._patches_done,
            )
        )

    def _give_up(self, error: BaseException) -> None:
        """Note why the current slide fails; the rest of it is not wanted."""
        assert self._current is not None
        self._error = error
        self._current.is_cancelled = True

    def _drop(self) -> None:
        """Close the current slide, which removes what is not finished."""
        current = self._current
        self._job = self._current = self._error = None
        try:
            while self._submitted:
                for _, pending in self._submitted.popleft().pending:
                    pending.discard()
        finally:
            if current is not None:
                current.close()

    def _tell(self, prepared: Prepared) -> None:
        self._feed.tell(
            BatchDone(
                slide_patches=prepared.report.patches,
                slide_patches_done=self._rows,
                patches=self._patches,
            ),
            job=self._job,
        )


def _count(report: SlideReport, stage: str, seconds: float) -> None:
    report.seconds[stage] = report.seconds.get(stage, 0.0) + seconds


def _each_once(boxes: NDArray[np.int64]) -> NDArray[np.int64]:
    """(k, 4) boxes without repetitions: a tile may be met for the overview and for patches."""
    _, first = np.unique(boxes, axis=0, return_index=True)
    return boxes[np.sort(first)]
