"""Folds one after the other, or side by side in processes or on other machines, by an engine of jobs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from histofast.jobs import Engine, Event, Job, Part, Told, run, tell, values_of

OnNote = Callable[[str], None]  # one line on what is done, besides epochs


def work_on_folds(
    function: Callable[..., None],
    folds: Sequence[int],
    *,
    engine: Engine,
    on_progress: Callable[[Any], None] | None,
    on_note: OnNote | None,
) -> None:
    """Call `function(fold=..., on_progress=..., on_note=...)` for each fold; stop at the first that fails.

    Args:
        function: of the top level of a module, or a partial of one, with arguments that pickle takes.
        folds: their numbers.
        engine: that does them, see `jobs.engine_for`.
        on_progress: called here with what the folds tell.
        on_note: called here with what they tell in words.

    Raises:
        What `function` raises for the first fold that fails; JobError: a process died, or what the engine
            cannot give.
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
    values_of(run(asked, engine=engine, on_event=listen, fail_fast=True))


def folds_of(part: Part | None, n: int) -> list[int]:
    """Return the numbers of the folds of a part of a run of n; None: of all."""
    return [fold for fold in range(n) if part is None or part.has(fold)]


def _work(*, function: Callable[..., None], fold: int, tells: bool, notes: bool) -> None:
    function(fold=fold, on_progress=tell if tells else None, on_note=tell if notes else None)
