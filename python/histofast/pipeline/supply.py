"""From slides to batches of pixels, ahead of whoever encodes them.

One thread opens a slide, finds its tissue and plans its patches, one slide ahead of a second thread,
which streams the pixels into a bounded queue and goes on to the next slide as soon as the last
batch of this one is queued.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Protocol, Self

from histofast.encoders import EncoderSet
from histofast.patches import SLIDE_FAILURES, Job, PatchBatch
from histofast.pipeline.preparing import Busy, Options, Prepared, prepare
from histofast.pipeline.reports import SlideReport

QUEUED_BATCHES = 4
POLL_S = 0.5  # how often a run asks whether another process has let go of a slide


@dataclass(frozen=True, slots=True)
class Begin:
    """A slide begins."""

    prepared: Prepared


@dataclass(frozen=True, slots=True)
class Pixels:
    """A batch of the slide that began last, and how long it took to make."""

    batch: PatchBatch
    waited_s: float


@dataclass(frozen=True, slots=True)
class End:
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


class Listed:
    """The slides of a list, in its order."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._left, self._busy = deque(jobs), deque[Job]()

    def take(self) -> Job | None:
        """Return the next one; those that were busy come again in the end."""
        if not self._left and self._busy:
            time.sleep(POLL_S)
            self._left, self._busy = self._busy, deque()
        return self._left.popleft() if self._left else None

    def give_back(self, job: Job) -> None:
        """Keep it for later."""
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


class Supply:
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
        self._queue: queue.SimpleQueue[Begin | Pixels | End | BaseException | None]
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
                if isinstance(event, Begin):
                    event.prepared.close()
        self._thread.join()

    def interrupt(self) -> None:
        """Have the thread that reads the events interrupted, from another thread."""
        self._queue.put(KeyboardInterrupt())

    def events(self) -> Iterator[tuple[Begin | Pixels | End, float]]:
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

    def _put(self, event: Begin | Pixels | End | BaseException | None) -> None:
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
                        self._put(Begin(prepared))
                    except _Stopped:
                        prepared.close()
                        raise
                    last = time.perf_counter()
                    for batch in prepared.planned.stream():
                        self._put(Pixels(batch, time.perf_counter() - last))
                        if prepared.is_cancelled:
                            break
                        last = time.perf_counter()
        except SLIDE_FAILURES as failure:
            error = failure
        self._put(End(report, error))


def _close_unused(upcoming: Future[_Ready | None]) -> None:
    """Close the slide that was prepared and is not wanted any more."""
    if upcoming.cancel() or upcoming.exception() is not None:
        return
    slide = upcoming.result()
    if slide is not None:
        slide.close()
