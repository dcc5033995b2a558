"""`run`: the jobs that lack are done by an engine, and their failures stay with them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from histofast._notes import log_of
from histofast._words import one_line
from histofast.errors import JobError
from histofast.jobs.job import Ended, Event, Job, Lost, Outcome, Started, is_there
from histofast.jobs.local import Local
from histofast.jobs.needs import Waiting, refuse_needs

_log = log_of(__name__)


class Engine(Protocol):
    """Where jobs are done."""

    @property
    def side_by_side(self) -> int:
        """How many jobs are done at a time."""

    def run(
        self,
        jobs: Sequence[Job],
        emit: Callable[[Event], None],
        is_last: Callable[[Outcome], bool],
    ) -> None:
        """Do the jobs, each by `execute` wherever that is called.

        Args:
            jobs: none of them is done yet. One begins when those of its needs that are among them
                are done, and what it comes after is over.
            emit: to be called with each event, always in the thread that called `run`; `Ended` once
                for each job that has ended, in any order.
            is_last: whether to begin none after that outcome, and to leave off those at hand.

        Raises:
            KeyboardInterrupt: interrupted; those that ended have been told before.
            Whatever `emit` raises, or what befell a worker that is none of a job's.
        """


class _OfTheListener(BaseException):
    """An error of `on_event`, on its way through functions that catch what they know."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def run(
    jobs: Sequence[Job],
    *,
    engine: Engine | None = None,
    on_event: Callable[[Event], None] | None = None,
    fail_fast: bool = False,
    stop_when: Callable[[Outcome], bool] | None = None,
) -> list[Outcome]:
    """Do the jobs that are not done yet.

    Args:
        jobs: of different names.
        engine: where; here and now when None.
        on_event: called with all that happens, in the calling thread.
        fail_fast: stop at the first that fails.
        stop_when: stop after an outcome of which this is true, too.

    Returns:
        What became of each, in their order; `values_of` is for who wants all done. A job whose need
        failed has failed, and the others go on.

    Raises:
        TypeError, ValueError: two jobs of one name, needs that no job can meet, or what the engine cannot
            take.
        JobError: no process starts, or is left.
        Whatever `on_event` raises; KeyboardInterrupt from it is an interruption.

    Determinism: outcomes depend on the jobs only, not on the engine, if their functions do.
    """
    names = [job.name for job in jobs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"jobs must have different names, got {twice!r} twice")
    refuse_needs(jobs)
    outcomes: dict[str, Outcome] = {}
    is_deaf = False

    def emit(event: Event) -> None:
        nonlocal is_deaf
        _log_event(event)
        if isinstance(event, Ended):
            outcomes[event.outcome.job.name] = event.outcome
        if on_event is None or is_deaf:
            return
        try:
            on_event(event)
        except Exception as error:
            is_deaf = True
            raise _OfTheListener(error) from error

    def is_last(outcome: Outcome) -> bool:
        return (fail_fast and outcome.status == "failed") or (
            stop_when is not None and stop_when(outcome)
        )

    reason: KeyboardInterrupt | None = None
    try:
        left = _left(jobs, emit)
        if left and not any(is_last(outcome) for outcome in outcomes.values()):
            (engine or Local()).run(left, emit, is_last)
    except KeyboardInterrupt as interrupt:
        reason = interrupt
    except _OfTheListener as wrapped:
        raise wrapped.error from None
    return [
        outcomes.get(job.name) or Outcome(job=job, status="interrupted", error=reason)
        for job in jobs
    ]


def _log_event(event: Event) -> None:
    """Log what befalls jobs; what becomes of them is logged by whoever runs them."""
    match event:
        case Started(job=job, worker=worker):
            _log.debug("worker %d begins %s", worker, job.name)
        case Ended(outcome=outcome):
            why = f": {one_line(outcome.error)}" if outcome.error is not None else ""
            _log.debug("%s: %s in %.1f s%s", outcome.job.name, outcome.status, outcome.seconds, why)
        case Lost(worker=worker, how=how):
            _log.debug("the process of worker %d %s", worker, how)


def _left(jobs: Sequence[Job], emit: Callable[[Event], None]) -> list[Job]:
    """Tell of those that are there, and of those that cannot be done whatever an engine does."""
    left, over = [], deque[Outcome]()
    for job in jobs:
        try:
            if not is_there(job):
                left.append(job)
                continue
            over.append(Outcome(job=job, status="there"))
        except JobError as error:
            over.append(Outcome(job=job, status="failed", error=error))
    waiting = Waiting(left)
    while over:
        outcome = over.popleft()
        emit(Ended(outcome=outcome))
        over += waiting.settle(outcome)
    return waiting.jobs


def values_of(outcomes: Sequence[Outcome]) -> list[Any]:
    """Return what the functions returned; None for jobs that were there.

    Raises:
        KeyboardInterrupt: somebody interrupted the run.
        What the first job that failed met.
    """
    for outcome in outcomes:
        if outcome.status == "failed" and outcome.error is not None:
            raise outcome.error
    for outcome in outcomes:
        if outcome.status == "interrupted":
            raise outcome.error or KeyboardInterrupt
    return [outcome.value for outcome in outcomes]
