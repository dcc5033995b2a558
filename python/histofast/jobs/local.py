"""The engine of one machine: here, or in processes."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from histofast._numbers import real_number, whole_number
from histofast._stopping import deferred_interrupts, should_stop
from histofast.jobs.feed import Worker, work
from histofast.jobs.job import Ended, Job, Outcome, Started, Told
from histofast.jobs.needs import Waiting
from histofast.jobs.processes import Process
from histofast.jobs.team import Emit, IsLast, Messages, Team, Wake, check_portable


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
        check_portable(jobs)
        with deferred_interrupts(wake := Wake()):
            Team(self, workers, self._start, jobs, emit, is_last, wake).run()

    def _start(self, number: int, worker: Worker, messages: Messages) -> Process:
        return Process(
            number,
            worker,
            messages=messages,
            threads=self.threads,
            patience_s=self.patience_s,
        )


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
