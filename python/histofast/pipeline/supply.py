"""From slides to batches of pixels, ahead of whoever encodes them.

One thread opens a slide, finds its tissue and plans its patches, one slide ahead of a second thread,
which streams the pixels into a bounded queue and goes on to the next slide as soon as the last
batch of this one is queued.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Self

from histofast.encoders import EncoderSet
from histofast.jobs import Feed, Job
from histofast.patches import SLIDE_FAILURES, PatchBatch
from histofast.patches import Job as SlideJob
from histofast.pipeline.holding import Busy, Holding, Patience, Stopped, Waiting
from histofast.pipeline.options import Settled
from histofast.pipeline.preparing import Prepared, prepare
from histofast.pipeline.ranking import Ranker
from histofast.pipeline.reports import SlideReport

QUEUED_BATCHES = 4


@dataclass(frozen=True, slots=True)
class Begin:
    """A slide begins."""

    job: Job
    prepared: Prepared


@dataclass(frozen=True, slots=True)
class Pixels:
    """A batch of the slide that began last, and how long it took to make."""

    batch: PatchBatch
    waited_s: float


@dataclass(frozen=True, slots=True)
class End:
    """The slide is over: whole, or with the error that ended it."""

    job: Job
    report: SlideReport
    error: BaseException | None = None


class _Last:
    """No more slides."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ready:
    """A slide as it was prepared; closing the stack closes the slide."""

    job: Job
    report: SlideReport
    stack: ExitStack
    prepared: Prepared | None = None  # None: its files are there, or it failed
    error: BaseException | None = None

    def close(self) -> None:
        self.stack.close()
        if self.prepared is not None:
            self.prepared.close()


class Supply:
    """The threads that turn jobs into batches of pixels: one prepares slides, one streams them."""

    def __init__(
        self,
        feed: Feed,
        encoders: Sequence[EncoderSet],
        options: Settled,
        pool: ThreadPoolExecutor,
        ranker: Ranker | None = None,
    ) -> None:
        self._feed, self._encoders, self._options, self._pool = feed, encoders, options, pool
        self._ranker = ranker
        # A Ctrl-C in the encoding thread may hit it inside a queue.Queue or Event and leave their
        # lock taken for ever; a SimpleQueue is safe. Its bound is one token per free place.
        self._queue: queue.SimpleQueue[
            Begin | Pixels | End | Waiting | BaseException | _Last | None
        ]  # None: look up
        self._queue, self._free = queue.SimpleQueue(), queue.SimpleQueue[None]()
        for _ in range(QUEUED_BATCHES):
            self._free.put(None)
        self._is_stopped = False
        self._holding, self._patience = Holding(), Patience()
        self._thread = threading.Thread(target=self._run, name="histofast-supply", daemon=True)

    def __enter__(self) -> Self:
        self._holding.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._is_stopped = True
        while self._thread.is_alive() or not self._queue.empty():
            with suppress(queue.Empty):
                _discard(self._queue.get(timeout=0.05))
        self._thread.join()
        self._holding.__exit__(*exc)  # not before: the last slides are encoded without the thread

    def wake(self) -> None:
        """Have the thread that reads the events look whether it is to stop; from anywhere."""
        self._queue.put(None)

    def events(self) -> Iterator[tuple[Begin | Pixels | End | Waiting, float]]:
        """Per slide: begin, pixels..., end; or only an end. In the order of supply; waitings anywhere.

        With each comes for how many seconds it was waited for. They end early when the run stops.
        """
        while not self._feed.should_stop():
            begin = time.perf_counter()
            event = self._queue.get()
            if self._feed.should_stop() or isinstance(event, _Last):
                _discard(event)
                return
            if event is None:
                continue
            self._free.put(None)
            if isinstance(event, BaseException):
                raise event
            yield event, time.perf_counter() - begin

    def _put(self, event: Begin | Pixels | End | Waiting | BaseException | _Last) -> None:
        while not self._is_stopped:
            try:
                self._free.get(timeout=0.1)
            except queue.Empty:
                continue
            self._queue.put(event)
            return
        raise Stopped

    def _run(self) -> None:
        with ThreadPoolExecutor(1, thread_name_prefix="histofast-prepare") as ahead:
            upcoming = ahead.submit(self._prepare)
            try:
                while (slide := upcoming.result()) is not None:
                    upcoming = ahead.submit(self._prepare)
                    self._stream(slide)
                self._put(_Last())
            except Stopped:
                pass
            except BaseException as error:  # noqa: BLE001  # handed to the thread that can raise it
                with suppress(Stopped):
                    self._put(error)
            finally:
                _close_unused(upcoming)

    def _prepare(self) -> _Ready | None:
        """Open and plan the next slide; None when there are no more."""
        while not self._is_stopped and (job := self._feed.take()) is not None:
            slide: SlideJob = job.arguments["slide"]
            report = SlideReport(name=slide.name, path=str(slide.path), status="failed")
            stack = ExitStack()
            try:
                try:
                    prepared = prepare(
                        slide,
                        report,
                        self._encoders,
                        self._options,
                        self._pool,
                        stack,
                        holding=self._holding,
                        ranker=self._ranker,
                        is_unwanted=lambda: self._is_stopped,
                    )
                except Busy as busy:
                    if (waiting := self._patience.meet(job.name, busy)) is not None:
                        self._put(waiting)
                    stack.close()
                    self._feed.give_back(job)
                    continue
            except SLIDE_FAILURES as error:
                return _Ready(job=job, report=report, stack=stack, error=error)
            except BaseException:
                stack.close()
                raise
            report.status = "empty" if report.reason else "skipped" if prepared is None else "done"
            return _Ready(job=job, report=report, stack=stack, prepared=prepared)
        return None

    def _stream(self, slide: _Ready) -> None:
        """Supply one slide."""
        report, prepared, error = slide.report, slide.prepared, slide.error
        try:
            with slide.stack:
                if prepared is not None:
                    try:
                        self._put(Begin(slide.job, prepared))
                    except Stopped:
                        prepared.close()
                        raise
                    last = time.perf_counter()
                    for batch in prepared.planned.stream(None):
                        self._put(Pixels(batch, time.perf_counter() - last))
                        if prepared.is_cancelled:
                            break
                        last = time.perf_counter()
        except SLIDE_FAILURES as failure:
            error = failure
        self._put(End(slide.job, report, error))


def _close_unused(upcoming: Future[_Ready | None]) -> None:
    """Close the slide that was prepared and is not wanted any more."""
    if upcoming.cancel() or upcoming.exception() is not None:
        return
    slide = upcoming.result()
    if slide is not None:
        slide.close()


def _discard(event: object) -> None:
    """Close what nobody will encode."""
    if isinstance(event, Begin):
        event.prepared.close()
