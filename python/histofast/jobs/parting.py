"""Jobs in parts, for the tasks of an array that know nothing of each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from histofast.errors import JobError
from histofast.jobs.job import Job, is_there


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One of several parts that together are all.

    Attributes:
        index: which, from 1.
        of: how many there are.
    """

    index: int
    of: int

    @classmethod
    def told(cls, text: str | None, *, name: str = "part") -> Part | None:
        """Read "3/8", None: no part but all; `name` is that of the argument.

        Raises:
            ValueError: it says no part.
        """
        if text is None:
            return None
        index, _, of = str(text).partition("/")
        if not (index.isdecimal() and of.isdecimal() and 1 <= int(index) <= int(of)):
            raise ValueError(f"{name} must be i/n with 1 <= i <= n, got {text!r}")
        return cls(index=int(index), of=int(of))

    def __str__(self) -> str:
        """As it is told."""
        return f"{self.index}/{self.of}"

    def has(self, place: int) -> bool:
        """Whether the thing at a place, from 0, is of this part: places are dealt out in turn."""
        return place % self.of == self.index - 1

    def free(self, jobs: Sequence[Job]) -> list[Job]:
        """Return the jobs of this part whose needs are there, free of them.

        What waits for jobs that are not done, or failed, is for a later array, or for whoever does what is left.
        """
        there = {job.name for job in jobs if _is_there(job)}
        return [
            replace(job, needs=(), after=())
            for level in levels_of(jobs)
            for place, job in enumerate(level)
            if self.has(place) and there.issuperset((*job.needs, *job.after))
        ]


def levels_of(jobs: Sequence[Job]) -> list[list[Job]]:
    """Return those that need none, then those that need or come after these alone, and so on."""
    over: set[str] = set()
    left = list(jobs)
    names = {job.name for job in jobs}
    levels: list[list[Job]] = []
    while left:
        now = [job for job in left if over >= names.intersection((*job.needs, *job.after))]
        assert now, "jobs that need each other are refused before"
        over |= {job.name for job in now}
        levels.append(now)
        left = [job for job in left if job.name not in over]
    return levels


def _is_there(job: Job) -> bool:
    try:
        return is_there(job)
    except JobError:  # whoever is to do it will say
        return False
