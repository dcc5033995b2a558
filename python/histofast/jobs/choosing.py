"""Which engine does jobs: the one place that says so, for slides, folds and studies alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from histofast._numbers import whole_number
from histofast.jobs.cluster import Cluster, Crew, on_cluster, places_on
from histofast.jobs.feed import Worker, work
from histofast.jobs.job import Job
from histofast.jobs.local import Local
from histofast.jobs.shared import look, shown, versions_of
from histofast.jobs.team import Emit, IsLast

_OF_NUMBERS = ("numpy", "scikit-learn", "torch")  # other versions may give other last bits


def engine_for(
    *,
    folder: Path,
    jobs: int | None = None,
    threads: int | None = None,
    workers: Sequence[Worker] = (),
    cluster: Cluster | str | None = None,
    sees: Sequence[Path] = (),
) -> Local | OnCluster:
    """Return what does jobs: this process, processes of this machine, or workers of a cluster.

    Args:
        folder: that the jobs write to.
        jobs: at a time on this machine; None: 1, or as many as `workers`.
        threads: of the libraries of numbers in each.
        workers: what runs in the processes of this machine: one on each of its GPUs.
        cluster: instead of this machine; how many jobs at a time follows from its places.
        sees: what the jobs read, of which workers are asked whether they see it.

    Raises:
        TypeError, ValueError: numbers that are none, or out of range; what is of one machine with a cluster.
    """
    jobs = whole_number("jobs", jobs, at_least=1)
    threads = whole_number("threads", threads, at_least=1)
    elsewhere = Cluster.of(cluster)
    if elsewhere is None:
        return Local(processes=jobs or 1, threads=threads, workers=tuple(workers))
    refuse_with_cluster(jobs=jobs, gpus=tuple(workers) or None)
    return OnCluster(cluster=elsewhere, folder=folder, sees=tuple(sees), threads=threads)


def refuse_with_cluster(**here: object) -> None:
    """Refuse what is of one machine beside a cluster.

    Raises:
        ValueError: something of it is not None.
    """
    for name, given in here.items():
        if given is not None:
            raise ValueError(
                f"{name} must not be given with cluster, whose workers have cpus_per_worker and "
                "gpus_per_worker: leave it out"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class OnCluster:
    """An engine: jobs are done by the workers of a cluster, which are hired for the run.

    What is asked for is refused before any job begins, where the cluster cannot give it, or where a worker
    does not see the folder, or would compute with other versions.

    Attributes:
        cluster: which.
        folder: that the jobs write to.
        sees: what they read.
        threads: of the libraries of numbers in each worker, which asks for as many CPUs if `cluster`
            does not say how many.

    Raises, of `run`:
        JobError, WriteError, FileNotFoundError: as `hired`.
    """

    cluster: Cluster
    folder: Path
    sees: tuple[Path, ...] = ()
    threads: int | None = None

    @property
    def side_by_side(self) -> int:
        """How many jobs are done at a time, when nothing else is on the cluster."""
        return places_on(self.cluster, cpus=self.threads)

    def run(self, jobs: Sequence[Job], emit: Emit, is_last: IsLast) -> None:
        """Do the jobs; see `Engine.run`."""
        with hired(
            self.cluster,
            folder=self.folder,
            sees=self.sees,
            at_most=len(jobs),
            threads=self.threads,
            packages=_OF_NUMBERS,
        ) as crew:
            crew.doing(Worker(function=work)).run(jobs, emit, is_last)


@contextmanager
def hired(
    cluster: Cluster,
    *,
    folder: Path,
    sees: Sequence[Path] = (),
    at_most: int | None = None,
    threads: int | None = None,
    packages: Sequence[str] = (),
) -> Iterator[Crew]:
    """Give a crew of a cluster that sees what this process sees, and let it go at the end.

    Args:
        cluster: which.
        folder: that this process and all workers write to.
        sees: paths that they must see.
        at_most: so many workers.
        threads: of the libraries of numbers in each, and its CPUs where the cluster does not say.
        packages: that must be of the same version as here.

    Raises:
        JobError: as `on_cluster`; another version of a package.
        WriteError: a worker has another folder, or it cannot be written.
        FileNotFoundError: a worker does not see a path.
    """
    with on_cluster(cluster, cpus=threads, threads=threads, at_most=at_most) as crew:
        with shown(folder) as token:
            crew.ask(
                look,
                token=str(token),
                paths=[str(path.absolute()) for path in sees],
                packages=versions_of(packages),
            )
        yield crew
