"""Places of chunks in, their bytes out: from a file each, or from shards and their tables."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from histofast._remote import merge_ranges
from histofast.slides.codestreams import largest_stream
from histofast.slides.zarr_ahead import ChunksAhead, Content
from histofast.slides.zarr_arrays import Place, Shards, ZarrArray
from histofast.slides.zarr_chunks import CHECKSUM, Coding, decoded
from histofast.slides.zarr_store import Store

_KEPT_BYTES = 64 << 20  # of tables
_ABSENT = np.uint64((1 << 64) - 1)
_FURTHEST = 1 << 62
_MOST_FOLDERS = 10_000


class ChunkFiles:
    """Reads the chunks of the arrays of one store, from many threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._ahead = ChunksAhead(self._read) if store.reads_ahead else None
        self._tables: dict[str, NDArray[np.uint64]] = {}
        self._kept_bytes = 0
        self._lock = threading.Lock()
        self._turns: dict[str, threading.Lock] = {}

    @property
    def reads_ahead(self) -> bool:
        """Whether `prefetch` does anything."""
        return self._ahead is not None

    def prefetch(self, array: ZarrArray, places: Sequence[Place]) -> None:
        """Be told which chunks will be read, in about this order."""
        if self._ahead is not None:
            self._ahead.plan(array, places)

    def samples(self, array: ZarrArray, place: Place) -> NDArray[np.uint8] | None:
        """Return the chunk at a place of the grid of chunks, along its axes; None where there is none.

        Raises:
            StoreError: the store fails.
            ValueError, OSError, Exception: it cannot be read or decoded.
        """
        if self._ahead is not None:
            data = self._ahead.take(array, place)
        else:
            (data,) = self._read(array, [place])
        if isinstance(data, ValueError):
            raise data
        return None if data is None else decoded(data, array.coding, array.chunk)

    def close(self) -> None:
        """Let go of what is held."""
        if self._ahead is not None:
            self._ahead.close()

    def _read(self, array: ZarrArray, places: Sequence[Place]) -> list[Content]:
        """Return the bytes of chunks of one file; for one that is broken what is wrong with it."""
        key = array.file_of(places[0])
        most = largest_stream(math.prod(array.chunk))
        if array.shards is None:
            return [self._store.read(key, most_bytes=most)]
        table = self._table(array, key)
        if table is None:
            return [None] * len(places)
        inside = np.array(places) % array.shards.chunks
        extents = table[tuple(inside.T)]  # (n, 2) where they begin, how long they are
        starts, counts = extents.T
        is_there = (extents != _ABSENT).any(axis=1)
        is_sound = is_there & (counts <= most) & (starts <= _FURTHEST)
        found: list[Content] = [
            ValueError(f"its shard says that it has {count:,} bytes at {start:,}")
            if there
            else None
            for there, (start, count) in zip(is_there.tolist(), extents.tolist(), strict=True)
        ]
        sound = np.flatnonzero(is_sound)
        for block in merge_ranges(extents[sound].astype(np.int64)):
            data = self._store.read_part(key, block.start, block.stop - block.start) or b""
            for i in sound[block.members].tolist():
                at, count = int(starts[i]) - block.start, int(counts[i])
                part = data[at : at + count]
                found[i] = part
                if len(part) != count:
                    found[i] = ValueError(
                        f"its {count:,} bytes at {starts[i]:,} lie past the end of its shard"
                    )
        return found

    def _table(self, array: ZarrArray, key: str) -> NDArray[np.uint64] | None:
        """Where the chunks of a shard begin and how long they are, (chunks along each axis, 2)."""
        with self._lock:
            turn = self._turns.setdefault(key, threading.Lock())
        with turn:  # of those who want it one reads it
            table = self._tables.get(key)
            if table is not None or array.shards is None:
                return table
            size = array.shards.index_bytes
            data = self._store.read_part(key, -size if array.shards.at_end else 0, size)
            if data is None:
                return None
            if len(data) != size:
                raise ValueError(f"its shard is shorter than its table of {size:,} bytes")
            table = _table_in(data, array.shards)
            self._keep(key, table)
            return table

    def _keep(self, key: str, table: NDArray[np.uint64]) -> None:
        with self._lock:
            if self._kept_bytes + table.nbytes > _KEPT_BYTES:
                self._tables.clear()
                self._kept_bytes = 0
            self._tables[key] = table
            self._kept_bytes += table.nbytes


def _table_in(data: bytes, shards: Shards) -> NDArray[np.uint64]:
    coding = Coding(order=(0,), steps=(CHECKSUM,) if shards.checked else ())
    plain = decoded(data, coding, (16 * math.prod(shards.chunks),))
    return plain.view("<u8").reshape(*shards.chunks, 2)


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
