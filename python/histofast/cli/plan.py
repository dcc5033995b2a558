"""What a command with `--plan-only` prints: the runs, what is there, and how long the rest takes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from histofast._words import count, duration
from histofast.cli.output import say, say_document

if TYPE_CHECKING:
    from histofast.classify import Planned


def say_plan(runs: Sequence[Planned], seconds: float, *, jobs: int, as_json: bool) -> None:
    """Print a plan; `seconds` is what is left of it, by the clock."""
    if as_json:
        told = [asdict(run) | {"folder": str(run.folder)} for run in runs]
        say_document(json.dumps({"runs": told, "jobs": jobs, "hours": seconds / 3600}, indent=1))
        return
    width = max(len(run.name) for run in runs)
    for run in runs:
        left = (
            f"left, {duration(run.seconds)}" if run.seconds else "left"
        )  # comparisons have no time
        state = "done" if run.is_done else left
        begun = f"  from {run.start}" if run.start else ""
        say(f"{run.name:{width}}  {state:12}{begun}".rstrip())
    done = sum(run.is_done for run in runs)
    text = f"{count(len(runs), 'run')}, {done} done"
    if done < len(runs):
        beside = f", {jobs} side by side" if jobs > 1 else ""
        text += f"; the others take about {duration(seconds)}{beside}"
        text += " (some steps were timed on this machine as it is now)"
    say(text)
