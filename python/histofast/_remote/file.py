"""One object, read as a slide is read."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from histofast._remote.addresses import Address
from histofast._remote.ahead import Ahead
from histofast._remote.ranges import BLOCK_BYTES
from histofast._remote.store import Found, Store, store_of
from histofast._stopping import stop_if_asked
from histofast.errors import StoreError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer as Buffer

PAGE_BYTES = 1 << 20  # of the beginning, and of what is read around a directory
_PAGES = 16  # kept


class RemoteFile:
    """The bytes of an object as it was when it was opened: another version is an error.

    Attributes:
        place: its address.
        size_bytes: how long it is.
        identity: address without credentials, size and version (ETag): another text for other bytes.
    """

    reads_ahead = True

    def __init__(self, address: Address, *, version: str = "") -> None:
        """Open an object by one request, which brings its beginning; `version` is what it must be.

        Raises:
            FileNotFoundError: there is none.
            StoreError: it cannot be had, or its server does not tell one version from another.
        """
        self.place = address
        self._store = store_of(address)
        head, found = _beginning(self._store, PAGE_BYTES, version=version)
        if not found.version:
            raise StoreError(
                f"{address} must be on a server that tells versions apart (ETag or Last-Modified), got "
                "neither: copy it here, or put it into a bucket"
            )
        self.size_bytes, self._version = found.size_bytes, found.version
        self.identity = f"address:{address};size:{found.size_bytes};version:{found.version}"
        self._head = head
        self._pages: OrderedDict[int, bytes] = OrderedDict()
        self._lock = threading.Lock()
        self._ahead = Ahead(self._fetch)

    def read(self, offset: int, count: int) -> bytes:
        """Return bytes, fewer past the end; what `prefetch` was told of is here, or on its way.

        Raises:
            StoreError: they cannot be had, or the object is another one now.
        """
        count = min(count, self.size_bytes - offset)
        if count <= 0:
            return b""
        if offset + count <= len(self._head):
            return self._head[offset : offset + count]
        planned = self._ahead.take(offset, count)
        return self._fetch(offset, count) if planned is None else planned

    def prefetch(self, ranges: NDArray[np.int64]) -> None:
        """Fetch ranges, (n, 2) int64 offset and number of bytes, before they are read in about this order.

        Replaces what was told before. At most `ahead.BUFFER_BYTES` are held.
        """
        is_far = ranges.sum(axis=1) > len(self._head)
        self._ahead.plan(ranges[is_far & (ranges[:, 1] > 0)])

    def open(self) -> BinaryIO:
        """Return the object as a file, for reading directories: around what is read more is fetched, and kept."""
        return cast(BinaryIO, io.BufferedReader(_Stream(self), PAGE_BYTES >> 4))

    def copy_to(self, path: Path) -> None:
        """Write the object to a new file.

        Raises:
            StoreError: as `read`.
            OSError: the file cannot be written.
        """
        starts = np.arange(0, self.size_bytes, BLOCK_BYTES, dtype=np.int64)
        counts = np.minimum(self.size_bytes - starts, BLOCK_BYTES)
        ranges = np.stack([starts, counts], axis=1)
        self.prefetch(ranges)
        with path.open("xb") as file:
            for offset, count in ranges.tolist():
                stop_if_asked()
                file.write(self.read(offset, count))

    def read_around(self, offset: int, count: int) -> bytes:
        """As `read`, by whole pages, which are kept for the next call.

        Raises:
            StoreError: as `read`.
        """
        count = min(count, self.size_bytes - offset)
        if count <= 0 or offset + count <= len(self._head) or count > _PAGES * PAGE_BYTES // 2:
            return self.read(offset, count)
        first, last = offset // PAGE_BYTES, (offset + count - 1) // PAGE_BYTES
        with self._lock:
            missing = [page for page in range(first, last + 1) if page not in self._pages]
            if missing:
                self._keep(missing[0], missing[-1])
            data = b"".join(self._pages[page] for page in range(first, last + 1))
        at = offset - first * PAGE_BYTES
        return data[at : at + count]

    def _keep(self, first: int, last: int) -> None:
        start, stop = first * PAGE_BYTES, min((last + 1) * PAGE_BYTES, self.size_bytes)
        data = self._fetch(start, stop - start)
        for page in range(first, last + 1):
            at = page * PAGE_BYTES - start
            self._pages[page] = data[at : at + PAGE_BYTES]
            self._pages.move_to_end(page)
        while len(self._pages) > _PAGES:
            self._pages.popitem(last=False)

    def _fetch(self, offset: int, count: int) -> bytes:
        return self._store.get_range("", offset, count, version=self._version)[0]

    def forget_directories(self) -> None:
        """Let go of what was read around directories."""
        with self._lock:
            self._pages.clear()

    def close(self) -> None:
        """Let go of what is held."""
        self._ahead.close()
        self.forget_directories()

    def __str__(self) -> str:
        return str(self.place)


def version_of(address: Address) -> tuple[int, str]:
    """Return size in bytes and version of an object as it is now.

    Raises:
        FileNotFoundError: there is none.
        StoreError: it cannot be had.
    """
    found = _beginning(store_of(address), 1)[1]  # a signature may be for GET alone
    return found.size_bytes, found.version


def _beginning(store: Store, count: int, *, version: str = "") -> tuple[bytes, Found]:
    try:
        return store.get_range("", 0, count, version=version)
    except StoreError:
        found = store.head()
        if found.size_bytes:  # of none there is no byte to be asked for
            raise
        return b"", found


class _Stream(io.RawIOBase):
    """An object as a file at a place."""

    def __init__(self, file: RemoteFile) -> None:
        super().__init__()
        self._file, self._at = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size_bytes}[whence]
        if start + offset < 0:  # as files say it
            raise OSError(22, "Invalid argument")
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Buffer) -> int:
        view = memoryview(buffer).cast("B")
        data = self._file.read_around(self._at, len(view))
        view[: len(data)] = data
        self._at += len(data)
        return len(data)
