"""What became of a run and of each slide, told while it goes on and saved as `run.json`."""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from histofast._files import Lock, replacing, write_error
from histofast._notebook import table
from histofast._words import clipped, count, duration, one_line
from histofast.errors import CudaError, HistofastError, WriteError

SAVE_S = 5.0  # the report of a long run is saved this often
TRACEBACK_CHARACTERS = 8000  # the last ones, which say where it was

Status = Literal["done", "empty", "skipped", "failed", "planned", "interrupted"]
Limit = Literal["encoding", "decoding", "choosing", "writing", ""]

# Where the time of the thread that encodes goes, as `SlideReport.seconds` has it.
_ENDS: tuple[tuple[str, Status], ...] = (
    ("done", "done"),
    ("empty", "empty"),
    ("already there", "skipped"),
    ("failed", "failed"),
    ("not done", "interrupted"),
)
_FIRST: tuple[Status, ...] = ("failed", "empty")  # in a table
_NAME_WIDTH = 40  # of a slide in a line that is written over
_LIMITS: dict[str, Limit] = {"encode": "encoding", "wait": "decoding", "write": "writing"}


@dataclass(kw_only=True, slots=True)
class SlideReport:
    """What became of one slide.

    `error` is why it failed, `traceback` where; `reason` is why it is empty: there is nothing to encode.
    `tissue_patches` are those that `patches` were chosen from; 0: none were left out.
    `notes` are what its user should know of how its tissue was found and cut.
    `of_run` are notes that other slides have too, told once.
    `seconds` by stage: "open", "tissue", "plan" and "rank" of preparing it, "supply" of decoding, "wait" of
    the encoding thread for pixels, "encode" and "write" of the same thread, "total". Stages overlap.
    """

    name: str
    path: str
    status: Status
    patches: int = 0
    tissue_patches: int = 0
    unreadable: int = 0
    damaged_patches: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)
    error: str = ""
    traceback: str = ""
    reason: str = ""
    notes: list[str] = field(default_factory=list)
    of_run: list[str] = field(default_factory=list)

    def fail(self, error: BaseException) -> None:
        """Enter what failed it."""
        self.status, self.error, self.reason = "failed", said(error), ""
        text = "".join(traceback.format_exception(error))
        self.traceback = text[-TRACEBACK_CHARACTERS:]

    def in_words(self, told: Callable[[str], str] = str) -> str:
        """Say on one line what became of it.

        Args:
            told: how messages are told: as they are, or with flags for arguments.
        """
        name = one_line(self.name)
        if self.status == "failed":
            return f"{name}: failed: {told(self.error)}"
        if self.status == "skipped":
            return f"{name}: already there"
        if self.status == "interrupted":
            return f"{name}: not done"
        notes = f" ({'; '.join(map(told, self.notes))})" if self.notes else ""
        if self.status == "empty":
            return f"{name}: empty: {told(self.reason)}{notes}"
        text = f"{name}: {count(self.patches, 'patch')}"
        if self.tissue_patches:
            text += f" of {self.tissue_patches:,}"
        if self.status == "done":
            text += f" in {self.seconds.get('total', 0.0):.1f} s"
        if self.unreadable:
            text += f", {count(self.unreadable, 'unreadable region')}"
        if self.damaged_patches:
            text += f" in {count(self.damaged_patches, 'patch')}"
        return text + notes

    @property
    def is_flawed(self) -> bool:
        """Whether it is not simply done, or there is something to know of it."""
        is_whole = self.status in ("done", "skipped", "planned") and not self.unreadable
        return bool(self.notes) or not is_whole


def is_plain(error: BaseException) -> bool:
    """Whether an error says in words what is wrong; others need their type's name."""
    return isinstance(error, HistofastError | CudaError | OSError | ValueError)


def said(error: BaseException) -> str:
    """Say on one line what went wrong, also where nobody has thought of it."""
    text = one_line(error)
    if is_plain(error):
        return text
    if isinstance(error, MemoryError):
        return "not enough memory" + f": {text}" * (text != type(error).__name__)
    name = type(error).__name__
    return name if text == name else f"{name}: {text}"


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceReport:
    """What a device did in a run.

    Attributes:
        device: "cpu", "cuda:0", ...
        busy: share of the time between its first and its last batch in which it encoded, 0..1.
        slides: that it encoded.
        patches: of these.
    """

    device: str
    busy: float = 0.0
    slides: int = 0
    patches: int = 0


@dataclass(kw_only=True, slots=True)
class RunReport:
    """What became of a run; saved as `run.json` in the output folder.

    Attributes:
        slides: what became of each, in the order of their ends.
        seconds: the whole run took.
        devices: what each device did.
        limit: where most of the time of the encoding threads went: "encoding", "decoding" or "choosing"
            (waiting for pixels, or for the encoder that chooses patches) or "writing"; "" when nothing was encoded.
        interrupted: by Ctrl-C or a signal.
        error: what stopped the run before its last slide; empty when nothing did.
        unsaved: why this report is not on the disk; empty when it is.
        notes: of encoders, "<encoder>: <note>": what speaks against one on this machine, the licence of its
            weights; and what is to be known of several slides.
        about: versions, machine, encoders, options.
        path: where the report is saved; empty when it is not.
    """

    slides: list[SlideReport] = field(default_factory=list)
    seconds: float = 0.0
    devices: list[DeviceReport] = field(default_factory=list)
    limit: Limit = ""
    interrupted: bool = False
    error: str = ""
    unsaved: str = ""
    notes: list[str] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)
    path: str = ""

    def __repr__(self) -> str:
        return f"RunReport({self.totals})"

    def _repr_html_(self) -> str:
        ranks = {status: rank for rank, status in enumerate(_FIRST)}
        slides = sorted(self.slides, key=lambda slide: ranks.get(slide.status, len(_FIRST)))
        rows = [
            (
                slide.name,
                slide.status,
                slide.patches,
                f"{slide.seconds['total']:.1f}" if "total" in slide.seconds else "",
                "; ".join(filter(None, (slide.error, slide.reason, *slide.notes))),
            )
            for slide in slides
        ]
        header = ("slide", "status", "patches", "seconds", "notes")
        stopped = f"; stopped: {self.error}" if self.error else ""
        return table(f"{self.totals}{stopped}", header, rows)

    @property
    def totals(self) -> str:
        """How many slides ended how, and how fast it was."""
        planned = self.of("planned")
        if self.about.get("estimated_patches_per_s"):
            patches = sum(slide.patches for slide in planned)
            text = (
                f"{count(len(planned), 'slide')}, {count(patches, 'patch')}: about "
                f"{duration(self.about['estimated_seconds'])} at "
                f"{self.about['estimated_patches_per_s']:.1f} patches/s (nothing was written)"
            )
            failed = self.of("failed")
            return f"{text}; {len(failed)} would fail" if failed else text
        ends = [(word, len(self.of(status))) for word, status in _ENDS]
        counts = ", ".join(f"{n} {word}" for word, n in ends if n)
        text = f"{count(len(self.slides), 'slide')}{f': {counts}' if counts else ''}"
        if self.patches:
            rate = self.patches / max(self.seconds, 1e-9)
            text += f"; {count(self.patches, 'patch')} in {duration(self.seconds)} ({rate:.1f} patches/s)"
        return text

    def of(self, status: Status) -> list[SlideReport]:
        """The slides that ended so."""
        return [slide for slide in self.slides if slide.status == status]

    def add(self, slide: SlideReport) -> None:
        """Enter what became of a slide."""
        self.slides.append(slide)
        self.notes += [note for note in slide.of_run if note not in self.notes]

    @property
    def patches(self) -> int:
        """Patches encoded by this run."""
        return sum(slide.patches for slide in self.of("done"))

    @property
    def exit_code(self) -> int:
        """0 all done, 1 a slide or the run or its report failed, 130 interrupted."""
        if self.interrupted:
            return 130
        return int(bool(self.of("failed") or self.error or self.unsaved))

    def find_limit(self) -> None:
        """Set `limit` from the seconds of the slides that were encoded."""
        spent = {
            limit: sum(slide.seconds.get(stage, 0.0) for slide in self.of("done"))
            for stage, limit in _LIMITS.items()
        }
        self.limit = max(spent, key=lambda limit: spent[limit]) if self.patches else ""
        if self.limit == "decoding":  # pixels come late where a cheap encoder has to see all before
            supplied, ranked = (
                sum(slide.seconds.get(stage, 0.0) for slide in self.of("done"))
                for stage in ("supply", "rank")
            )
            self.limit = "choosing" if ranked > supplied else "decoding"


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Where a run stands; given to `on_progress` after every batch and every slide.

    On several GPUs `name`, `slide_patches` and `slide_patches_done` are of the slides at work. A
    `note` tells that a slide is waited for, which another process is at.
    """

    slides_total: int
    slides_done: int
    patches_done: int
    seconds: float
    name: str
    slide_patches: int
    slide_patches_done: int
    finished: SlideReport | None = None
    note: str = ""

    def __str__(self) -> str:
        """Say where the run stands."""
        where = f"{self.slides_done} of {count(self.slides_total, 'slide')}"
        if self.slide_patches:
            name = clipped(one_line(self.name), _NAME_WIDTH)
            where += f"; {name}: {self.slide_patches_done} of {count(self.slide_patches, 'patch')}"
        rate = self.patches_done / max(self.seconds, 1e-9)
        speed = f", {rate:.1f} patches/s" if self.patches_done else ""
        return f"{where}{speed}; {duration(self.seconds)}{self.time_left}"

    @property
    def line(self) -> str:
        """What stays to be said; nothing of slides that were there, of which there may be thousands."""
        lines = [one_line(self.note)] if self.note else []
        if self.finished is not None and self.finished.status != "skipped":
            lines.append(f"[{self.slides_done}/{self.slides_total}] {self.finished.in_words()}")
        return "\n".join(lines)

    @property
    def time_left(self) -> str:
        """`, about 3 min left`, from the slides so far: how many patches the others have is not known yet."""
        part = self.slide_patches_done / self.slide_patches if self.slide_patches else 0.0
        done = self.slides_done + part
        if done == 0 or done < 0.02 * self.slides_total or done >= self.slides_total:
            return ""
        left_s = self.seconds / done * (self.slides_total - done)
        return f", about {duration(left_s)} left"


class Clock:
    """Seconds by stage."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self._seconds = seconds
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Count the time since the last lap to `stage`."""
        now = time.perf_counter()
        self._seconds[stage] = self._seconds.get(stage, 0.0) + now - self._last
        self._last = now


def make_folder(out: Path) -> None:
    """Make the output folder where it is missing.

    Raises:
        WriteError: it cannot be one.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise WriteError(f"cannot write to {out}: there is a file in the way") from error
    except OSError as error:
        raise write_error(out, error) from error


class ReportFile:
    """`run.json`: saved now and then while the run goes on, and at its end.

    A second process in the same folder writes `run-<pid>.json` instead.
    """

    def __init__(self, out: Path, report: RunReport, shard: str | None) -> None:
        name = "run.json" if shard is None else f"run-{shard.replace('/', 'of')}.json"
        self._report, self._saved = report, time.monotonic()
        self._lock = Lock(out / name)
        self.path = out / (name if self._lock.acquire() else f"run-{os.getpid()}.json")
        report.path = str(self.path)

    def save(self, *, now: bool = False) -> None:
        """Write the report if the last time was long ago, or `now`."""
        if not now and time.monotonic() - self._saved < SAVE_S:
            return
        self._saved = time.monotonic()
        self._report.path, self._report.unsaved = str(self.path), ""
        try:
            with replacing(self.path, overwrite=True) as pending:
                pending.write_text(json.dumps(asdict(self._report), indent=1) + "\n")
        except OSError as error:
            self._report.path = ""
            self._report.unsaved = str(write_error(self.path, error))

    def close(self) -> None:
        """Let another run have the name."""
        self._lock.release()
