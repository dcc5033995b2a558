"""Where the bytes of a slide come from: a file, or an object that is read in ranges."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from histofast._remote import Place

_HAS_PREAD = hasattr(os, "pread")  # not on Windows


class ByteSource(Protocol):
    """What a reader of TIFF files needs (`LocalSource` and `RemoteFile` have it)."""

    @property
    def place(self) -> Place: ...

    @property
    def reads_ahead(self) -> bool:
        """Whether `prefetch` does anything."""

    @property
    def identity(self) -> str:
        """Short text that is another one for other bytes; "" where `file_identity` makes it."""

    def open(self) -> BinaryIO:
        """Open it for reading directories."""

    def read(self, offset: int, count: int) -> bytes:
        """Return bytes, fewer past the end. Safe to call from many threads."""

    def prefetch(self, ranges: NDArray[np.int64]) -> None:
        """Be told which ranges, (n, 2) offset and number of bytes, will be read, in about this order."""

    def close(self) -> None: ...


class LocalSource:
    """A file, opened when the first byte is read."""

    identity, reads_ahead = "", False

    def __init__(self, path: Path) -> None:
        """Stand for the file at `path`."""
        self.place = path
        self._file: BinaryIO | None = None
        self._lock = threading.Lock()

    def open(self) -> BinaryIO:
        """Open the file for reading directories."""
        return self.place.open("rb")

    def read(self, offset: int, count: int) -> bytes:
        """Return bytes, fewer past the end."""
        file = self._file or self._opened()
        if _HAS_PREAD:
            return os.pread(file.fileno(), count, offset)
        with self._lock:
            file.seek(offset)
            return file.read(count)

    def _opened(self) -> BinaryIO:
        with self._lock:
            if self._file is None:
                self._file = self.place.open("rb", buffering=0)
            return self._file

    def prefetch(self, ranges: NDArray[np.int64]) -> None:
        """Leave reading ahead to the system."""

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
