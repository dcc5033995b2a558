"""Files that are whole or not there."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histofast._files.failing import FULL, write_error
from histofast._files.locks import NO_LOCKS, has_name, open_plain, try_lock
from histofast._files.machine import this_machine
from histofast._files.names import longest_name_bytes, shortened

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TEMPORARY_NAME = re.compile(r"\..+\.\d+\.[0-9a-f]{8}(?:-(?P<machine>[0-9a-f]{6}))?\.tmp")

# What file systems say to what they do not do; 524 is the kernel's own ENOTSUPP.
_NOT_DONE_HERE = {errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.EBADF, 524}
_LONG_S = 7 * 24 * 3600  # no living writer leaves its file alone for so long
_CHUNK_BYTES = 16 << 20
_LOCK = ".lock"  # of a temporary folder
_swept: set[Path] = set()  # folders, by this process


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, where there is none.

    Raises:
        WriteError: it cannot be made, or its disk is full.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(path, error) from error


def check_target(path: Path, *, overwrite: bool) -> None:
    """Refuse a path that `replacing` would, before the work whose result it is for.

    Raises:
        FileExistsError: it exists and `overwrite` is False.
        FileNotFoundError: its folder does not exist.
        WriteError: its folder cannot be looked at.
    """
    try:
        is_there, has_folder = path.exists(), path.parent.is_dir()
    except OSError as error:
        raise write_error(path, error) from error
    if is_there and not overwrite:
        raise FileExistsError(f"{path} exists: choose another name, or ask to overwrite it")
    if not has_folder:
        raise FileNotFoundError(f"no folder {path.parent} to write {path.name} in")


@contextlib.contextmanager
def replacing(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a path to write to; what is there at the end becomes `path`, if nothing raised.

    Two threads or processes may write the same `path`: each has a file of its own.

    Raises:
        FileExistsError: `path` exists and `overwrite` is False.
        FileNotFoundError: the folder does not exist.
        WriteError: the folder cannot be written, or its disk is full.
    """
    check_target(path, overwrite=overwrite)
    yield from _kept_at_the_end(Temporary, path)


@contextlib.contextmanager
def replacing_both(path: Path, other: str, *, overwrite: bool) -> Iterator[Path]:
    """Yield the path of a file of its final name in a fresh folder, where `other` may be beside it.

    What is there at the end takes the places of `path` and of the file `other` beside it, that one
    first, if nothing raised. Whatever ends the process between them: `path` is as it was.

    Raises:
        FileExistsError: one of them exists and `overwrite` is False.
        FileNotFoundError: the folder does not exist.
        WriteError: the folder cannot be written, or its disk is full.
    """
    for each in (path, path.with_name(other)):
        check_target(each, overwrite=overwrite)
    yield from _kept_at_the_end(lambda final: _TemporaryFolder(final, other), path)


@contextlib.contextmanager
def replacing_folder(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a path to make a folder at; what is there at the end becomes `path`, if nothing raised.

    What is replaced is out of its place for a moment: whatever ends the process then leaves nothing at `path`.

    Raises:
        FileExistsError: `path` exists and `overwrite` is False.
        FileNotFoundError: the folder above it does not exist.
        WriteError: that folder cannot be written, or its disk is full.
    """
    check_target(path, overwrite=overwrite)
    yield from _kept_at_the_end(_WholeFolder, path)


@contextlib.contextmanager
def passing_folder(folder: Path, name: str) -> Iterator[Path]:
    """Yield a fresh, hidden folder in `folder`, which is removed at the end.

    What killed processes left of such in `folder` is removed when a process makes its first there.

    Args:
        folder: made where there is none.
        name: what it is for; part of its name.

    Raises:
        WriteError: it cannot be made, or what is written to it finds its disk full.
    """
    make_folder(folder)
    try:
        pending = _TemporaryFolder(folder / name, "")
    except OSError as error:
        raise write_error(folder / name, error) from error
    try:
        yield pending.path.parent
    finally:
        pending.discard()


def _kept_at_the_end(
    make: Callable[[Path], Temporary | _TemporaryFolder], path: Path
) -> Iterator[Path]:
    try:
        pending = make(path)
    except OSError as error:
        raise write_error(path, error) from error
    try:
        try:
            yield pending.path
        except OSError as error:
            if error.errno in FULL:
                raise write_error(path, error) from error
            raise
        try:
            pending.sync()
            pending.keep()
        except OSError as error:
            raise write_error(path, error) from error
    finally:
        pending.discard()


class Temporary:
    """A hidden file beside `final`, locked while its owner lives, that becomes `final` or nothing.

    Its methods raise OSError as it comes; see `write_error`.
    """

    def __init__(self, final: Path) -> None:
        self.final = final
        self.path = final
        self._is_ours = False
        _prepare(final)
        while True:
            self.path = _hidden(final)
            self._is_ours = True  # before it is there: a signal may come right after its making
            self.raw = open(self.path, "x+b", buffering=0)  # noqa: PTH123, SIM115
            # A sweeper may have come between creation and lock; it would have left no name.
            if _may_stay(self.raw.fileno(), self.path):
                return
            self.raw.close()

    def reserve(self) -> None:
        """Make the file system promise the space of the file as long as it is now."""
        self._allocate(0, os.fstat(self.raw.fileno()).st_size)

    def make_sure_of(self, more_bytes: int) -> None:
        """Raise OSError if the disk has no room for so much more; HDF5 would crash when it writes."""
        size = os.fstat(self.raw.fileno()).st_size
        try:
            self._allocate(size, more_bytes)
        finally:
            os.ftruncate(self.raw.fileno(), size)

    def make_sure_of_length(self, length: int) -> None:
        """Raise OSError if no file may be so long here; takes no space."""
        size = os.fstat(self.raw.fileno()).st_size
        try:
            os.ftruncate(self.raw.fileno(), max(size, length))
        finally:
            os.ftruncate(self.raw.fileno(), size)

    def _allocate(self, start: int, length: int) -> None:
        if not hasattr(os, "posix_fallocate") or length == 0:
            return
        try:
            os.posix_fallocate(self.raw.fileno(), start, length)
        except OSError as error:
            if error.errno not in _NOT_DONE_HERE:  # reserving is optional
                raise

    def write(self, offset: int, data: NDArray[Any]) -> None:
        """Write the bytes of `data` at `offset`, all of them."""
        view = data.data.cast("B") if data.size else memoryview(b"")
        self.raw.seek(offset)
        while view:
            view = view[self.raw.write(view) :]

    def read(self, offset: int, length: int) -> Iterator[bytes]:
        """Yield what was written from `offset` on, some of it at a time."""
        end = offset + length
        while offset < end:
            self.raw.seek(offset)
            chunk = self.raw.read(min(_CHUNK_BYTES, end - offset))
            if not chunk:
                raise OSError(errno.EIO, "the file was made shorter by somebody else")
            offset += len(chunk)
            yield chunk

    def sync(self) -> None:
        """Wait until the file's bytes are on the disk."""
        _sync_file(self.path)  # by its name: a library may have put another file there

    def keep(self) -> None:
        """Give the file its final name, for good."""
        if sys.platform == "win32":
            self.raw.close()  # Windows renames no open file
        self.path.replace(self.final)
        self._is_ours = False
        self.raw.close()
        if sys.platform != "win32":
            _sync_folder(self.final.parent)

    def discard(self) -> None:
        """Remove the file; nothing after `keep()`. Safe to call twice."""
        if hasattr(self, "raw"):  # else it was interrupted before it was there
            self.raw.close()
        if self._is_ours:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                self.path.unlink()
        self._is_ours = False

    def __del__(self) -> None:
        # A signal may come between its making and the moment that somebody is there to remove it.
        with contextlib.suppress(OSError):
            self.discard()


class _TemporaryFolder:
    """A hidden folder beside `final` for a file of its name and one of the name `other`.

    A file in it is locked while its owner lives. Methods raise OSError as it comes.
    """

    def __init__(self, final: Path, other: str) -> None:
        self._final = final
        self._other = other
        self._folder: Path | None = None
        _prepare(final)
        while True:
            folder = _hidden(final)
            self._folder = folder  # before it is there: a signal may come right after its making
            folder.mkdir()
            try:
                self._lock = open(folder / _LOCK, "x+b", buffering=0)  # noqa: PTH123, SIM115
            except FileNotFoundError:  # a sweeper came between the two
                continue
            if _may_stay(self._lock.fileno(), folder / _LOCK):
                self.path = folder / final.name
                return
            self._lock.close()

    def sync(self) -> None:
        for made in self._made():
            _sync_file(made)

    def keep(self) -> None:
        for made in self._made():
            made.replace(self._final.with_name(made.name))
        if sys.platform != "win32":
            _sync_folder(self._final.parent)

    def _made(self) -> list[Path]:
        other = self.path.with_name(self._other)
        return [other, self.path] if other.exists() else [self.path]

    def discard(self) -> None:
        if hasattr(self, "_lock"):
            self._lock.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = None

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            self.discard()


class _WholeFolder(_TemporaryFolder):
    """A hidden folder beside `final` for a folder that becomes `final` or nothing."""

    def __init__(self, final: Path) -> None:
        super().__init__(final, "")

    def sync(self) -> None:
        for path in self.path.rglob("*"):
            if path.is_file():
                _sync_file(path)

    def keep(self) -> None:
        if self._final.exists():  # a folder takes the place of an empty one only
            self._final.replace(self.path.with_name(".replaced"))
        self.path.replace(self._final)
        if sys.platform != "win32":
            _sync_folder(self._final.parent)


def _prepare(final: Path) -> None:
    """Refuse a name that is too long, and remove what killed writers left beside it."""
    if len(os.fsencode(final.name)) > longest_name_bytes(final.parent):
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), str(final))
    _sweep_once(final.parent)


def _hidden(final: Path) -> Path:
    short = shortened(final.name, final.parent)
    return final.with_name(f".{short}.{os.getpid()}.{secrets.token_hex(4)}-{_machine_mark()}.tmp")


def _sync_file(path: Path) -> None:
    """Wait until the bytes of a file are on the disk."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Wait until a new name is on the disk, where folders can be opened and synced."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # one that may be written and not read
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NOT_DONE_HERE:
            raise
    finally:
        os.close(descriptor)


def remove_stale_temporaries(folder: Path | str) -> list[Path]:
    """Remove what killed writers left in `folder` and below; those at work are not touched.

    Args:
        folder: where files are made; may be missing.

    Returns:
        The files removed, sorted.
    """
    return [path for path in sorted(Path(folder).rglob(".*.tmp")) if _is_removed(path)]


def _sweep_once(folder: Path) -> None:
    """Remove what killed writers left beside the first file that this process writes there."""
    folder = folder.absolute()
    if folder not in _swept:
        _swept.add(folder)
        for path in folder.glob(".*.tmp"):
            _is_removed(path)


def _is_removed(path: Path) -> bool:
    """Remove a temporary that nobody has locked; the sweep is optional, and no error stops it."""
    named = _TEMPORARY_NAME.fullmatch(path.name)
    if named is None:
        return False
    is_folder = path.is_dir() and not path.is_symlink()
    locked = path / _LOCK if is_folder else path
    # Open for writing: network file systems lock no other file.
    with contextlib.suppress(OSError), open(locked, "r+b", opener=open_plain) as file:
        if _is_left_behind(file.fileno(), is_of_here=named["machine"] in (None, _machine_mark())):
            shutil.rmtree(path) if is_folder else path.unlink()
            return True
    with contextlib.suppress(OSError):
        if is_folder:  # its maker died before it had a lock, or will make another
            path.rmdir()
            return True
    return False


def _is_left_behind(descriptor: int, *, is_of_here: bool) -> bool:
    """Whether nobody has locked an open temporary; where locks tell too little, touched it for long.

    Lustre (localflock) and NFS (nolock, local_lock) may lock among the processes of one machine only.
    """
    try:
        if not (is_free := try_lock(descriptor)) or is_of_here:
            return is_free
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return time.time() - os.fstat(descriptor).st_mtime > _LONG_S


def _machine_mark() -> str:
    return this_machine().kernel[:6]


def _may_stay(descriptor: int, path: Path) -> bool:
    """Lock a file just made; whether no sweeper has it, or had it and removed its name."""
    with contextlib.suppress(OSError):  # a file system without locks sweeps nothing either
        if not try_lock(descriptor):
            return False
    return has_name(descriptor, path)
