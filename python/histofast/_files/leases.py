"""Leases on files that are being made, for folders whose locks other machines do not see.

A lease is a small file beside the lock. It says whose it is, and its holder touches it now and then. Whoever
has seen one unchanged for five minutes of his own clock may take it over: clocks of machines are never
compared. That of a process which has ended for certain is taken over at once.

The last of a chain holds: the first is `a.h5.lease`, and who takes over from a lease makes `a.h5.<mark>.lease`
with the mark of that lease. A name is used once, and only one can make it (O_EXCL), so of two that take
over one wins. Who gives a lease back takes over from himself first, which nobody else can then, and
removes the chain beginning with its first. A lease counts only if the chain leads to it: who
comes late, to a chain that is gone, finds that out.

It is a courtesy and no lock: who sleeps for five minutes between two of these steps may take a lease from
another, who notices. Two may then make one file; it has the same bytes, and is renamed when it is whole.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from histofast._files.failing import write_error
from histofast._files.locks import Holder, open_plain
from histofast._files.machine import Machine, this_machine
from histofast._files.names import shortened
from histofast._words import one_line
from histofast.errors import WriteError

BEAT_S = 30.0  # between the signs of life of a holder
STALE_S = 300.0  # without one, until others take over

_MOST_BYTES = 4096
_NOT_FIRST = re.compile(r"(?P<name>.+)\.[0-9a-f]{16}\.lease")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Link:
    """One lease of a chain, as it was read."""

    path: Path
    data: bytes
    touched_ns: int

    @property
    def mark(self) -> str:
        """Names who comes after; of no two leases the same, for each has a random word in it."""
        return hashlib.sha256(self.data).hexdigest()[:16]

    def holder(self) -> Holder | None:
        """Whose it is; None where it does not tell."""
        said = self._said()
        try:
            pid, since = int(said["pid"]), datetime.fromisoformat(said["since"])
            return Holder(host=one_line(said["host"])[:255], pid=pid, since=since)
        except (ValueError, TypeError, KeyError, OverflowError):
            return None

    def is_dead(self) -> bool:
        """Whether its holder has ended for certain."""
        said = self._said()
        try:
            machine = Machine(**{each.name: str(said[each.name]) for each in fields(Machine)})
            return this_machine().is_gone(machine, int(said["pid"]))
        except (ValueError, TypeError, KeyError, OverflowError):
            return False

    def _said(self) -> dict[str, Any]:
        with contextlib.suppress(ValueError, RecursionError):
            said = json.loads(self.data)
            if isinstance(said, dict):
                return said
        return {}


class Sightings:
    """When leases of others were last seen to change, by the clock of who looks.

    Args:
        clock: seconds, of one's own.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[Path, tuple[_Link, float]] = {}

    def silent_s(self, link: _Link) -> float:
        """Note what a lease looks like; for how long it has been so."""
        now_s = self._clock()
        former, since_s = self._seen.get(link.path, (None, now_s))
        if link != former:
            self._seen[link.path], since_s = (link, now_s), now_s
        return now_s - since_s


class Lease:
    """A lease on making a file; see above.

    Args:
        path: of the file that is made.
        sightings: what one has seen of others, kept from one try to the next.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     mine, other = Lease(f"{folder}/a.h5", Sightings()), Lease(f"{folder}/a.h5", Sightings())
        ...     mine.acquire(), other.acquire(), other.holder().pid == os.getpid()
        (True, False, True)
    """

    def __init__(self, path: Path | str, sightings: Sightings) -> None:
        path = Path(path)
        folder = path.parent / ".locks"
        self._name = shortened(path.name, path.parent)
        self.path = folder / f"{self._name}.lease"
        self._sightings = sightings
        self._mine: _Link | None = None

    def acquire(self) -> bool:
        """Take the lease; whether it is now held.

        Raises:
            WriteError: the folder cannot be read or written, or its disk is full.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return self._mine is not None or self._try()
        except OSError as error:
            raise write_error(self.path, error) from error

    def _try(self) -> bool:
        chain = self._chain()
        if chain and not chain[-1].is_dead() and self._sightings.silent_s(chain[-1]) < STALE_S:
            return False
        mine = self._make(chain[-1] if chain else None)
        if mine is None:
            return False
        marks = [link.mark for link in self._chain()]
        if mine.mark not in marks:  # the chain was gone before
            self._remove_after(mine)
        elif marks[-1] == mine.mark:
            self._mine = mine
        return self._mine is not None

    def _chain(self) -> list[_Link]:
        chain: list[_Link] = []
        while (link := _read(self._after(chain[-1] if chain else None))) is not None:
            if link.mark in [former.mark for former in chain]:  # somebody has copied one
                break
            chain.append(link)
        return chain

    def _after(self, link: _Link | None) -> Path:
        """The place of who takes over from a lease; the first where there is none."""
        if link is None:
            return self.path
        return self.path.with_name(f"{self._name}.{link.mark}.lease")

    def _make(self, former: _Link | None) -> _Link | None:
        """Take over from `former`; None where somebody was faster."""
        me = asdict(this_machine()) | {
            "pid": os.getpid(),
            "since": datetime.now().astimezone().isoformat(timespec="seconds"),
            "word": secrets.token_hex(8),
        }
        path, data = self._after(former), json.dumps(me).encode() + b"\n"
        return _Link(path=path, data=data, touched_ns=0) if _create(path, data) else None

    def beat(self) -> bool:
        """Show that the holder lives; whether the lease is still held, as far as one can tell."""
        mine = self._mine  # another thread may release it meanwhile
        with contextlib.suppress(OSError, WriteError):  # a lost connection: nobody sees it then
            if mine is not None:
                _touch(mine.path)
            return self.is_held()
        return True

    def is_held(self) -> bool:
        """Whether it is held here, and nobody has taken it over.

        Raises:
            WriteError: nobody can tell.
        """
        mine = self._mine
        try:
            return mine is not None and [link.mark for link in self._chain()][-1:] == [mine.mark]
        except OSError as error:
            raise write_error(self.path, error) from error

    def holder(self) -> Holder | None:
        """Whose it is, as it tells; None where it does not tell, or nobody has it."""
        with contextlib.suppress(OSError):
            chain = self._chain()
            return chain[-1].holder() if chain else None
        return None

    def touched_s(self) -> float | None:
        """When its holder last showed that it lives, by the clock of the folder; None where nobody has it."""
        with contextlib.suppress(OSError):
            chain = self._chain()
            if chain and not chain[-1].is_dead():
                return chain[-1].touched_ns / 1e9
        return None

    def release(self) -> None:
        """Give it back; safe when it is not held."""
        mine, self._mine = self._mine, None
        if mine is None:
            return
        with contextlib.suppress(OSError):
            try:
                end = self._make(mine)  # from here on nobody takes over
            except OSError:  # a full disk
                if [link.mark for link in self._chain()][-1:] == [mine.mark]:
                    _remove(mine.path)
                return
            chain = self._chain()
            if end is not None and chain and chain[-1].mark == end.mark:
                for link in chain:
                    _remove(link.path)
            elif end is not None and end.mark not in [link.mark for link in chain]:
                self._remove_after(end)

    def _remove_after(self, link: _Link) -> None:
        """Remove what no chain leads to; the first place of all may be another's by now."""
        if link.path != self.path:
            _remove(link.path)


def remove_dead_leases(folder: Path | str) -> None:
    """Remove what processes of this machine that were killed left in `folder` and below."""
    links = []
    for path in sorted(Path(folder).rglob(".locks/*.lease")):
        with contextlib.suppress(OSError):
            link = _read(path)
            if link is not None and link.is_dead():
                links.append(link)
    names = {link.path: _name_of(link.path) for link in links}
    for made in sorted(set(names.values())):
        lease = Lease(made, Sightings())
        with contextlib.suppress(OSError):
            if lease._chain() and lease._try():  # none of the living
                lease.release()
            left = {link.mark for link in lease._chain()}
            for link in links:
                if names[link.path] == made and link.mark not in left:
                    lease._remove_after(link)


def _name_of(lease: Path) -> Path:
    """The file that a lease is on."""
    found = _NOT_FIRST.fullmatch(lease.name)
    name = found["name"] if found else lease.name.removesuffix(".lease")
    return lease.parent.parent / name


# --- What is asked of a file system -----------------------------------------------------------------


def _create(path: Path, data: bytes) -> bool:
    """Make a file; whether it was not there."""
    try:
        file = open(path, "xb", buffering=0)  # noqa: PTH123, SIM115
    except FileExistsError:
        return False
    try:
        with file:
            file.write(data)
    except BaseException:
        _remove(path)
        raise
    return True


def _read(path: Path) -> _Link | None:
    try:
        with open(path, "rb", opener=open_plain, buffering=0) as file:  # opened: NFS asks anew
            data = file.read(_MOST_BYTES)
            return _Link(path=path, data=data, touched_ns=os.fstat(file.fileno()).st_mtime_ns)
    except OSError as error:
        if error.errno in (
            errno.ENOENT,
            errno.ESTALE,
        ):  # removed, maybe meanwhile on another machine
            return None
        raise


def _touch(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):  # who looks along the chain finds out
        os.utime(path)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
