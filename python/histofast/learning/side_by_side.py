"""Folds one after the other, or side by side in processes, by the engine of jobs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from histofast.jobs import Event, Job, Local, Told, Worker, run, tell, values_of

OnNote = Callable[[str], None]  # one line on what is done, besides epochs


def work_on_folds(
    function: Callable[..., None],
    folds: Sequence[int],
    *,
    jobs: int,
    threads: int | None,
    workers: Sequence[Worker] = (),
    on_progress: Callable[[Any], None] | None,
    on_note: OnNote | None,
) -> None:
    """Call `function(fold=..., on_progress=..., on_note=...)` for each fold; stop at the first that fails.

    Args:
        function: of the top level of a module, or a partial of one, with arguments that pickle takes.
        folds: their numbers.
        jobs: how many at a time, >= 1; 1: here.
        threads: of the libraries of numbers in each process.
        workers: what runs in the processes, instead of `jobs` that are all alike.
        on_progress: called here with what the folds tell.
        on_note: called here with what they tell in words.

    Raises:
        What `function` raises for the first fold that fails; JobError: a process died.
    """

    def listen(event: Event) -> None:
        if not isinstance(event, Told):
            return
        if isinstance(event.what, str):
            assert on_note is not None
            on_note(event.what)
        else:
            assert on_progress is not None
            on_progress(event.what)

    asked = [
        Job(
            name=f"fold {fold}",
            function=_work,
            arguments={
                "function": function,
                "fold": fold,
                "tells": on_progress is not None,
                "notes": on_note is not None,
            },
        )
        for fold in folds
    ]
    engine = Local(processes=jobs, threads=threads, workers=tuple(workers))
    values_of(run(asked, engine=engine, on_event=listen, fail_fast=True))


def refuse_jobs(jobs: int | None, threads: int | None) -> None:
    """Refuse numbers of jobs and threads that are none.

    Raises:
        ValueError: one that is below 1.
    """
    for name, value in (("jobs", jobs), ("threads", threads)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


def _work(*, function: Callable[..., None], fold: int, tells: bool, notes: bool) -> None:
    function(fold=fold, on_progress=tell if tells else None, on_note=tell if notes else None)
