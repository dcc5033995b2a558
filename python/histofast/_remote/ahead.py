"""Ranges of an object that are fetched before they are asked for, within a bound of memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from histofast._remote.ranges import Block, merge_ranges
from histofast._remote.store import AT_A_TIME

BUFFER_BYTES = 64 << 20
# Ranges are merged among so many bytes of them: a few rows of patches, whose tiles lie row by row.
_WINDOW_BYTES = 12 << 20
_WINDOW_MOST_BYTES = 24 << 20  # with what is read for nothing


@dataclass(eq=False, slots=True)
class _Fetched:
    """A block that was asked for: its bytes, when they come, and how many ranges of it are wanted."""

    block: Block
    data: Future[bytes]
    left: int

    @property
    def size_bytes(self) -> int:
        return self.block.stop - self.block.start


class Ahead:
    """Fetches ranges in the order in which they will be wanted.

    They are taken in about that order, from any threads, each as often as it was planned. What is asked for
    too far from it is not there: then None is returned, and whoever asks reads it by itself.
    """

    def __init__(self, fetch: Callable[[int, int], bytes]) -> None:
        """Fetch by `fetch(offset, count)`, in several threads."""
        self._fetch = fetch
        self._lock = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self._ranges = np.empty((0, 2), np.int64)
        self._place: dict[int, int] = {}  # of a range in the order, by its offset
        self._uses: list[int] = []  # how often each is still wanted
        self._next = 0  # the first of them that was not asked for
        self._of: list[_Fetched | None] = []
        self._fetched: list[_Fetched] = []
        self._held_bytes = 0

    def plan(self, ranges: NDArray[np.int64]) -> None:
        """Fetch these instead of what was planned before.

        Args:
            ranges: (n, 2) int64 offset and number of bytes, in the order of need.
        """
        with self._lock:
            for fetched in self._fetched:
                fetched.data.cancel()
            self._forget()
            # Some writers store equal tiles once: such a range is fetched when it is wanted first.
            offsets, first, uses = np.unique(ranges[:, 0], return_index=True, return_counts=True)
            order = np.argsort(first)
            self._ranges, self._uses = ranges[first[order]], uses[order].tolist()
            self._place = {offset: i for i, offset in enumerate(offsets[order].tolist())}
            self._of = [None] * len(order)
            self._fetch_while_room()

    def take(self, offset: int, count: int) -> bytes | None:
        """Return a range that was planned; None for any other.

        Raises:
            StoreError: it could not be had.
        """
        with self._lock:
            i = self._place.get(offset)
            if i is None or self._ranges[i, 1] != count:
                return None
            while (
                i >= self._next
            ):  # early: what was fetched first is given up where it is in the way
                self._fetch_window(is_forced=True)
            fetched = self._of[i]
            if fetched is None:
                return None
            self._uses[i] -= 1
            if not self._uses[i]:
                self._of[i] = None
            fetched.left -= 1
            if not fetched.left:
                self._drop(fetched)
                self._fetch_while_room()
        at = offset - fetched.block.start
        try:
            return fetched.data.result()[at : at + count]
        except CancelledError:  # given up meanwhile
            return None

    def close(self) -> None:
        """Fetch no more, and let go of what is there."""
        self.plan(np.empty((0, 2), np.int64))

    @property
    def held_bytes(self) -> int:
        """Bytes that are here or on their way."""
        return self._held_bytes

    def _drop(self, fetched: _Fetched) -> None:
        self._fetched.remove(fetched)
        self._held_bytes -= fetched.size_bytes

    def _fetch_while_room(self) -> None:
        while self._next < len(self._ranges) and self._fetch_window():
            pass

    def _fetch_window(self, *, is_forced: bool = False) -> bool:
        """Ask for the next ranges, if there is room for them; whether there was."""
        stop, blocks = self._window()
        size_bytes = sum(block.stop - block.start for block in blocks)
        if is_forced:
            while self._fetched and self._held_bytes + size_bytes > BUFFER_BYTES:
                self._give_up(self._fetched[0])
        elif self._held_bytes and self._held_bytes + size_bytes > BUFFER_BYTES:
            return False
        for block in blocks:
            members = self._next + block.members
            data = _threads().submit(self._fetch, block.start, block.stop - block.start)
            uses = sum(self._uses[i] for i in members.tolist())
            fetched = _Fetched(block._replace(members=members), data, uses)
            self._fetched.append(fetched)
            self._held_bytes += fetched.size_bytes
            for i in members.tolist():
                self._of[i] = fetched
        self._next = stop
        return True

    def _give_up(self, fetched: _Fetched) -> None:
        for i in fetched.block.members.tolist():
            self._of[i] = None
        fetched.data.cancel()
        self._drop(fetched)

    def _window(self) -> tuple[int, list[Block]]:
        """Where the next window ends, and its blocks."""
        ends = np.cumsum(self._ranges[self._next :, 1])
        count = max(1, int(np.searchsorted(ends, _WINDOW_BYTES, side="right")))
        while True:
            blocks = merge_ranges(self._ranges[self._next : self._next + count])
            size_bytes = sum(block.stop - block.start for block in blocks)
            if size_bytes <= _WINDOW_MOST_BYTES or count == 1:
                return self._next + count, blocks
            count //= 2


@lru_cache(maxsize=1)
def _threads() -> ThreadPoolExecutor:
    """The threads that wait for answers, of all objects: as many as there may be requests."""
    return ThreadPoolExecutor(AT_A_TIME, thread_name_prefix="histofast-fetch")
