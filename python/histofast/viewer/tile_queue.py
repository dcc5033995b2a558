"""Tile requests in line: a few are worked on, some wait, the rest is told to come again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from histofast.viewer.blocks import Abandoned
from histofast.viewer.tiles import IsWanted

if TYPE_CHECKING:
    from starlette.requests import Request

AT_A_TIME = 8
MOST_WAITING = 200
T = TypeVar("T")


class Crowded(Exception):  # no error: the page asks again
    """Raised where too many wait."""


class TileQueue:
    """Threads that make tiles. `run` is to be awaited in one event loop only."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(AT_A_TIME, thread_name_prefix="histofast-tile")
        self.waiting = 0

    async def run(self, request: Request, work: Callable[[IsWanted], T]) -> T:
        """Return what `work` makes; it is told whether the browser still waits.

        Raises:
            Crowded: as many wait as may.
            Abandoned: the browser does not.
        """
        if self.waiting >= AT_A_TIME + MOST_WAITING:
            raise Crowded
        gone = threading.Event()
        self.waiting += 1
        job = asyncio.get_running_loop().run_in_executor(self._pool, _unless(gone, work))
        job.add_done_callback(self._done)
        watch = asyncio.ensure_future(_left(request))
        try:
            await asyncio.wait((job, watch), return_when=asyncio.FIRST_COMPLETED)
            if job.done():
                return job.result()
            raise Abandoned
        finally:
            watch.cancel()
            gone.set()
            job.cancel()

    def _done(self, job: asyncio.Future[T]) -> None:
        self.waiting -= 1
        if not job.cancelled():
            job.exception()  # looked at: nobody waits for it

    def close(self) -> None:
        """Let what runs end and drop the rest."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def _unless(gone: threading.Event, work: Callable[[IsWanted], T]) -> Callable[[], T]:
    def unless() -> T:
        if gone.is_set():
            raise Abandoned
        return work(lambda: not gone.is_set())

    return unless


async def _left(request: Request) -> None:
    """Return when the browser has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
