"""A plan: jobs known by what they make, so that what is asked for twice is made once."""

from __future__ import annotations

import hashlib
import heapq
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from histofast._files import path_of
from histofast.jobs.job import Job, Outcome, canonical, is_there
from histofast.jobs.needs import Waiting

_KEY = 16  # hexadecimal digits of a checksum in the name of a folder


class Plan:
    """Jobs that need each other, each in a folder of its own under one folder that plans may share.

        <folder>/<kind>-<key>/      the key is of the identity, and of those of what it needs or comes after

    What a job makes follows from its identity and from what it needs. So the folder's name does, and
    a job that any plan on this folder has done is there for all of them.

    Args:
        folder: of the folders of all.

    Raises:
        TypeError: a folder that is no path.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = path_of("folder", folder)
        self._jobs: dict[Path, Job] = {}

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs.values())

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def jobs(self) -> list[Job]:
        """All, each once, in the order of asking."""
        return list(self)

    def add(
        self,
        function: Callable[..., Any],
        *,
        name: str,
        kind: str,
        arguments: Mapping[str, Any],
        identity: Mapping[str, Any],
        needs: Sequence[Job] = (),
        after: Sequence[Job] = (),
        cost: float = 0.0,
    ) -> Job:
        """Have a job done; one that is asked for already is returned as it is.

        Args:
            function: called with the arguments and `out`, the folder of the job.
            name: for people; another job of this name gets its key behind it.
            kind: the beginning of the folder's name, which must follow from the identity.
            arguments: of the function.
            identity: all that the content of the folder depends on besides what is needed.
            needs: jobs of this plan that must be done before.
            after: jobs of this plan that must be over before, done or failed. A job that lacks what one of
                them should have made does what it can, and raises, so that it is done again next time.
            cost: about how many seconds it takes.

        Raises:
            TypeError, ValueError: an identity that JSON cannot hold.
            ValueError: a need that is no job of this plan.
        """
        for need in (*needs, *after):
            if need.folder not in self._jobs:
                raise ValueError(f"needs of job {name} must be of its plan, got {need.name!r}")
        whole: dict[str, Any] = {"what": identity, "needs": [key_of(need) for need in needs]}
        if after:
            whole["after"] = [key_of(job) for job in after]
        folder = self.folder / f"{kind}-{_key(whole)}"
        if folder in self._jobs:
            return self._jobs[folder]
        if name in {job.name for job in self}:
            name = f"{name} ({_key(whole)})"
        self._jobs[folder] = Job(
            name=name,
            function=function,
            arguments={**arguments, "out": folder},
            folder=folder,
            identity=whole,
            cost=cost,
            needs=tuple(need.name for need in needs),
            after=tuple(job.name for job in after),
        )
        return self._jobs[folder]

    def made_in(self, folder: str | Path) -> Job | None:
        """Return the job that makes a folder, if there is one."""
        return self._jobs.get(Path(folder))

    def left(self) -> list[Job]:
        """Return the jobs that are not done.

        Raises:
            JobError: a folder that holds something else.
        """
        return [job for job in self if not is_there(job)]

    def seconds(self, *, processes: int = 1) -> float:
        """Return how long what is left takes, see `seconds_side_by_side`.

        Raises:
            JobError: as `left`.
        """
        return seconds_side_by_side(self.left(), processes=processes)

    def cost(self, job: Job, seconds: float) -> None:
        """Say how long a job takes, once it is known."""
        assert job.folder is not None
        self._jobs[job.folder] = replace(job, cost=seconds)


def seconds_side_by_side(jobs: Sequence[Job], *, processes: int) -> float:
    """Return how long jobs take in so many processes, by their costs: who is free takes the costliest."""
    waiting, now_s = Waiting(jobs), 0.0
    free = waiting.take_free()
    running: list[tuple[float, int, Job]] = []
    order = itertools.count()  # of two that end at once
    while free or running:
        free.sort(key=lambda job: -job.cost)
        while free and len(running) < processes:
            job = free.pop(0)
            heapq.heappush(running, (now_s + job.cost, next(order), job))
        now_s, _, job = heapq.heappop(running)
        waiting.settle(Outcome(job=job, status="done"))
        free += waiting.take_free()
    return now_s


def key_of(job: Job) -> str:
    """Return what a job of a plan is known by: a checksum of its identity and its needs'."""
    assert job.identity is not None, "jobs of plans have identities"
    return _key(job.identity)


def _key(identity: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical(identity).encode()).hexdigest()[:_KEY]
