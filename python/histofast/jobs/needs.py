"""Jobs that wait for others: rules only, without processes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from histofast._words import did_you_mean, one_line
from histofast.errors import JobError
from histofast.jobs.job import Job, Outcome


class Waiting:
    """The jobs of a run that may not begin yet.

    A need that is not among the jobs is one that was done before.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        names = {job.name for job in jobs}
        self._jobs = {job.name: job for job in jobs}
        self._open = {job.name: names.intersection((*job.needs, *job.after)) for job in jobs}

    @property
    def jobs(self) -> list[Job]:
        """Those that wait, or are free and not taken out yet."""
        return list(self._jobs.values())

    def take_free(self) -> list[Job]:
        """Take out those that wait for none, in their order."""
        free = [job for name, job in self._jobs.items() if not self._open[name]]
        for job in free:
            del self._jobs[job.name]
        return free

    def settle(self, outcome: Outcome) -> list[Outcome]:
        """Note that a job is over; take out those that can never begin, if it failed."""
        name = outcome.job.name
        if outcome.status == "interrupted":
            return []
        for needs in self._open.values():
            needs.discard(name)
        if outcome.status != "failed":
            return []
        failed = [job for job in self._jobs.values() if name in job.needs]
        for job in failed:
            del self._jobs[job.name]
        return [Outcome(job=job, status="failed", error=_lacks(job, outcome)) for job in failed]


def _lacks(job: Job, outcome: Outcome) -> JobError:
    why = "" if outcome.error is None else f": {one_line(outcome.error)}"
    return JobError(f"{job.name} needs {outcome.job.name}, which failed{why}")


def refuse_needs(jobs: Iterable[Job]) -> None:
    """Refuse needs that no job can meet.

    Raises:
        ValueError: a need that is no job of the run, or jobs that need each other.
    """
    needs = {job.name: (*job.needs, *job.after) for job in jobs}
    for name, of in needs.items():
        for need in of:
            if need not in needs:
                near = did_you_mean(need, list(needs))
                raise ValueError(f"needs of job {name} must be jobs of the run, got {need!r}{near}")
    free: set[str] = set()
    while len(free) < len(needs):
        more = {name for name, of in needs.items() if name not in free and free.issuperset(of)}
        if not more:
            ring = sorted(needs.keys() - free)
            raise ValueError(f"needs must not go in a ring, got one among {', '.join(ring)}")
        free |= more
