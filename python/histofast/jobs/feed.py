"""What a worker has of its run: where its jobs come from, and where what becomes of them goes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from histofast.jobs.job import Job, Outcome, execute, telling


class Feed(Protocol):
    """The jobs of a run, as one worker sees them.

    `take`, `give_back`, `should_stop` and `close` may be called from any thread, the others from
    that in which the worker was called.
    """

    def take(self) -> Job | None:
        """Ask for the next job and wait for it; None when there are no more.

        Nobody gets a first one before all workers have asked: what goes before is their setup. Who
        takes one ahead of its time does so in a thread of its own, for it may be kept waiting until
        the one at hand has ended.
        """

    def give_back(self, job: Job) -> None:
        """Let somebody try later what another run is at: to see it through, should that one die."""

    def start(self, job: Job) -> None:
        """Say that work on a job begins; it may have been taken ahead."""

    def tell(self, what: Any, *, job: Job | None = None) -> None:
        """Hand on something that a job, or the worker, has to say."""

    def end(self, outcome: Outcome, *, elsewhere: bool = False) -> None:
        """Hand on what became of a job; `elsewhere`: another worker may do better."""

    def should_stop(self) -> bool:
        """Whether to leave off; what is at hand is then not ended."""

    def close(self) -> None:
        """Have nobody wait in `take` any more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
    """What runs in a process, and lives for many jobs.

    Attributes:
        function: called as `function(feed, **arguments)`; takes from the feed until there are no
            more. An error that it raises is none of a job's and ends the run.
        arguments: of the function.
        name: for people.
    """

    function: Callable[..., None]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""


def work(feed: Feed) -> None:
    """Do one job after the other: what a worker does that has nothing to set up."""
    while (job := feed.take()) is not None:
        feed.start(job)
        with telling(partial(feed.tell, job=job)):
            outcome = execute(job)
        feed.end(outcome)
