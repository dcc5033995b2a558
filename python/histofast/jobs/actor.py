"""A worker in a Ray cluster, where it is: an actor that Ray calls. It knows nothing of ray."""

from __future__ import annotations

import os
import platform
import queue
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from histofast.jobs.link import Link, attend

LOOK_S = 5.0  # how long a worker waits before it answers that it has nothing to say


@dataclass(frozen=True, kw_only=True, slots=True)
class Where:
    """Where a worker is, and what it runs.

    Attributes:
        host: name of the machine.
        pid: of its process there.
        histofast: version.
        python: version.
    """

    host: str
    pid: int
    histofast: str
    python: str


class Inbox:
    """A `Channel` between the threads of an actor: its worker's end."""

    def __init__(self) -> None:
        self._orders: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._said: list[bytes] = []
        self._first = 0  # the number of the first that is kept
        self._news = threading.Condition()
        self.is_over = False

    def put(self, data: bytes) -> None:
        self._orders.put(data)

    def recv_bytes(self) -> bytes:
        return self._orders.get()

    def send_bytes(self, data: bytes, /) -> None:
        with self._news:
            self._said.append(data)
            self._news.notify_all()

    def close(self) -> None:
        with self._news:
            self.is_over = True
            self._news.notify_all()

    def messages(self, after: int) -> tuple[list[bytes], bool]:
        """Return what was said after so many messages, which are let go, and whether that is all."""
        with self._news:
            del self._said[: after - self._first]
            self._first = after
            self._news.wait_for(lambda: self._said or self.is_over, LOOK_S)
            return list(self._said), self.is_over


class Actor:
    """A worker, as Ray runs it."""

    def __init__(self) -> None:
        self._inbox = Inbox()

    def where(self) -> Where:
        return Where(
            host=socket.gethostname(),
            pid=os.getpid(),
            histofast=version(),
            python=platform.python_version(),
        )

    def call(self, function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        return function(**arguments)

    def begin(self, data: bytes, patience_s: float, folder: str) -> None:
        with suppress(OSError):  # one that is not here: whoever looks for a file in it will say
            os.chdir(folder)
        self._inbox.put(data)
        threading.Thread(target=self._work, args=(patience_s,), daemon=True).start()

    def _work(self, patience_s: float) -> None:
        try:
            attend(Link(self._inbox, patience_s=patience_s))
        finally:
            self._inbox.close()

    def put(self, data: bytes) -> None:
        self._inbox.put(data)

    def messages(self, after: int) -> tuple[list[bytes], bool]:
        return self._inbox.messages(after)


def version() -> str:
    from histofast import _core

    return _core.version
