"""Where the runs that write into one folder stand, from what they leave there while they go on.

Nothing is asked of the runs themselves, which may be tasks of a job array on many machines, or dead: their reports
say what became of slides, and the locks beside feature files who makes which.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from histofast._files import STALE_S, Holder, Lease, Lock, Sightings, existing_folder
from histofast._words import count, counted, duration, one_line
from histofast.errors import FeatureError
from histofast.pipeline.holding import FROZEN_S

_REPORTS = re.compile(r"run(-[0-9]+(of[0-9]+)?)?\.json")
_OVER = ("done", "empty", "skipped")
_MOST_BYTES = 2**30  # of a report


@dataclass(frozen=True, kw_only=True, slots=True)
class AtWork:
    """A slide that somebody is at.

    Attributes:
        name: of the slide.
        holder: process, machine and time.
        silent_s: since it last showed that it lives.
    """

    name: str
    holder: str
    silent_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class RunStatus:
    """Where the runs of a folder stand.

    Attributes:
        path: the folder.
        total: slides that the runs were given.
        by_status: how many of them are "done" (or were there), "empty", "failed", "interrupted".
        failed: why, by slide.
        at_work: slides that somebody is at.
        patches: encoded by these runs.
        patches_per_s: of the runs that go on, all together; 0 when none does.
        left_s: until those end, as fast as they were; None when none goes on or has ended a slide.
        missing: shards of which there is no report, such as "3/16".
    """

    path: Path
    total: int
    by_status: Mapping[str, int]
    failed: Mapping[str, str]
    at_work: Sequence[AtWork]
    patches: int
    patches_per_s: float
    left_s: float | None
    missing: Sequence[str] = field(default=())

    @property
    def over(self) -> int:
        """Slides with which nothing is left to do."""
        return sum(self.by_status.get(status, 0) for status in _OVER)

    @property
    def totals(self) -> str:
        """All of it on one line."""
        words = ", ".join(
            f"{n} {'not done' if status == 'interrupted' else status}"
            for status, n in self.by_status.items()
        )
        text = (
            f"{self.path}: {self.over} of {count(self.total, 'slide')}{f' ({words})' * bool(words)}"
        )
        if self.patches_per_s:
            text += f"; {self.patches_per_s:.1f} patches/s"
        if self.left_s is not None:
            text += f"; about {duration(self.left_s)} left"
        return text

    @property
    def lines(self) -> list[str]:
        """Slides that failed, those at work, and shards that nobody has begun."""
        lines = [f"{name}: failed: {error}" for name, error in self.failed.items()]
        for each in self.at_work:
            silent = f", silent for {duration(each.silent_s)}" * (each.silent_s > FROZEN_S)
            lines.append(f"{each.name}: at work, {each.holder}{silent}")
        if self.missing:
            lines.append(f"shards without a report: {counted(self.missing)}")
        return lines


def status_of(out: str | Path) -> RunStatus:
    """Say where the runs stand that write into a folder.

    Args:
        out: the folder that `extract` was given, of one run or of several: shards, or processes side by side.

    Raises:
        FileNotFoundError, ValueError: no such folder, or no folder.
        FeatureError: there is no report of a run in it, or one that cannot be read.
    """
    folder = existing_folder("out", out)
    files = [f for f in folder.iterdir() if _REPORTS.fullmatch(f.name)]
    at_work = sorted(_at_work(folder), key=lambda each: each.name)
    if not files and not at_work:  # a run that has just begun has no report
        raise FeatureError(
            f"{folder} has no report of a run (run.json): was extract given another folder?"
        )
    reports = [_read(file) for file in sorted(files, key=lambda f: f.stat().st_mtime)]
    slides: dict[str, Mapping[str, Any]] = {}
    for report in reports:
        for slide in report["slides"]:
            former = slides.get(slide["name"])
            # What is there stays there, whatever another run that was interrupted says later.
            if former is None or former["status"] not in _OVER or slide["status"] in _OVER:
                slides[slide["name"]] = slide
    asked, missing = _asked_for(reports)
    total = max(asked, len(slides.keys() | {each.name for each in at_work}))
    going_on = [report for report in reports if report["goes_on"]]
    by_status = Counter(
        "done" if slide["status"] == "skipped" else slide["status"] for slide in slides.values()
    )
    over = sum(by_status[status] for status in _OVER)
    return RunStatus(
        path=folder,
        total=total,
        by_status=dict(by_status),
        failed={
            one_line(slide["name"]): one_line(slide["error"])
            for slide in slides.values()
            if slide["status"] == "failed"
        },
        at_work=at_work,
        patches=sum(_patches(report) for report in reports),
        patches_per_s=sum(_patches(r) / r["seconds"] for r in going_on if r["seconds"]),
        left_s=_left_s(going_on, total - over - by_status["failed"]),
        missing=missing,
    )


def _read(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise ValueError(f"a report has no more than {_MOST_BYTES >> 20} MB")
        said = json.loads(file.read_text(encoding="utf-8"))
        slides = [
            {"name": str(slide["name"]), "status": str(slide["status"])}
            | {"error": str(slide["error"]), "patches": int(slide["patches"])}
            for slide in said["slides"]
        ]
        about = said["about"]
        shard = str(about["shard"] or "")
        if shard and not re.fullmatch(r"[1-9][0-9]*/[1-9][0-9]*", shard):
            raise ValueError(f"{shard!r} is no shard")
        return {
            "slides": slides,
            "seconds": float(said["seconds"]),
            "shard": shard,
            "asked": int(about["slides"]),
            # Who has ended keeps no lock.
            "goes_on": Lock(file).is_held(),
        }
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise FeatureError(
            f"{file} is no report of a run: {type(error).__name__}: {one_line(error)}"
        ) from error


def _asked_for(reports: Sequence[Mapping[str, Any]]) -> tuple[int, list[str]]:
    """Return how many slides there are to do, and the shards without a report."""
    by_shard: dict[str, int] = {}
    for report in reports:
        by_shard[report["shard"]] = max(by_shard.get(report["shard"], 0), report["asked"])
    whole = by_shard.pop("", 0)
    missing = []
    for n in sorted({int(shard.partition("/")[2]) for shard in by_shard}):
        missing += [f"{i}/{n}" for i in range(1, min(n, 100_000) + 1) if f"{i}/{n}" not in by_shard]
    return max(whole, sum(by_shard.values())), missing


def _patches(report: Mapping[str, Any]) -> int:
    return sum(slide["patches"] for slide in report["slides"] if slide["status"] == "done")


def _left_s(going_on: Sequence[Mapping[str, Any]], left: int) -> float | None:
    per_s = sum(
        sum(slide["status"] == "done" for slide in report["slides"]) / report["seconds"]
        for report in going_on
        if report["seconds"]
    )
    return max(0, left) / per_s if per_s else None


def _at_work(folder: Path) -> Iterator[AtWork]:
    for file in folder.rglob(".locks/*.lock"):
        made = file.parent.parent / file.name.removesuffix(".lock")
        if made.suffix == ".json":  # a report, or the options of a folder
            continue
        found = _locked(made, file) or _leased(made)
        if found is not None:
            holder, touched_s = found
            silent_s = max(0.0, time.time() - touched_s)
            yield AtWork(name=one_line(made.stem), holder=str(holder), silent_s=silent_s)


def _locked(made: Path, file: Path) -> tuple[Holder, float] | None:
    """Who has the lock on a file, as far as locks reach, and when he last touched it."""
    lock = Lock(made)
    holder = lock.holder()
    with suppress(OSError):
        touched_s = file.stat().st_mtime
        if holder is not None and lock.is_held():
            return holder, touched_s
    return None


def _leased(made: Path) -> tuple[Holder, float] | None:
    """Who has the lease on a file, on whatever machine; not one that others may take over."""
    lease = Lease(made, Sightings())
    holder, touched_s = lease.holder(), lease.touched_s()
    if holder is None or touched_s is None or time.time() - touched_s >= STALE_S:
        return None
    return holder, touched_s
