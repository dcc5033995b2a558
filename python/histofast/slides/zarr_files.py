"""Places of chunks in, their bytes out: from a file each, or from shards and their tables."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from histofast.slides.codestreams import largest_stream
from histofast.slides.zarr_arrays import ZarrArray
from histofast.slides.zarr_chunks import CHECKSUM, Coding, decoded
from histofast.slides.zarr_store import Store

Place = tuple[int, ...]
_KEPT_BYTES = 64 << 20  # of tables
_ABSENT = (1 << 64) - 1
_MOST_FOLDERS = 10_000


class ChunkFiles:
    """Reads the chunks of the arrays of one store, from many threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tables: dict[str, NDArray[np.uint64]] = {}
        self._kept_bytes = 0
        self._lock = threading.Lock()

    def samples(self, array: ZarrArray, place: Place) -> NDArray[np.uint8] | None:
        """Return the chunk at a place of the grid of chunks, along its axes; None where there is none.

        Raises:
            ValueError, OSError, Exception: it cannot be read or decoded.
        """
        data = self._bytes(array, place)
        return None if data is None else decoded(data, array.coding, array.chunk)

    def _bytes(self, array: ZarrArray, place: Place) -> bytes | None:
        most = largest_stream(math.prod(array.chunk))
        if array.shards is None:
            return self._store.read(array.key_of(place), most_bytes=most)
        inside = array.shards.chunks
        key = array.key_of(tuple(p // n for p, n in zip(place, inside, strict=True)))
        table = self._table(array, key)
        if table is None:
            return None
        start, count = map(int, table[tuple(p % n for p, n in zip(place, inside, strict=True))])
        if start == count == _ABSENT:
            return None
        if count > most or start >= _ABSENT >> 1:
            raise ValueError(f"its shard says that it has {count:,} bytes at {start:,}")
        data = self._store.read_part(key, start, count)
        if data is None or len(data) != count:
            raise ValueError(f"its {count:,} bytes at {start:,} lie past the end of its shard")
        return data

    def _table(self, array: ZarrArray, key: str) -> NDArray[np.uint64] | None:
        """Where the chunks of a shard begin and how long they are, (chunks along each axis, 2)."""
        table = self._tables.get(key)
        if table is not None or array.shards is None:
            return table
        size = array.shards.index_bytes
        data = self._store.read_part(key, -size if array.shards.at_end else 0, size)
        if data is None:
            return None
        if len(data) != size:
            raise ValueError(f"its shard is shorter than its table of {size:,} bytes")
        steps = (CHECKSUM,) if array.shards.checked else ()
        plain = decoded(
            data, Coding(order=(0,), steps=steps), (16 * math.prod(array.shards.chunks),)
        )
        table = plain.view("<u8").reshape(*array.shards.chunks, 2)
        with self._lock:
            if self._kept_bytes + size > _KEPT_BYTES:
                self._tables.clear()
                self._kept_bytes = 0
            self._tables[key] = table
            self._kept_bytes += size
        return table


def folders_of(array: ZarrArray) -> Iterator[str]:
    """Yield the folders that chunks of an array lie in; those above them where that would be very many."""
    grid = array.files
    nested = array.key_of((0,) * len(grid)).count("/") - array.path.count("/") >= len(grid)
    if not nested or len(grid) < 2:
        yield array.path
        return
    kept = len(grid) - 1
    while math.prod(grid[:kept]) > _MOST_FOLDERS:
        kept -= 1
    for place in itertools.product(*map(range, grid[:kept])):
        key = array.key_of((*place, *(0,) * (len(grid) - kept)))
        yield "/".join(key.split("/")[: kept - len(grid)])
