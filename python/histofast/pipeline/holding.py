"""Locks and leases on the files that a worker is making, its signs of life, and those of others.

A process that is stopped, or whose machine is, keeps its locks. So whoever holds some touches their
files every few seconds, and whoever waits for one looks whether it is touched: for an owner that
lives one waits as long as it takes, for a frozen one not.

Locks may be seen on one machine only. So whoever has one takes a lease as well: where that is somebody
else's, on another machine as a rule, one waits until it is given back, or taken over from one that has gone.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from histofast._files import BEAT_S, Holder, Lease, Lock, Sightings
from histofast.errors import FeatureError

TOUCH_S = 5.0
FROZEN_S = 30.0  # without a sign of life; and how long one waits before one says so


class Stopped(BaseException):  # no failure of the slide that is at hand
    """Nobody wants more."""


class Busy(Exception):
    """Another process is making one of the files; `touched` shows that it lives, None: its lease does."""

    def __init__(self, file: Path, holder: Holder | None, *, touched: Path | None) -> None:
        super().__init__(f"{file} is held by {holder or 'another process'}")
        self.touched = touched


@dataclass(kw_only=True, slots=True, eq=False)
class Held:
    """A file that a worker is making."""

    file: Path
    lock: Lock
    lease: Lease
    is_lost: bool = False

    def release(self) -> None:
        """Let others make it."""
        self.lease.release()
        self.lock.release()


class Holding:
    """The files that a worker holds. A context manager: inside it shows that it lives."""

    def __init__(self) -> None:
        self._held: set[Held] = set()
        self._sightings = Sightings()
        self._beaten_s = time.monotonic()
        self._end = queue.SimpleQueue[None]()  # of no lock that an interruption may leave taken
        self._thread = threading.Thread(target=self._live, name="histofast-holding", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.put(None)
        self._thread.join()

    def _live(self) -> None:
        while True:
            with suppress(queue.Empty):
                return self._end.get(timeout=TOUCH_S)
            held = tuple(self._held)
            for each in held:
                with suppress(OSError):  # a full disk or a lost connection: nobody sees it then
                    os.utime(each.lock.path)
            if time.monotonic() - self._beaten_s >= BEAT_S:
                self._beaten_s = time.monotonic()
                for each in held:
                    each.is_lost = not each.lease.beat()

    def acquire(self, files: Iterable[Path]) -> list[Held]:
        """Take all files or none.

        Raises:
            Busy: somebody else has one.
            WriteError: a folder that cannot be written.
        """
        taken: list[Held] = []
        try:
            for file in files:
                each = Held(file=file, lock=Lock(file), lease=Lease(file, self._sightings))
                if not each.lock.acquire():
                    raise Busy(file, each.lock.holder(), touched=each.lock.path)
                taken.append(each)
                if not each.lease.acquire():
                    raise Busy(file, each.lease.holder(), touched=None)
                self._held.add(each)
        except BaseException:
            self.release(taken)
            raise
        return taken

    def release(self, held: Sequence[Held]) -> None:
        """Give them back."""
        for each in held:
            self._held.discard(each)
            each.release()

    def check(self, held: Sequence[Held], *, look: bool) -> None:
        """Refuse to go on with a file that was taken over; `look`, or go by what was seen last.

        Raises:
            FeatureError: another process makes one, for this one has given no sign of life.
            WriteError: nobody can tell.
        """
        for each in held:
            if each.is_lost or (look and not each.lease.is_held()):
                raise FeatureError(
                    f"{each.file} was taken over by {each.lease.holder() or 'another process'}, for this one "
                    "has given no sign of life for minutes: start again, what the other makes stays"
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class Waiting:
    """A slide has been waited for; `why` is for people."""

    name: str
    why: str


@dataclass(kw_only=True, slots=True)
class _Wait:
    began_s: float
    touched_ns: int
    touched_s: float  # when that was noticed
    is_told: bool = False


class Patience:
    """How long locks of others have been waited for, and when their owners showed that they live."""

    def __init__(self) -> None:
        self._waits: dict[str, _Wait] = {}

    def meet(self, name: str, busy: Busy) -> Waiting | None:
        """Note that a slide is somebody else's; return what there is to say of it, once.

        Raises:
            FeatureError: its owner has not shown that it lives for too long.
        """
        now_s, touched_ns = time.monotonic(), 0
        if busy.touched is not None:
            with suppress(OSError):
                touched_ns = busy.touched.stat().st_mtime_ns
        wait = self._waits.setdefault(
            name, _Wait(began_s=now_s, touched_ns=touched_ns, touched_s=now_s)
        )
        if touched_ns != wait.touched_ns:
            wait.touched_ns, wait.touched_s = touched_ns, now_s
        silent_s = now_s - wait.touched_s
        if busy.touched is not None and silent_s >= FROZEN_S:
            raise FeatureError(
                f"{busy}, which has given no sign of life for {silent_s:.0f} s: end that process, and "
                "start again"
            )
        if now_s - wait.began_s < FROZEN_S or wait.is_told:
            return None
        wait.is_told = True
        return Waiting(name=name, why=f"{busy} and will be waited for")
