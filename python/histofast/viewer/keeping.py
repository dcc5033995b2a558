"""Values that are made when first asked for and kept while there is room."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """Values by key; of one key, however many threads ask, one value is made at a time.

    The least recently used are let go of as soon as all weigh more than `most_bytes`; what is heavier than
    that alone is made anew for whoever asks next. What raises is not kept.
    """

    def __init__(self, *, most_bytes: int, weigh: Callable[[T], int]) -> None:
        """Take the most that is kept, and what a value weighs in bytes."""
        self._most_bytes = most_bytes
        self._weigh = weigh
        self._lock = threading.Lock()
        self._values: OrderedDict[Hashable, tuple[T, int]] = OrderedDict()
        self._making: dict[Hashable, Future[T]] = {}
        self._bytes = 0

    @property
    def held_bytes(self) -> int:
        """What all that is kept weighs."""
        return self._bytes

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the value of a key, made if it is not there.

        Raises:
            What `make` raises, to all who wait for it.
        """
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key][0]
            waiting = self._making.get(key)
            if waiting is None:
                mine: Future[T] = Future()
                self._making[key] = mine
        if waiting is not None:
            return waiting.result()
        return self._make(key, make, mine)

    def seen(self, key: Hashable) -> T | None:
        """Return the value of a key if it is there; nothing is made."""
        with self._lock:
            found = self._values.get(key)
            return None if found is None else found[0]

    def clear(self) -> None:
        """Let all go."""
        with self._lock:
            self._values.clear()
            self._bytes = 0

    def _make(self, key: Hashable, make: Callable[[], T], promise: Future[T]) -> T:
        try:
            value = make()
        except BaseException as error:
            with self._lock:
                del self._making[key]
            promise.set_exception(error)
            raise
        with self._lock:
            del self._making[key]
            self._put(key, value)
        promise.set_result(value)
        return value

    def _put(self, key: Hashable, value: T) -> None:
        size = self._weigh(value)
        if size > self._most_bytes:
            return
        self._values[key] = (value, size)
        self._bytes += size
        while self._bytes > self._most_bytes:
            _, (_, gone) = self._values.popitem(last=False)
            self._bytes -= gone


def bytes_of(array: Any) -> int:
    """What an array weighs, to be given as `weigh`."""
    return int(array.nbytes)
