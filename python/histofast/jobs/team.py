"""Several workers that are elsewhere: who they are, what they say, and what they are told."""

from __future__ import annotations

import logging
import pickle
import queue
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from histofast._stopping import should_stop
from histofast.errors import JobError
from histofast.jobs.dealing import Dealer
from histofast.jobs.feed import Worker
from histofast.jobs.job import Ended, Event, Job, Lost, Outcome, Retried, Started, Told
from histofast.jobs.messages import (
    Asks,
    Begins,
    Ends,
    Fails,
    GivesBack,
    Gone,
    Logs,
    Message,
    Over,
    Tells,
)

KILL_S = 5.0  # after its patience, for a worker that cannot even end itself

Emit = Callable[[Event], None]
IsLast = Callable[[Outcome], bool]


class Member(Protocol):
    """A worker that is elsewhere, as its team sees it. Its messages come to a queue, with itself."""

    number: int
    worker: Worker
    has_asked: bool
    is_over: bool

    @property
    def title(self) -> str:
        """How to call it in a sentence: "the process of cuda:1"."""

    def begin(self) -> None:
        """Send what it is to do: when all are starting, for one reads only when it has."""

    def answer(self, job: Job | None) -> None:
        """Give it a job, or none, as it asked."""

    def stop(self) -> None:
        """Tell it to end where it can; it ends itself when it has not in time."""

    def kill(self) -> None:
        """Have it end now."""

    def end(self) -> None:
        """See it off; nothing of it is left then."""


Messages = queue.SimpleQueue[tuple[Member, Message] | None]


class Rules(Protocol):
    """What an engine says of its workers; see `Local`."""

    @property
    def tries(self) -> int: ...
    @property
    def replace(self) -> bool: ...
    @property
    def patience_s(self) -> float: ...
    @property
    def poll_s(self) -> float: ...


Start = Callable[[int, Worker, Messages], Member]


def check_portable(jobs: Sequence[Job]) -> None:
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


class Wake:
    """Wakes who waits for messages, from a signal handler."""

    def __init__(self) -> None:
        self.messages: Messages = queue.SimpleQueue()

    def __call__(self) -> None:
        self.messages.put(None)


class Team:
    """The workers of a run, what they say, and what they are told."""

    def __init__(
        self,
        rules: Rules,
        workers: Sequence[Worker],
        start: Start,
        jobs: Sequence[Job],
        emit: Emit,
        is_last: IsLast,
        wake: Wake,
    ) -> None:
        self._rules, self._emit, self._is_last = rules, emit, is_last
        self._dealer = Dealer(jobs, workers=len(workers), tries=rules.tries, poll_s=rules.poll_s)
        self._messages = wake.messages
        self._alive: list[Member] = []
        self._workers, self._start_one = workers, start
        self._is_ready = self._is_stopping = self._is_interrupted = False
        self._kill_at_s: float | None = None

    def run(self) -> None:
        """Go on until all jobs are done and all members have ended."""
        try:
            for number, worker in enumerate(self._workers):
                self._start(number, worker)
            for member in self._alive:
                member.begin()
            try:
                self._loop()
            except KeyboardInterrupt:
                self._is_interrupted = True
            finally:
                self._stop()
                self._loop()  # what they finish meanwhile counts
        finally:
            for member in self._alive:
                member.end()
        if self._is_interrupted:
            raise KeyboardInterrupt

    def _start(self, number: int, worker: Worker) -> Member:
        member = self._start_one(number, worker, self._messages)
        self._alive.append(member)
        return member

    def _loop(self) -> None:
        while self._alive:
            if should_stop() and not self._is_stopping:
                raise KeyboardInterrupt
            self._deal()
            self._dismiss()
            try:
                found = self._messages.get(timeout=self._timeout_s())
            except queue.Empty:
                continue
            if found is not None:
                self._take(*found)

    def _timeout_s(self) -> float | None:
        if self._kill_at_s is None:
            return self._rules.poll_s if self._dealer.is_waiting else None
        left_s = self._kill_at_s - time.monotonic()
        if left_s <= 0:
            for member in self._alive:
                member.kill()
        return max(left_s, 0.1)

    def _deal(self) -> None:
        if self._is_stopping or not self._is_ready:
            return
        by_number = {member.number: member for member in self._alive}
        for number, job in self._dealer.deal(time.monotonic()):
            by_number[number].answer(job)

    def _dismiss(self) -> None:
        """Wait for nobody who is still starting when there is nothing left to do."""
        if not self._is_ready or self._is_stopping or not self._dealer.is_over:
            return
        for member in self._alive:
            if not member.has_asked and not member.is_over:
                member.is_over = True
                member.kill()

    def _take(self, member: Member, message: Message) -> None:
        number, now_s = member.number, time.monotonic()
        match message:
            case Asks():
                member.has_asked = True
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
                self._end(member, message)
            case Over(is_interrupted):
                member.is_over = True
                if is_interrupted and not self._is_stopping:
                    raise KeyboardInterrupt
            case Fails(error):
                member.is_over = True
                if not self._is_stopping:
                    raise error
            case Gone():
                self._bury(member, message.how)

    def _end(self, member: Member, message: Ends) -> None:
        outcome = Outcome(
            job=self._dealer.find(member.number, message.name),
            status=message.status,
            value=message.value,
            error=message.error,
            seconds=message.seconds,
            worker=member.number,
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

    def _bury(self, member: Member, how: str) -> None:
        """See to what a member leaves."""
        member.end()
        self._alive.remove(member)
        if member.is_over or self._is_stopping:
            return
        if not self._is_ready:
            raise JobError(f"{member.title} {how} while it started: look at what it says above")
        error = JobError(f"{member.title} {how}")
        number, dealer = member.number, self._dealer
        unfinished = tuple(dealer.held[number])
        replaced = self._rules.replace and member.has_asked
        failed = dealer.bury(number, error, replaced=replaced)
        self._emit(Lost(worker=number, how=how, unfinished=unfinished))
        for outcome in failed:
            self._finish(outcome, is_last=self._is_last(outcome))
        if replaced and dealer.has_more and not self._is_stopping:
            self._start(number, member.worker).begin()
        elif replaced:
            dealer.alive.discard(number)
        if not self._alive and dealer.has_more and not self._is_stopping:
            raise JobError(f"no worker is left: {member.title} {how}")

    def _stop(self) -> None:
        """Let nobody begin another job, nor go on with the one at hand."""
        if self._is_stopping:
            return
        self._is_stopping = True
        self._kill_at_s = time.monotonic() + self._rules.patience_s + KILL_S
        for member in self._alive:
            member.stop()
