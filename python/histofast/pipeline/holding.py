"""Locks on the files that a worker is making, its signs of life, and those of others.

A process that is stopped, or whose machine is, keeps its locks. So whoever holds some touches their
files every few seconds, and whoever waits for one looks whether it is touched: for an owner that
lives one waits as long as it takes, for a frozen one not.
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

from histofast._files import Lock
from histofast.errors import FeatureError

TOUCH_S = 5.0
FROZEN_S = 30.0  # without a sign of life; and how long one waits before one says so


class Busy(Exception):
    """Another process is making one of the files."""

    def __init__(self, file: Path, lock: Lock) -> None:
        super().__init__(f"{file} is held by {lock.holder() or 'another process'}")
        self.lock = lock


class Holding:
    """The locks that a worker holds. A context manager: inside it shows that it lives."""

    def __init__(self) -> None:
        self._held: set[Lock] = set()
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
            for lock in tuple(self._held):
                with suppress(OSError):  # a full disk or a lost connection: nobody sees it then
                    os.utime(lock.path)

    def acquire(self, files: Iterable[Path]) -> list[Lock]:
        """Take the locks of all files or none.

        Raises:
            Busy: somebody else has one.
            WriteError: a folder that cannot be written.
        """
        taken: list[Lock] = []
        try:
            for file in files:
                lock = Lock(file)
                if not lock.acquire():
                    raise Busy(file, lock)
                taken.append(lock)
                self._held.add(lock)
        except BaseException:
            self.release(taken)
            raise
        return taken

    def release(self, locks: Sequence[Lock]) -> None:
        """Give them back."""
        for lock in locks:
            self._held.discard(lock)
            lock.release()


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
        with suppress(OSError):
            touched_ns = busy.lock.path.stat().st_mtime_ns
        wait = self._waits.setdefault(
            name, _Wait(began_s=now_s, touched_ns=touched_ns, touched_s=now_s)
        )
        if touched_ns != wait.touched_ns:
            wait.touched_ns, wait.touched_s = touched_ns, now_s
        silent_s = now_s - wait.touched_s
        if silent_s >= FROZEN_S:
            raise FeatureError(
                f"{busy}, which has given no sign of life for {silent_s:.0f} s: end that process, and "
                "start again"
            )
        if now_s - wait.began_s < FROZEN_S or wait.is_told:
            return None
        wait.is_told = True
        return Waiting(name=name, why=f"{busy} and will be waited for")
