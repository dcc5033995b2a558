"""The engine of one machine: here, or in processes."""

from __future__ import annotations

import logging
import os
import pickle
import queue
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from histofast._numbers import real_number, whole_number
from histofast._stopping import deferred_interrupts, should_stop
from histofast.errors import JobError
from histofast.jobs.dealing import Dealer
from histofast.jobs.feed import Worker, work
from histofast.jobs.job import Ended, Event, Job, Lost, Outcome, Retried, Started, Told
from histofast.jobs.needs import Waiting
from histofast.jobs.processes import (
    Asks,
    Begins,
    Ends,
    Fails,
    GivesBack,
    Gone,
    Logs,
    Message,
    Over,
    Process,
    Tells,
)

KILL_S = 5.0  # after its patience, for a process that cannot even end itself

Emit = Callable[[Event], None]
IsLast = Callable[[Outcome], bool]


@dataclass(frozen=True, kw_only=True, slots=True)
class Local:
    """Runs jobs on this machine: in this process and thread, or in processes side by side.

    Attributes:
        processes: how many jobs at a time; 1: here, where Ctrl-C is raised as ever.
        threads: of the libraries of numbers in each process; as they like when None.
        workers: what runs in the processes, instead of `processes` that do one job after the other.
            One of them alone runs here.
        tries: how many processes may die with a job, or workers fail on it that say that another
            one may do better, before it has failed.
        replace: start a new process for one that died.
        patience_s: how long what was told to stop may go on to its next good place, before its
            process is ended.
        poll_s: how soon to ask again for a job that was given back.

    Raises:
        TypeError, ValueError: something that is no number, or is out of range.
    """

    processes: int = 1
    threads: int | None = None
    workers: tuple[Worker, ...] = ()
    tries: int = 1
    replace: bool = True
    patience_s: float = 10.0
    poll_s: float = 0.5

    def __post_init__(self) -> None:
        for name in ("processes", "threads", "tries"):
            value = whole_number(name, getattr(self, name), at_least=1)
            if value is None and name != "threads":
                raise TypeError(f"{name} must be a whole number, got None")
            object.__setattr__(self, name, value)
        for name in ("patience_s", "poll_s"):
            object.__setattr__(self, name, real_number(name, getattr(self, name), at_least=0))
        n = self.side_by_side
        if n > 1 and os.name != "posix":
            raise ValueError(f"processes must be 1 on this system, got {n}")

    @property
    def side_by_side(self) -> int:
        """How many jobs are done at a time."""
        return len(self.workers) or self.processes

    def run(self, jobs: Sequence[Job], emit: Emit, is_last: IsLast) -> None:
        """Do the jobs; see `Engine.run`."""
        workers = self.workers or (Worker(function=work),) * min(self.processes, len(jobs))
        if len(workers) == 1:
            with _torch_threads(self.threads):
                _run_here(workers[0], jobs, emit, is_last, poll_s=self.poll_s)
            return
        _check_portable(jobs)
        with deferred_interrupts(wake := _Wake()):
            _Team(self, workers, jobs, emit, is_last, wake).run()


@contextmanager
def _torch_threads(threads: int | None) -> Iterator[None]:
    """Have torch use so many threads here, if somebody has loaded it."""
    torch: Any = sys.modules.get("torch")
    if threads is None or torch is None:
        yield
        return
    former = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(former)


# --- here ---------------------------------------------------------------------------------------


class _Here:
    """The `Feed` of a worker in this process."""

    def __init__(self, jobs: Sequence[Job], emit: Emit, is_last: IsLast, poll_s: float) -> None:
        self._waiting = Waiting(jobs)
        self._left, self._busy = deque(self._waiting.take_free()), deque[Job]()
        self._emit, self._is_last, self._poll_s = emit, is_last, poll_s
        self._is_stopping = False

    def take(self) -> Job | None:
        """Those that were given back come again in the end."""
        if self.should_stop():
            return None
        if not self._left and self._busy:
            time.sleep(self._poll_s)
            self._left, self._busy = self._busy, deque()
        return self._left.popleft() if self._left else None

    def give_back(self, job: Job) -> None:
        self._busy.append(job)

    def start(self, job: Job) -> None:
        self._emit(Started(job=job))

    def tell(self, what: Any, *, job: Job | None = None) -> None:
        self._emit(Told(name=job.name if job is not None else "", what=what))

    def end(self, outcome: Outcome, *, elsewhere: bool = False) -> None:
        self._is_stopping = self._is_stopping or self._is_last(outcome)
        self._emit(Ended(outcome=outcome))
        for failed in self._waiting.settle(outcome):
            self.end(failed)
        self._left.extend(self._waiting.take_free())

    def should_stop(self) -> bool:
        return self._is_stopping or should_stop()

    def close(self) -> None:
        self._is_stopping = True


def _run_here(
    worker: Worker, jobs: Sequence[Job], emit: Emit, is_last: IsLast, *, poll_s: float
) -> None:
    worker.function(_Here(jobs, emit, is_last, poll_s), **worker.arguments)


# --- in processes -------------------------------------------------------------------------------


def _check_portable(jobs: Sequence[Job]) -> None:
    """Refuse, before anything starts, what another process could not do."""
    for job in jobs:
        if getattr(job.function, "__module__", "") == "__main__":
            raise ValueError(
                f"function of job {job.name} must be in a module that can be imported, got "
                f"{job.function.__qualname__} of the script itself: move it into a module"
            )
        try:
            pickle.dumps(job)
        except Exception as error:
            raise TypeError(
                f"function and arguments of job {job.name} must be what pickle takes: {error}"
            ) from error


class _Wake:
    """Wakes who waits for messages, from a signal handler."""

    def __init__(self) -> None:
        self.messages = queue.SimpleQueue[tuple[Process, Message] | None]()

    def __call__(self) -> None:
        self.messages.put(None)


class _Team:
    """The processes of a run, what they say, and what they are told."""

    def __init__(
        self,
        engine: Local,
        workers: Sequence[Worker],
        jobs: Sequence[Job],
        emit: Emit,
        is_last: IsLast,
        wake: _Wake,
    ) -> None:
        self._engine, self._emit, self._is_last = engine, emit, is_last
        self._dealer = Dealer(jobs, workers=len(workers), tries=engine.tries, poll_s=engine.poll_s)
        self._messages = wake.messages
        self._alive: list[Process] = []
        self._workers = workers
        self._is_ready = self._is_stopping = self._is_interrupted = False
        self._kill_at_s: float | None = None

    def run(self) -> None:
        """Go on until all jobs are done and all processes have ended."""
        try:
            for number, worker in enumerate(self._workers):
                self._start(number, worker)
            for process in self._alive:
                process.begin()
            try:
                self._loop()
            except KeyboardInterrupt:
                self._is_interrupted = True
            finally:
                self._stop()
                self._loop()  # what they finish meanwhile counts
        finally:
            for process in self._alive:
                process.end()
        if self._is_interrupted:
            raise KeyboardInterrupt

    def _start(self, number: int, worker: Worker) -> Process:
        process = Process(
            number,
            worker,
            messages=self._messages,
            threads=self._engine.threads,
            patience_s=self._engine.patience_s,
        )
        self._alive.append(process)
        return process

    def _loop(self) -> None:
        while self._alive:
            if should_stop() and not self._is_stopping:
                raise KeyboardInterrupt
            self._deal()
            try:
                found = self._messages.get(timeout=self._timeout_s())
            except queue.Empty:
                continue
            if found is not None:
                self._take(*found)

    def _timeout_s(self) -> float | None:
        if self._kill_at_s is None:
            return self._engine.poll_s if self._dealer.is_waiting else None
        left_s = self._kill_at_s - time.monotonic()
        if left_s <= 0:
            for process in self._alive:
                process.popen.kill()
        return max(left_s, 0.1)

    def _deal(self) -> None:
        if self._is_stopping or not self._is_ready:
            return
        by_number = {process.number: process for process in self._alive}
        for number, job in self._dealer.deal(time.monotonic()):
            by_number[number].answer(job)

    def _take(self, process: Process, message: Message) -> None:
        number, now_s = process.number, time.monotonic()
        match message:
            case Asks():
                process.has_asked = True
                self._is_ready = self._is_ready or all(one.has_asked for one in self._alive)
                self._dealer.ask(number)
            case Begins(name):
                self._emit(Started(job=self._dealer.find(number, name), worker=number))
            case GivesBack(name):
                self._dealer.give_back(number, name, now_s)
            case Tells(name, what):
                if not self._is_stopping or not name:  # what it says of itself may be its last
                    self._emit(Told(name=name, what=what, worker=number))
            case Logs(record):
                log = logging.getLogger(record.name)
                if log.isEnabledFor(record.levelno):
                    log.handle(record)
            case Ends():
                self._end(process, message)
            case Over(is_interrupted):
                process.is_over = True
                if is_interrupted and not self._is_stopping:
                    raise KeyboardInterrupt
            case Fails(error):
                process.is_over = True
                if not self._is_stopping:
                    raise error
            case Gone():
                self._bury(process, message.how)

    def _end(self, process: Process, message: Ends) -> None:
        outcome = Outcome(
            job=self._dealer.find(process.number, message.name),
            status=message.status,
            value=message.value,
            error=message.error,
            seconds=message.seconds,
            worker=process.number,
        )
        is_last = self._is_last(outcome)
        is_final = is_last or self._is_stopping or not message.elsewhere
        if not is_final and self._dealer.retry(outcome):
            self._emit(Retried(outcome=outcome))
            return
        self._dealer.end(outcome)
        self._finish(outcome, is_last=is_last)

    def _finish(self, outcome: Outcome, *, is_last: bool) -> None:
        if is_last:
            self._stop()
        self._emit(Ended(outcome=outcome))
        for failed in self._dealer.settle(outcome):
            self._finish(failed, is_last=self._is_last(failed))

    def _bury(self, process: Process, how: str) -> None:
        """See to what a process leaves."""
        process.end()
        self._alive.remove(process)
        if process.is_over or self._is_stopping:
            return
        if not self._is_ready:
            raise JobError(f"{process.title} {how} while it started: look at what it says above")
        error = JobError(f"{process.title} {how}")
        number, dealer = process.number, self._dealer
        unfinished = tuple(dealer.held[number])
        replaced = self._engine.replace and process.has_asked
        failed = dealer.bury(number, error, replaced=replaced)
        self._emit(Lost(worker=number, how=how, unfinished=unfinished))
        for outcome in failed:
            self._finish(outcome, is_last=self._is_last(outcome))
        if replaced and dealer.has_more and not self._is_stopping:
            self._start(number, process.worker).begin()
        elif replaced:
            dealer.alive.discard(number)
        if not self._alive and dealer.has_more and not self._is_stopping:
            raise JobError(
                f"no process is left, {process.title.replace('process', 'one', 1)} {how}"
            )

    def _stop(self) -> None:
        """Let nobody begin another job, nor go on with the one at hand."""
        if self._is_stopping:
            return
        self._is_stopping = True
        self._kill_at_s = time.monotonic() + self._engine.patience_s + KILL_S
        for process in self._alive:
            process.stop()
