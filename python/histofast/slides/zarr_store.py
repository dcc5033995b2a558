"""Where the documents and chunks of an OME-Zarr lie: a folder in, bytes out.

A slide is a folder of the name `x.zarr`, or one with a document of Zarr's in it. Nothing is opened that is no
file, and nothing is read that is longer than who asks for it allows.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote

from histofast._remote import Address, Place

SUFFIX = ".zarr"
GROUP_DOCUMENTS = ("zarr.json", ".zgroup", ".zattrs")  # of format 3; of format 2
_DOCUMENTS = (*GROUP_DOCUMENTS, ".zarray")
# One of them stands in the attributes of whatever holds pictures.
_OF_PICTURES = (b'"multiscales"', b'"bioformats2raw.layout"', b'"plate"')
MAX_DOCUMENT_BYTES = 4 << 20
_HEAD_BYTES, _TAIL_BYTES = 1 << 20, 1 << 16
_NONBLOCKING = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


class Store(Protocol):
    """Where an OME-Zarr lies; keys are parted by slashes."""

    def read(self, key: str, *, most_bytes: int) -> bytes | None:
        """Return what lies under a key; None where nothing does.

        Raises:
            ValueError: it is longer than `most_bytes`, or no file.
            OSError: it cannot be read.
        """

    def read_part(self, key: str, start: int, count: int) -> bytes | None:
        """Return `count` bytes from `start` on, or from the end where that is negative; fewer at the end.

        Raises:
            ValueError: it is no file.
            OSError: it cannot be read.
        """

    def folders(self, key: str) -> list[str]:
        """Return the names of the folders in a folder, sorted; none where it cannot be listed."""

    def has_chunks(self, key: str) -> bool:
        """Whether anything but documents lies in the folder of an array, as far as that is told soon."""

    def mark(self, key: str) -> bytes:
        """Return what tells the content of a file from others: parts of it, or its version.

        Raises:
            ValueError: it is no file.
            OSError: it cannot be read.
        """

    @property
    def reads_ahead(self) -> bool:
        """Whether each request waits long for its answer, so that several should be under way."""


class FolderStore:
    """An OME-Zarr in a folder."""

    reads_ahead = False

    def __init__(self, root: Path) -> None:
        self._root = str(root)

    def read(self, key: str, *, most_bytes: int) -> bytes | None:
        return self._read(key, 0, None, most_bytes)

    def read_part(self, key: str, start: int, count: int) -> bytes | None:
        return self._read(key, start, count, count)

    def folders(self, key: str) -> list[str]:
        try:
            with os.scandir(f"{self._root}/{key}") as entries:
                return sorted(entry.name for entry in entries if entry.is_dir())
        except OSError:
            return []

    def has_chunks(self, key: str) -> bool:
        try:
            with os.scandir(f"{self._root}/{key}") as entries:
                return any(entry.name not in _DOCUMENTS for entry in entries)
        except OSError:
            return False

    def mark(self, key: str) -> bytes:
        head = self.read_part(key, 0, _HEAD_BYTES)
        if head is None:
            return b"absent"
        tail = self.read_part(key, -_TAIL_BYTES, _TAIL_BYTES) or b""
        return b"%d:%d:%b%b" % (len(head), len(tail), head, tail)

    def _read(self, key: str, start: int, count: int | None, most_bytes: int) -> bytes | None:
        try:
            # Of a named pipe nobody waits for the other end.
            descriptor = os.open(f"{self._root}/{key}", os.O_RDONLY | _NONBLOCKING)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ValueError(f"{key} is no file")
            if count is None:
                count = status.st_size
            if count > most_bytes:
                raise ValueError(f"{key} must have at most {most_bytes:,} bytes, got {count:,}")
            if start:
                os.lseek(descriptor, max(0, status.st_size + start) if start < 0 else start, 0)
            return os.read(descriptor, count)
        finally:
            os.close(descriptor)


def is_zarr(path: Place) -> bool:
    """Whether a path is of a folder that Zarr wrote, as its name or a document in it says.

    Of an address the name of the object or of a folder above it tells.
    """
    if isinstance(path, Address):
        return any(part.lower().endswith(SUFFIX) for part in path.key.split("/"))
    try:
        return path.is_dir() and (
            path.suffix.lower() == SUFFIX or any((path / name).is_file() for name in _DOCUMENTS)
        )
    except (OSError, ValueError):  # who opens it says why
        return False


def has_other_things(path: Path) -> bool:
    """Whether a Zarr folder says what it holds, and that is no picture: tables, features, a SpatialData store."""
    store = FolderStore(path)
    try:
        found = [store.read(name, most_bytes=MAX_DOCUMENT_BYTES) for name in _DOCUMENTS]
    except (OSError, ValueError):  # who opens it says why
        return False
    text = b"".join(document for document in found if document is not None)
    return bool(text) and not any(sign in text for sign in _OF_PICTURES)


def slide_name(path: Place) -> str:
    """What a slide is called: its name without the suffix, of a Zarr folder without `.ome.zarr`.

    Of an image inside a Zarr folder, `x.zarr/1`, it is `x-1`.

    Example:
        >>> [slide_name(Path(name)) for name in ("a/b.svs", "b.ome.tif", "b.ome.zarr", "b.zarr/A/1")]
        ['b', 'b.ome', 'b', 'b-A-1']
    """
    if isinstance(path, Path):
        parts: Sequence[str] = path.parts
    else:
        parts = (unquote(path.key) if path.is_web else path.key).split("/")
    for depth, part in enumerate(parts):
        stem = Path(part).stem
        if Path(part).suffix.lower() == SUFFIX:
            stem = Path(stem).stem if Path(stem).suffix.lower() == ".ome" else stem
            return "-".join((stem, *parts[depth + 1 :]))
    return path.stem
