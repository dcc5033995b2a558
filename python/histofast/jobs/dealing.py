"""Who gets which job: rules only, without processes."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence

from histofast.jobs.job import Job, Outcome
from histofast.jobs.needs import Waiting

Answer = tuple[int, Job | None]  # to a worker; None: there are no more


class Dealer:
    """The jobs that are left, and who has the others.

    Costly jobs go first: at the end nobody is left alone with a long one. The last ones are for
    whoever has nothing to do. A job that one worker gives back is for anybody, after a while; one that
    needs others is for nobody before they are done.
    """

    def __init__(self, jobs: Sequence[Job], *, workers: int, tries: int, poll_s: float) -> None:
        self._waiting = Waiting(jobs)
        self.left = deque(_costly_first(self._waiting.take_free()))
        self.held: list[list[Job]] = [[] for _ in range(workers)]
        self.alive = set(range(workers))
        self._asking: list[int] = []
        self._tries, self._poll_s = tries, poll_s
        self._later: list[tuple[float, Job]] = []  # another run is at it: ask again then
        self._refused: dict[str, Outcome] = {}  # by the first worker that had it
        self._deaths: Counter[str] = Counter()  # how many workers died with a job

    @property
    def is_waiting(self) -> bool:
        """Whether some job is to be asked for again in a while."""
        return bool(self._later)

    @property
    def has_more(self) -> bool:
        """Whether there is a job that nobody has."""
        return bool(self.left or self._later or self._waiting.jobs)

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do, not even by those who are at it."""
        return not self.has_more and not any(self.held[worker] for worker in self.alive)

    def ask(self, worker: int) -> None:
        """Note that a worker wants a job."""
        self._asking.append(worker)

    def deal(self, now_s: float) -> list[Answer]:
        """Return who gets what now."""
        self.left += [job for due, job in self._later if due <= now_s]
        self._later = [(due, job) for due, job in self._later if due > now_s]
        answers: list[Answer] = []
        for worker in list(self._asking):
            if self.held[worker] and len(self.left) < len(self.alive):
                continue
            job = next((job for job in self.left if self._may_have(worker, job)), None)
            if job is not None:
                self.left.remove(job)
                self.held[worker].append(job)
                self._asking.remove(worker)
                answers.append((worker, job))
        if self.is_over:
            answers += [(worker, None) for worker in self._asking]
            self._asking.clear()
        return answers

    def _may_have(self, worker: int, job: Job) -> bool:
        return job.name not in self._refused or self._refused[job.name].worker != worker

    def find(self, worker: int, name: str) -> Job:
        """Return the job of that name that a worker has."""
        return next(job for job in self.held[worker] if job.name == name)

    def give_back(self, worker: int, name: str, now_s: float) -> None:
        """Take back a job that another run is at."""
        job = self.find(worker, name)
        self.held[worker].remove(job)
        self._later.append((now_s + self._poll_s, job))

    def end(self, outcome: Outcome) -> None:
        """Note that a job is over."""
        self.held[outcome.worker].remove(outcome.job)

    def settle(self, outcome: Outcome) -> list[Outcome]:
        """Free the jobs that an outcome was waited for by; return what has failed with it."""
        failed = self._waiting.settle(outcome)
        if freed := self._waiting.take_free():
            self.left = deque(_costly_first([*self.left, *freed]))
        return failed

    def retry(self, outcome: Outcome) -> bool:
        """Give a job to another worker than the one that failed on it; False where none may."""
        name = outcome.job.name
        if self._tries < 2 or name in self._refused or self.alive <= {outcome.worker}:
            return False
        self.held[outcome.worker].remove(outcome.job)
        self._refused[name] = outcome
        self.left.append(outcome.job)
        return True

    def bury(self, worker: int, error: BaseException, *, replaced: bool) -> list[Outcome]:
        """See to the jobs of a worker that died; return what has failed with it.

        A job that ends whoever takes it must not end them all.
        """
        held, self.held[worker] = self.held[worker], []
        if worker in self._asking:
            self._asking.remove(worker)
        if not replaced:
            self.alive.discard(worker)
        failed = []
        for job in reversed(held):
            self._deaths[job.name] += 1
            if self.alive and self._deaths[job.name] < self._tries:
                self.left.appendleft(job)
            else:
                failed.append(Outcome(job=job, status="failed", error=error, worker=worker))
        for job in list(self.left):
            first = self._refused.get(job.name)
            if first is not None and self.alive <= {first.worker}:
                self.left.remove(job)
                failed.append(first)
        return failed


def _costly_first(jobs: Iterable[Job]) -> list[Job]:
    return sorted(jobs, key=lambda job: -job.cost)
