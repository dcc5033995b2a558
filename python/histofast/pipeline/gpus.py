"""Several GPUs: a process for each, and a parent that deals the slides out to them.

A process asks for its next slide when it begins to stream one, so that it is prepared one ahead;
whoever is done first gets the next. The locks of the feature files keep other runs away as ever.
Down its standard input comes a line with all that it needs, then the index of each slide it is to
encode, -1 when there are no more; the end of the input tells it to stop, whatever became of the
parent. Up its standard output go messages, one a line.
"""

from __future__ import annotations

import base64
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, NoReturn, Self

from histofast._files import remove_stale_temporaries
from histofast.errors import CudaError, HistofastError, ModelError
from histofast.patches import Job
from histofast.pipeline.preparing import Request
from histofast.pipeline.reports import (
    DeviceReport,
    Progress,
    ReportFile,
    RunReport,
    SlideReport,
    make_folder,
)

_MARK = b"histofast:"  # in front of a message, for anything may print when Python starts
_NO_MORE = -1
# Its path is the parent's, so that it finds the same modules and none of the folder it runs in.
_CODE = (
    "import sys; sys.path[:] = {path!r}; from histofast.pipeline.extraction import serve; serve()"
).format


# --- messages of a process ----------------------------------------------------------------------
# These, and `Progress` as it is.


@dataclass(frozen=True, slots=True)
class _Ready:
    """The encoders are loaded."""

    about: dict[str, Any]
    notes: list[str]


@dataclass(frozen=True, slots=True)
class _Asks:
    """For a slide."""


@dataclass(frozen=True, slots=True)
class _GivesBack:
    """A slide that another run is at."""

    index: int


@dataclass(frozen=True, slots=True)
class _Ended:
    """A slide is over. `is_encoders`: it failed, and another device may do better."""

    slide: SlideReport
    is_encoders: bool
    device: DeviceReport


@dataclass(frozen=True, slots=True)
class _Over:
    """All is done that can be: `error` says why no more, `device` what was."""

    error: str
    device: DeviceReport


@dataclass(frozen=True, slots=True)
class _Failed:
    """With an error that is none of a slide's."""

    error: Exception


@dataclass(frozen=True, slots=True)
class _Gone:
    """The process has ended; not sent but found."""

    code: int


def _pack(value: object) -> bytes:
    return base64.b64encode(pickle.dumps(value)) + b"\n"


def _unpack(line: bytes) -> Any:
    return pickle.loads(base64.b64decode(line))


# --- the end of a process -----------------------------------------------------------------------


class Link:
    """What a process has of its parent; where its slides come from."""

    def __init__(self) -> None:
        # The parent alone says when to stop: schedulers signal every process of a job at once.
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None:
                signal.signal(number, signal.SIG_IGN)
        self._up = os.fdopen(os.dup(1), "wb")
        # What libraries print goes where errors go, or nowhere.
        try:
            os.dup2(2, 1)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.stdout = sys.stderr
        self._down = sys.stdin.buffer
        self._jobs: Sequence[Job] = ()
        self._index: dict[str, int] = {}
        self._lock = threading.Lock()
        self._answers = queue.SimpleQueue[int]()
        self._interrupt: Callable[[], None] | None = None

    def receive(self) -> tuple[Request, Sequence[Job]]:
        """Return what is to be done."""
        request, self._jobs = _unpack(self._down.readline())
        self._index = {job.name: i for i, job in enumerate(self._jobs)}
        threading.Thread(target=self._listen, name="histofast-link", daemon=True).start()
        return request, self._jobs

    def _listen(self) -> None:
        for line in self._down:
            self._answers.put(int(line))
        if self._interrupt is None:
            os._exit(130)  # nothing was begun
        self._interrupt()
        self._answers.put(_NO_MORE)

    def begin(self, report: RunReport, interrupt: Callable[[], None]) -> None:
        """Say that all is ready; `interrupt` is called when the parent says stop, or is gone."""
        self._interrupt = interrupt
        self._send(_Ready(report.about, report.notes))

    def take(self) -> Job | None:
        """Ask for the next slide and wait for it; None when there are no more."""
        self._send(_Asks())
        index = self._answers.get()
        return self._jobs[index] if index != _NO_MORE else None

    def give_back(self, job: Job) -> None:
        """Let somebody try again later."""
        self._send(_GivesBack(self._index[job.name]))

    def close(self) -> None:
        """Have nobody wait for an answer any more."""
        self._answers.put(_NO_MORE)

    def tell(self, progress: Progress) -> None:
        """Hand on how far a slide is."""
        if progress.finished is None:
            self._send(progress)

    def ended(self, slide: SlideReport, error: BaseException | None, report: RunReport) -> None:
        """Hand on what became of a slide."""
        self._send(_Ended(slide, isinstance(error, ModelError | CudaError), report.devices[0]))

    def over(self, report: RunReport) -> None:
        """Say that this process is done."""
        self._send(_Over(report.error, report.devices[0]))

    def fail(self, error: Exception) -> None:
        """Hand on an error that is none of a slide's."""
        error.add_note("".join(traceback.format_exception(error)))
        try:
            _unpack(_pack(error))
        except Exception:  # noqa: BLE001  # somebody's exception that cannot be made from its parts
            error = HistofastError(f"{type(error).__name__}: {error}")
        self._send(_Failed(error))

    def exit(self) -> NoReturn:
        """End the process, without what libraries of GPUs do last, for some crash in it."""
        with suppress(OSError):
            self._up.close()
        os._exit(0)

    def _send(self, message: object) -> None:
        with self._lock, suppress(OSError):  # a parent that is gone is noticed by `_listen`
            self._up.write(_MARK + _pack(message))
            self._up.flush()


# --- the parent's end ---------------------------------------------------------------------------


@dataclass(kw_only=True, slots=True, eq=False)
class _Process:
    """A process, as its parent sees it."""

    popen: subprocess.Popen[bytes]
    report: DeviceReport
    held: list[int] = field(default_factory=list)  # indices of the slides it was dealt
    asks: bool = False
    progress: Progress | None = None  # of the slide it is at
    patches: int = 0
    is_over: bool = False
    is_alive: bool = True
    reader: threading.Thread | None = None

    @property
    def device(self) -> str:
        return self.report.device

    def write(self, line: bytes) -> None:
        assert self.popen.stdin is not None
        with suppress(OSError):  # of one that is dead: its end is coming as a message
            self.popen.stdin.write(line)
            self.popen.stdin.flush()

    def stop(self) -> None:
        """Tell it to end after the batch it is at."""
        assert self.popen.stdin is not None
        with suppress(OSError):
            self.popen.stdin.close()


class _Team:
    """The processes of a run, and what they say."""

    def __init__(self, jobs: Sequence[Job], requests: Sequence[Request]) -> None:
        self.processes: list[_Process] = []
        self._messages: queue.SimpleQueue[tuple[_Process, Any]] = queue.SimpleQueue()
        self._jobs, self._requests = jobs, requests

    def __enter__(self) -> Self:
        command = [sys.executable, "-c", _CODE(path=[str(entry) for entry in sys.path])]
        try:
            for request in self._requests:
                popen = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    start_new_session=True,  # a Ctrl-C at the terminal is the parent's
                )
                report = DeviceReport(device=request.device)
                process = _Process(popen=popen, report=report)
                self.processes.append(process)
                process.reader = threading.Thread(target=self._read, args=(process,), daemon=True)
                process.reader.start()
            # When all are starting, for one reads only when it has.
            for process, request in zip(self.processes, self._requests, strict=True):
                process.write(_pack((request, self._jobs)))
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        """Let nobody live on."""
        for process in self.processes:
            process.stop()
            if process.is_alive:
                process.popen.kill()
        for process in self.processes:
            process.popen.wait()
            if process.reader is not None:
                process.reader.join()

    def _read(self, process: _Process) -> None:
        assert process.popen.stdout is not None
        with process.popen.stdout as lines:
            for line in lines:
                if line.startswith(_MARK):
                    self._messages.put((process, _unpack(line[len(_MARK) :])))
        self._messages.put((process, _Gone(process.popen.wait())))

    def get(self, timeout_s: float | None = None) -> tuple[_Process, Any] | None:
        """Return the next message and whose it is; None when there is none in time."""
        try:
            return self._messages.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def get_ready(self) -> RunReport:
        """Wait until all have loaded their encoders; return the report of the run to come.

        Raises:
            What the first of them met that cannot.
        """
        ready: list[_Ready] = []
        while len(ready) < len(self.processes):
            found = self.get()
            assert found is not None
            process, message = found
            if isinstance(message, _Ready):
                ready.append(message)
            elif isinstance(message, _Asks):
                process.asks = True
            elif isinstance(message, _Failed):
                raise message.error
            elif isinstance(message, _Gone):
                process.is_alive = False
                raise ModelError(
                    f"the process of {process.device} {_how(message.code)} while it loaded the "
                    "encoder: look at what it says above"
                )
        notes = dict.fromkeys(note for one in ready for note in one.notes)
        return RunReport(about=ready[0].about, notes=list(notes))

    @property
    def alive(self) -> list[_Process]:
        """Those that have not ended."""
        return [process for process in self.processes if process.is_alive]


def _how(code: int) -> str:
    if code < 0:
        with suppress(ValueError):
            return f"was ended by {signal.Signals(-code).name}"
    return f"ended with code {code}"


def share(
    jobs: Sequence[Job],
    request: Request,
    *,
    devices: Sequence[str],
    on_progress: Callable[[Progress], None] | None,
    start: float,
    poll_s: float,
) -> RunReport:
    """Encode slides on several devices; see `extract`.

    Args:
        jobs: the slides.
        request: what to do with them; its device is not looked at, its threads and workers are for
            all processes together.
        devices: one for each process.
        on_progress: see `extract`.
        start: when the run began, in seconds of `time.perf_counter`.
        poll_s: how often to ask whether another run has let go of a slide.
    """
    requests = [
        replace(request, device=device, threads=threads, workers=workers)
        for device, threads, workers in zip(
            devices,
            _shares(request.threads, len(devices)),
            _shares(request.workers, len(devices)),
            strict=True,
        )
    ]
    with ExitStack() as stack:
        team = stack.enter_context(_Team(jobs, requests))
        report = team.get_ready()
        make_folder(request.out)
        remove_stale_temporaries(request.out)
        saver = stack.enter_context(closing(ReportFile(request.out, report, request.shard)))
        dealer = _Dealer(jobs, request, team, report, on_progress, saver, start, poll_s)
        try:
            dealer.run()
        finally:
            report.add_undone(jobs)
            report.seconds = time.perf_counter() - start
            saver.save(now=True)
    return report


def _shares(total: int, n: int) -> list[int]:
    """Share `total` things out among `n`, at least one to each."""
    return [max(1, total // n + (i < total % n)) for i in range(n)]


def _bytes_of(job: Job) -> int:
    """How big a slide is, for whoever wants the big ones first; not more than a guess."""
    if job.bag is not None:
        return len(job.bag)
    try:
        return job.path.stat().st_size
    except OSError:  # whoever opens it will say
        return 0


class _Dealer:
    """Deals slides out to processes, and gathers what becomes of them in one report."""

    def __init__(
        self,
        jobs: Sequence[Job],
        request: Request,
        team: _Team,
        report: RunReport,
        on_progress: Callable[[Progress], None] | None,
        saver: ReportFile,
        start: float,
        poll_s: float,
    ) -> None:
        self._jobs, self._request, self._team, self._report = jobs, request, team, report
        self._on_progress, self._saver, self._start = on_progress, saver, start
        self._poll_s = poll_s
        self._index = {job.name: i for i, job in enumerate(jobs)}
        # Big slides first: at the end nobody is left alone with a long one.
        self._left = deque(sorted(range(len(jobs)), key=lambda i: -_bytes_of(jobs[i])))
        self._busy: list[tuple[float, int]] = []  # another run is at it: ask again then
        self._refused: dict[int, tuple[_Process, SlideReport]] = {}  # by the encoder of a device
        self._deaths: Counter[int] = Counter()  # how many processes died with a slide
        self._is_stopping = False

    def run(self) -> None:
        """Go on until all slides are done and all processes have ended."""
        try:
            self._loop()
        except KeyboardInterrupt:
            self._report.interrupted = True
        finally:
            self._stop()
            self._loop()  # what they finish meanwhile counts
            self._account()

    def _loop(self) -> None:
        while self._team.alive:
            self._deal()
            found = self._team.get(self._poll_s if self._busy else None)
            if found is not None:
                self._take(*found)

    def _take(self, process: _Process, message: object) -> None:
        if isinstance(message, _Asks):
            process.asks = True
        elif isinstance(message, _GivesBack):
            process.held.remove(message.index)
            self._busy.append((time.monotonic() + self._poll_s, message.index))
        elif isinstance(message, Progress):
            process.progress, process.patches = message, message.patches_done
            self._tell()
        elif isinstance(message, _Ended):
            process.report, process.progress = message.device, None
            self._end(process, message)
        elif isinstance(message, _Over):
            process.report, process.is_over = message.device, True
            if message.error:
                self._report.error = message.error
                self._stop()
        elif isinstance(message, _Failed):
            process.is_over = True
            if not self._is_stopping:
                raise message.error
        elif isinstance(message, _Gone):
            process.is_alive = False
            if not process.is_over and not self._is_stopping:
                self._bury(process, _how(message.code))

    def _deal(self) -> None:
        """Give slides to those that ask."""
        if self._is_stopping:
            return
        now = time.monotonic()
        self._left += [index for due, index in self._busy if due <= now]
        self._busy = [(due, index) for due, index in self._busy if due > now]
        alive = self._team.alive
        for process in (process for process in alive if process.asks):
            # The last ones are for whoever has nothing to do, not for who would only prepare them.
            if process.held and len(self._left) < len(alive):
                continue
            index = next((i for i in self._left if self._may_have(process, i)), None)
            if index is not None:
                self._left.remove(index)
                process.held.append(index)
                self._answer(process, index)
        if not self._left and not self._busy and not any(process.held for process in alive):
            for process in (process for process in alive if process.asks):
                self._answer(process, _NO_MORE)

    def _answer(self, process: _Process, index: int) -> None:
        process.asks = False
        process.write(b"%d\n" % index)

    def _may_have(self, process: _Process, index: int) -> bool:
        return index not in self._refused or self._refused[index][0] is not process

    def _end(self, process: _Process, message: _Ended) -> None:
        slide, index = message.slide, self._index[message.slide.name]
        process.held.remove(index)
        if slide.status == "failed" and message.is_encoders and self._may_try_again(process, index):
            self._refused[index] = (process, slide)
            self._left.append(index)
            return
        if slide.status == "done" and index in self._refused:
            first, refused = self._refused[index]
            self._report.notes.append(
                f"{first.device}: failed on {slide.name}, which {process.device} encoded then: "
                f"{refused.error}"
            )
        self._finish(slide)

    def _may_try_again(self, process: _Process, index: int) -> bool:
        """Whether to give a slide to another device than the one that could not encode it."""
        others = [other for other in self._team.alive if other is not process]
        return (
            bool(others)
            and index not in self._refused
            and not self._request.fail_fast
            and not self._is_stopping
        )

    def _finish(self, slide: SlideReport) -> None:
        self._report.slides.append(slide)
        self._account()
        self._tell(slide)
        self._saver.save()
        if slide.status == "failed" and self._request.fail_fast:
            self._stop()

    def _bury(self, process: _Process, how: str) -> None:
        """See to the slides of a process that died."""
        held, process.held = process.held, []
        went = f", {len(held)} of its slides unfinished" if held else ""
        self._report.notes.append(f"{process.device}: its process {how}{went}")
        remove_stale_temporaries(self._request.out)
        if process.progress is not None:
            process.patches -= process.progress.slide_patches_done
            process.progress = None
        alive = self._team.alive
        if not alive:
            self._report.error = f"no process is left, the one of {process.device} {how}"
        for index in reversed(held):
            self._deaths[index] += 1
            # A slide that ends whoever takes it must not end them all.
            if alive and self._deaths[index] < 2:
                self._left.appendleft(index)
            else:
                self._finish(self._failed(index, f"the process of {process.device} {how}"))
        for index, (first, slide) in self._refused.items():
            if index in self._left and all(other is first for other in alive):
                self._left.remove(index)
                self._finish(slide)

    def _failed(self, index: int, error: str) -> SlideReport:
        job = self._jobs[index]
        return SlideReport(name=job.name, path=str(job.path), status="failed", error=error)

    def _stop(self) -> None:
        """Let nobody begin another slide, nor go on with the one at hand."""
        self._is_stopping = True
        for process in self._team.processes:
            process.stop()

    def _account(self) -> None:
        self._report.devices = [process.report for process in self._team.processes]
        self._report.find_limit()

    def _tell(self, finished: SlideReport | None = None) -> None:
        if self._on_progress is None or self._is_stopping:
            return
        at_work = [p.progress for p in self._team.processes if p.progress is not None]
        self._on_progress(
            Progress(
                slides_total=len(self._jobs),
                slides_done=len(self._report.slides),
                patches_done=sum(process.patches for process in self._team.processes),
                seconds=time.perf_counter() - self._start,
                name=finished.name if finished else ", ".join(one.name for one in at_work),
                slide_patches=0 if finished else sum(one.slide_patches for one in at_work),
                slide_patches_done=0 if finished else sum(p.slide_patches_done for p in at_work),
                finished=finished,
            )
        )
