"""Locks between processes, and who holds them."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import stat
import sys
import time
import warnings
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from histofast._files.failing import write_error
from histofast._files.names import shortened
from histofast._stopping import stop_if_asked
from histofast._words import one_line
from histofast.errors import WriteError

if sys.platform != "win32":
    import fcntl

_HELD = {errno.EAGAIN, errno.EACCES}
# What flock says where there are no locks; 524 is the kernel's own ENOTSUPP, which NFS lets out.
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, 524}
_POLL_S = 0.1

_without_locks: set[int] = set()  # devices of which it was said


class NoLocksWarning(UserWarning):
    """A folder is on a file system without locks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Holder:
    """Who holds a lock.

    Attributes:
        host: name of the machine.
        pid: of the process.
        since: when it took the lock.
    """

    host: str
    pid: int
    since: datetime

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since:%Y-%m-%d %H:%M:%S}"


class Lock:
    """Keeps two processes from making one file at the same time.

    The lock is the operating system's: when its owner dies, however it dies, the lock is free. Lock
    files lie in `<folder>/.locks` and stay there: removing one that somebody is about to take would
    let two owners in. While it is held such a file tells by whom, see `holder`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, Lock(f"{folder}/a.h5") as held:
        ...     held
        True
    """

    def __init__(self, path: Path | str) -> None:
        path = Path(path)
        folder = path.parent / ".locks"
        self.path = folder / f"{shortened(path.name, folder.parent)}.lock"
        self._file: Any = None

    def acquire(self, *, wait_s: float = 0.0) -> bool:
        """Take the lock; whether it is now held.

        Args:
            wait_s: how long to wait where somebody else holds it.

        Raises:
            Interrupted: the work is to end before somebody gave it back.
            WriteError: the folder cannot be written, or a link lies where the lock file belongs.
        """
        until = time.monotonic() + wait_s
        while not self._try():
            if time.monotonic() >= until:
                return False
            stop_if_asked()
            time.sleep(min(_POLL_S, wait_s))
        return True

    def _try(self) -> bool:
        if self._file is not None:
            return True
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file: Any = open(self.path, "r+b", buffering=0, opener=_open_lock_file)  # noqa: SIM115
        except OSError as error:
            raise write_error(self.path, error) from error
        try:
            is_held = _lock_or_note(file.fileno(), self.path)
            # Whoever removes the folder of locks by hand takes the file from those who wait for it.
            if is_held and has_name(file.fileno(), self.path):
                self._file, file = file, None
                self._say_who()
        except OSError as error:
            raise write_error(self.path, error) from error
        finally:
            if file is not None:
                file.close()
        return self._file is not None

    def _say_who(self) -> None:
        me = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": datetime.now().astimezone().isoformat(timespec="seconds"),
        }
        with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
            if os.fstat(self._file.fileno()).st_nlink <= 1:  # never into a file of another name
                self._file.truncate(0)
                self._file.write(json.dumps(me).encode() + b"\n")

    def holder(self) -> Holder | None:
        """Who holds the lock, as its file tells; None where it does not tell.

        Example:
            >>> import tempfile
            >>> with tempfile.TemporaryDirectory() as folder, Lock(f"{folder}/a.h5"):
            ...     Lock(f"{folder}/a.h5").holder().pid == os.getpid()
            True
        """
        try:
            with open(self.path, "rb", opener=open_plain) as file:
                said = json.loads(file.read(4096))
            pid, since = int(said["pid"]), datetime.fromisoformat(said["since"])
            return Holder(host=one_line(said["host"])[:255], pid=pid, since=since)
        except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
            return None

    def is_held(self) -> bool:
        """Whether somebody has the lock now, without taking it; where nobody can tell, what its file says.

        Example:
            >>> import tempfile
            >>> with tempfile.TemporaryDirectory() as folder, Lock(f"{folder}/a.h5") as lock:
            ...     Lock(f"{folder}/a.h5").is_held(), Lock(f"{folder}/b.h5").is_held()
            (True, False)
        """
        try:
            with open(self.path, "rb", opener=open_plain) as file:
                return _is_locked(file.fileno())
        except OSError:
            return self.holder() is not None

    def release(self) -> None:
        """Give the lock back; safe when it is not held."""
        file, self._file = self._file, None
        if file is None:
            return
        with file, contextlib.suppress(OSError):
            if os.fstat(file.fileno()).st_nlink <= 1:
                file.truncate(0)
            _unlock(file.fileno())  # a forked child may have the file open as well

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self.release()


def open_plain(path: str, flags: int) -> int:
    """Open a file that is no link, without waiting where it is a pipe."""
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    return os.open(path, flags, 0o666)  # as `open` makes files: none is a program


def _open_lock_file(path: str, flags: int) -> int:
    try:
        descriptor = open_plain(path, flags | os.O_CREAT)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise WriteError(f"cannot lock {path}: it is a link, remove it") from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise WriteError(f"cannot lock {path}: it is no file, remove it")
    return descriptor


def has_name(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one of that path."""
    about = os.fstat(descriptor)
    if about.st_nlink > 0:
        return True
    try:  # some file systems count no links
        return os.path.samestat(about, path.stat())
    except FileNotFoundError:
        return False


def try_lock(descriptor: int) -> bool:
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


def _is_locked(descriptor: int) -> bool:
    if sys.platform == "win32":
        import filelock

        if filelock.lock_descriptor(descriptor, blocking=False):
            filelock.unlock_descriptor(descriptor)
            return False
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            return True
        raise
    return False


def _lock_or_note(descriptor: int, path: Path) -> bool:
    """As `try_lock`; where there are no locks, say so once and let everybody in."""
    try:
        if sys.platform == "win32":
            import filelock  # not before somebody wants a lock: it loads slowly

            return filelock.lock_descriptor(descriptor, blocking=False)
        return try_lock(descriptor)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        device = os.fstat(descriptor).st_dev
        if device not in _without_locks:
            _without_locks.add(device)
            folder = path.parent.parent
            warnings.warn(
                f"{folder} is on a file system without locks ({one_line(error.strerror)}): files stay "
                "whole and leases keep two runs from one slide, but two processes may do other work twice",
                NoLocksWarning,
                stacklevel=4,
            )
        return True


def _unlock(descriptor: int) -> None:
    if sys.platform == "win32":
        import filelock

        filelock.unlock_descriptor(descriptor)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
