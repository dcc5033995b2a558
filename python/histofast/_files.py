"""Files that are whole or not there, and locks between processes. The door to filelock.

Every file that is made here is made in one way: a hidden temporary beside its place, locked while
its owner lives; its bytes on the disk; the name; the folder on the disk. What a killed process
leaves is a temporary that nobody has locked, and `remove_stale_temporaries` finds it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from histofast._words import one_line
from histofast.errors import NoSpaceError, WriteError

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
_TEMPORARY_NAME = re.compile(r"\..+\.\d+\.[0-9a-f]{8}\.tmp")
_HELD = {errno.EAGAIN, errno.EACCES}


@contextlib.contextmanager
def replacing(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a path to write to; what is there at the end becomes `path`, if nothing raised.

    Two threads or processes may write the same `path`: each has a file of its own.

    Raises:
        FileExistsError: `path` exists and `overwrite` is False.
        FileNotFoundError: the folder does not exist.
        WriteError: the folder cannot be written, or its disk is full.
    """
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists: choose another name, or ask to overwrite it")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent} to write {path.name} in")
    try:
        pending = Temporary(path)
    except OSError as error:
        raise write_error(path, error) from error
    try:
        yield pending.path
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
        while True:
            name = f".{final.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
            self.path = final.with_name(name)
            self._is_ours = True  # before it is there: a signal may come right after its making
            self.raw = open(self.path, "x+b", buffering=0)  # noqa: PTH123, SIM115
            # A sweeper may have come between creation and lock; it would have left no name.
            if _may_stay(self.raw.fileno()):
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

    def _allocate(self, start: int, length: int) -> None:
        if not hasattr(os, "posix_fallocate") or length == 0:
            return
        try:
            os.posix_fallocate(self.raw.fileno(), start, length)
        except OSError as error:
            if error.errno not in {errno.EOPNOTSUPP, errno.EINVAL}:  # reserving is optional
                raise

    def write(self, offset: int, data: NDArray[Any]) -> None:
        """Write the bytes of `data` at `offset`, all of them."""
        view = data.data.cast("B") if data.size else memoryview(b"")
        self.raw.seek(offset)
        while view:
            view = view[self.raw.write(view) :]

    def sync(self) -> None:
        """Wait until the file's bytes are on the disk."""
        with self.path.open("r+b") as file:  # a library may have put another file there
            os.fsync(file.fileno())

    def keep(self) -> None:
        """Give the file its final name, for good."""
        if sys.platform == "win32":
            self.raw.close()  # Windows renames no open file
        self.path.replace(self.final)
        self._is_ours = False
        self.raw.close()
        if sys.platform != "win32":
            folder = os.open(self.final.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

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


def remove_stale_temporaries(folder: Path | str) -> list[Path]:
    """Remove what killed writers left in `folder` and below; those at work are not touched.

    Args:
        folder: where files are made; may be missing.

    Returns:
        The files removed, sorted.
    """
    removed = []
    for path in sorted(Path(folder).rglob(".*.tmp")):
        if not _TEMPORARY_NAME.fullmatch(path.name):
            continue
        # The sweep is optional. Open for writing: network file systems lock no other file.
        with contextlib.suppress(OSError), path.open("r+b") as file:
            if _try_lock(file.fileno()):
                path.unlink()
                removed.append(path)
    return removed


def _may_stay(descriptor: int) -> bool:
    """Lock a file just made; whether no sweeper has it, or had it and removed its name."""
    with contextlib.suppress(OSError):  # a file system without locks sweeps nothing either
        if not _try_lock(descriptor):
            return False
    return os.fstat(descriptor).st_nlink > 0


def _try_lock(descriptor: int) -> bool:
    """Lock an open file for this process without waiting; whether it is held now."""
    if sys.platform == "win32":
        return True  # an open file cannot be removed there: no lock needed
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            return False
        raise
    return True


class Lock:
    """Keeps two processes from making one file at the same time.

    The lock is the operating system's: when its owner dies, however it dies, the lock is free. Lock
    files are empty, lie in `<folder>/.locks` and stay there: removing one that somebody is about to
    take would let two owners in.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, Lock(f"{folder}/a.h5") as held:
        ...     held
        True
    """

    def __init__(self, path: Path | str) -> None:
        import filelock  # not before somebody wants a lock: it loads slowly

        path = Path(path)
        self.path = path.parent / ".locks" / f"{path.name}.lock"
        # One object may be taken in the thread that plans and given back in the one that writes.
        self._lock = filelock.FileLock(self.path, thread_local=False)

    def acquire(self) -> bool:
        """Take the lock if it is free, without waiting; whether it is now held.

        Raises:
            WriteError: the folder cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except TimeoutError:  # an OSError too
            return False
        except OSError as error:
            raise write_error(self.path, error) from error
        return True

    def release(self) -> None:
        """Give the lock back; safe when it is not held."""
        self._lock.release()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


def write_error(path: Path, error: BaseException, *, needs_bytes: int | None = None) -> WriteError:
    """Say in one line why `path` cannot be written; HDF5's errors are understood as well."""
    if isinstance(error, WriteError):
        return error
    code = getattr(error, "errno", None)
    inner = re.search(r"errno = (\d+)", str(error))  # HDF5 hides it in the text
    if inner:
        code = int(inner[1])
    if code in _NO_SPACE:
        needs = "" if needs_bytes is None else f" needs {needs_bytes / 1e6:.1f} MB"
        return NoSpaceError(
            f"no space left on {path.parent}: {path.name}{needs}; free some or choose another folder"
        )
    return WriteError(f"cannot write {path}: {os.strerror(code) if code else one_line(error)}")
