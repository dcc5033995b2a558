"""From batches of pixels to feature files."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histofast._words import one_line
from histofast.encoders import EncoderSet, Pending
from histofast.errors import NoSpaceError, SlideError, TileError
from histofast.patches import SLIDE_FAILURES
from histofast.pipeline.preparing import Options, Prepared
from histofast.pipeline.reports import (
    Clock,
    DeviceReport,
    Progress,
    RunReport,
    SlideReport,
)
from histofast.pipeline.supply import Begin, End, Pixels, Supply


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
        options: Options,
        supply: Supply,
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
                if isinstance(event, Begin):
                    _count(event.prepared.report, "wait", waited_s)
                    self._begin(event.prepared)
                elif isinstance(event, Pixels):
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

    def _encode(self, event: Pixels, waited_s: float) -> None:
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

    def _end(self, event: End) -> tuple[SlideReport, BaseException | None]:
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
            report.error = one_line(error)
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
