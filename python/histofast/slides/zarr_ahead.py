"""Chunks that will be wanted in, their bytes before they are asked for out: many requests under way at a time."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from functools import lru_cache

from histofast.slides.zarr_arrays import Place, ZarrArray

_AT_A_TIME = 16
_BUFFER_BYTES = 64 << 20  # of chunks, as long as if they were not compressed
_FEWEST, _MOST = 4, 256  # chunks

Content = (
    bytes | ValueError | None
)  # of a chunk: its bytes, what is wrong with it, that there is none
Fetch = Callable[[ZarrArray, Sequence[Place]], list[Content]]


class ChunksAhead:
    """Fetches chunks of an array in the order in which they will be wanted, so many ahead as there is room for.

    Those of one file that are wanted near each other are fetched together.
    """

    def __init__(self, fetch: Fetch) -> None:
        """Fetch chunks of one file by `fetch`, in several threads."""
        self._fetch = fetch
        self._lock = threading.Lock()
        self._array: ZarrArray | None = None
        self._left: deque[Place] = deque()
        self._coming: dict[Place, tuple[Future[list[Content]], int]] = {}
        self._room = _FEWEST

    def plan(self, array: ZarrArray, places: Sequence[Place]) -> None:
        """Fetch these instead of what was planned before; each place once."""
        with self._lock:
            for future, _ in self._coming.values():
                future.cancel()
            self._array, self._left, self._coming = array, deque(places), {}
            self._room = min(max(_BUFFER_BYTES // math.prod(array.chunk), _FEWEST), _MOST)
            self._submit()

    def take(self, array: ZarrArray, place: Place) -> Content:
        """Return what `fetch` does of a chunk, planned or not.

        Raises:
            Exception: whatever `fetch` raises.
        """
        with self._lock:
            found = self._coming.pop(place, None) if array is self._array else None
            if (
                len(self._coming) <= self._room // 2
            ):  # several at once, of which some are of one file
                self._submit()
        if found is not None:
            try:
                return found[0].result()[found[1]]
            except CancelledError:  # planned anew meanwhile
                pass
        return self._fetch(array, [place])[0]

    def _submit(self) -> None:
        array = self._array
        if array is None:
            return
        together: dict[str, list[Place]] = {}
        for _ in range(min(len(self._left), self._room - len(self._coming))):
            place = self._left.popleft()
            together.setdefault(array.file_of(place), []).append(place)
        for places in together.values():
            future = _threads().submit(self._fetch, array, places)
            self._coming |= {place: (future, i) for i, place in enumerate(places)}

    def close(self) -> None:
        """Fetch no more, and let go of what is there."""
        with self._lock:
            for future, _ in self._coming.values():
                future.cancel()
            self._array, self._left, self._coming = None, deque(), {}


@lru_cache(maxsize=1)
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_AT_A_TIME, thread_name_prefix="histofast-chunks")
